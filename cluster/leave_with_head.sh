#!/usr/bin/env bash
# Ends what is left of Ray on a worker whose raylet ended, or whose head is gone for half a minute. start_node.sh leaves
# it behind: on machines that aren't ended by it, `ray down` stops only the head, and workers would keep their processes.
#
#     bash cluster/leave_with_head.sh ADDRESS PORT
set -uo pipefail

own_file=~/.dim_ray_watcher # start_node.sh removes it: then this is about a Ray that was ended
echo $$ >"$own_file"
missed=0
while [ "$missed" -lt 6 ] && grep -qsx raylet /proc/[0-9]*/comm; do
  sleep 5
  if timeout 5 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; then missed=0; else missed=$((missed + 1)); fi
done
[ "$(cat "$own_file" 2>/dev/null)" = $$ ] || exit 0
# shellcheck source=/dev/null
. ~/.dim_ray_shell
ray stop --force
