#!/usr/bin/env bash
# Checks a coordinator with a participant and an initiator that know nothing but the protocol buffers:
#
#   tests/python/run.sh http://127.0.0.1:7420
#
# The coordinator must allow endpoints on this machine: --set participants.allowed_hosts=127.0.0.1
# Any check's name after the URL runs only that one. And it lends its participant to `assent participant check`, until
# standard input ends:
#
#   tests/python/run.sh dialled
#   tests/python/run.sh session http://127.0.0.1:7420 shop/stock
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${CARGO_TARGET_DIR:-$root/target}/python

if [ $# -eq 0 ]; then
  echo "usage: run.sh URL [CHECK...] | dialled | session URL NAME" >&2
  exit 2
fi

if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3 python3-venv >&2
  else
    echo "run.sh: Python 3 cannot make a virtual environment; install python3-venv (Debian's name for it)" >&2
    exit 1
  fi
fi

# The copy of the requirements is made last, so an environment with a current one is whole.
if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv" >&2
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
  cp "$here/requirements.txt" "$venv/requirements.txt"
fi

stubs=$(mktemp -d)
trap 'rm -rf "$stubs"' EXIT
"$venv/bin/python" -m grpc_tools.protoc -I "$root/proto" \
  --python_out="$stubs" --grpc_python_out="$stubs" "$root"/proto/assent/v1/*.proto
case $1 in
  dialled | session) program=participate.py ;;
  *) program=assent_check.py ;;
esac
PYTHONPATH=$stubs PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" "$here/$program" "$@"
