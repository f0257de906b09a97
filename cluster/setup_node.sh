#!/usr/bin/env bash
# Makes a machine ready to be a node: the locked packages, and what its shells have to know.
#
#     bash cluster/setup_node.sh ENVIRONMENT    the folder of a Python environment, made where there is none
#     bash cluster/setup_node.sh --remove       takes our lines out of ~/.bashrc, the only file that it changes
#
# The checkout that this file lies in is what runs. Nothing is installed or downloaded where the environment has what
# requirements.lock says, so that one environment can serve several machines, and a second call takes seconds.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
begin='# >>> DiM on Ray; to take these lines out: setup_node.sh --remove'
end='# <<< DiM on Ray'

install() {
  if [ ! -x "$1/bin/python" ]; then
    python3.11 -m venv "$1" || {
      echo "error: no environment at $1, and Python 3.11 with venv isn't there to make it." >&2
      exit 1
    }
  fi
  # One at a time where several machines share it.
  exec 9<"$1/bin/python" && flock 9
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
    --requirement "$checkout/requirements.lock"
}

remove_lines() {
  [ ! -e ~/.bashrc ] || sed -i --follow-symlinks -e "/^$begin/,/^$end/d" -e "\$a\\" ~/.bashrc
  [ -s ~/.bashrc ] || rm -f ~/.bashrc
}

# At the end, so that no other Python comes first: Ray reads the file as an interactive shell does.
write_lines() {
  cat >>~/.bashrc <<END
$begin
export PATH="$1/bin:\$PATH" PYTHONPATH="$checkout" RAY_AUTH_MODE=token
# On a head, while it runs, commands join the cluster without being told.
! pgrep -xu "\$UID" gcs_server >/dev/null 2>&1 || export RAY_ADDRESS=auto
$end
END
}

case "${1:-}" in
  --remove) remove_lines ;;
  "" | -*)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
  *)
    install "$1"
    remove_lines
    write_lines "$(cd "$1" && pwd)"
    ;;
esac
