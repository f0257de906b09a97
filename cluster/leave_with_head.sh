#!/usr/bin/env bash
# Ends what is left of Ray on a worker whose raylet ended, or whose head is gone for half a minute. start_node.sh leaves
# it behind: on machines that aren't ended by it, `ray down` stops only the head, and workers would keep their processes.
#
#     bash cluster/leave_with_head.sh ADDRESS PORT
set -uo pipefail

missed=0
while [ "$missed" -lt 6 ] && pgrep -xu "$UID" raylet >/dev/null; do
  sleep 5
  if timeout 5 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; then missed=0; else missed=$((missed + 1)); fi
done
ray stop --force
