#!/usr/bin/env bash
# Starts Ray on a node that setup_node.sh made ready, closed to those without the token.
#
#     bash cluster/start_node.sh ray start --head [OPTION...]
#     bash cluster/start_node.sh ray start --address=HEAD [OPTION...]
#
# What ran there of Ray is stopped before. The token is that of ~/.ray/auth_token, or RAY_AUTH_TOKEN.
set -euo pipefail

port=6379 # of the head: the only place where it's written

# shellcheck source=/dev/null
. ~/.dim_ray_shell
export RAY_AUTH_MODE=token
# A head gives a silent node up after five checks: 40 s, where Ray's default of 10 s a check makes 65.
export RAY_health_check_timeout_ms=5000
ulimit -n 65536 2>/dev/null || true # as many open files as the machine allows

arguments=() head='' blocks=''
for argument in "$@"; do
  case "$argument" in
    --head) argument="--head --port=$port --dashboard-host=127.0.0.1" ;;
    --address=*) head=${argument#*=} && argument="$argument:$port" ;;
    --block) blocks=1 ;;
  esac
  # shellcheck disable=SC2206 # ours have no spaces
  arguments+=($argument)
done
rm -f ~/.dim_ray_watcher
ray stop >/dev/null || true # `ray start` says what is in its way
[ -z "$blocks" ] || exec "${arguments[@]}"
"${arguments[@]}"
if [ -n "$head" ]; then
  setsid nohup bash "$(dirname "${BASH_SOURCE[0]}")/leave_with_head.sh" "$head" "$port" </dev/null >/dev/null 2>&1 &
fi
