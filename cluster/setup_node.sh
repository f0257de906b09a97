#!/usr/bin/env bash
# Makes a machine ready to be a node: the locked packages, and what every shell has to know.
#
#     bash cluster/setup_node.sh ENVIRONMENT    of every node: the folder of a Python environment, made where there is none
#     bash cluster/setup_node.sh --head         of the head, afterwards: commands join the cluster without being told
#
# The checkout that this file lies in is what runs. Nothing is installed or downloaded where the environment has what
# requirements.lock says, so that one environment can serve several machines, and a second call takes seconds.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
shell_file=~/.dim_ray_shell # what every shell reads

install() {
  local environment=$1
  if [ ! -x "$environment/bin/python" ]; then
    python3.11 -m venv "$environment" || {
      echo "error: no environment at $environment, and Python 3.11 with venv isn't there to make it." >&2
      exit 1
    }
  fi
  # One at a time where several machines share it.
  exec 9<"$environment/bin/python" && flock 9
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
    --requirement "$checkout/requirements.lock"
  exec 9<&-
}

write_shell_file() {
  cat >"$shell_file" <<END
# Written by $checkout/cluster/setup_node.sh.
case ":\$PATH:" in *":$1/bin:"*) ;; *) export PATH="$1/bin:\$PATH" ;; esac
export PYTHONPATH="$checkout"
export RAY_AUTH_MODE=token
END
  local line=". $shell_file"
  touch ~/.profile ~/.bashrc
  for file in ~/.profile ~/.bash_profile ~/.bashrc; do
    if [ -e "$file" ] && ! grep -qxF "$line" "$file"; then
      # On top: Debian's .bashrc ends early where a shell isn't interactive.
      printf '%s\n%s\n' "$line" "$(cat "$file")" >"$file.new"
      cat "$file.new" >"$file" # keeps owner, mode and link
      rm "$file.new"
    fi
  done
}

case "${1:-}" in
  --head)
    grep -q RAY_ADDRESS "$shell_file" || echo 'export RAY_ADDRESS=auto' >>"$shell_file"
    ;;
  "" | -*)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
  *)
    install "$1"
    write_shell_file "$(cd "$1" && pwd)"
    ;;
esac
