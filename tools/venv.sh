#!/usr/bin/env bash
# Makes .venv with the project and its dependencies. Usage: tools/venv.sh [DIRECTORY]
set -eu

venv="${1:-.venv}"
python="${PYTHON:-python3}"

command -v "$python" >/dev/null 2>&1 || { echo "python3 is not installed: Python 3.11 or newer is needed" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "$("$python" --version) is too old: Python 3.11 or newer is needed (set PYTHON=/path/to/python3.11)" >&2
  exit 1
}
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
  # Debian keeps ensurepip in a package of its own.
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Debian package: python3-venv"
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install python3-venv; } </dev/null >/dev/null 2>&1 || true
  fi
  "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || {
    echo "$python can't make virtual environments: install the package python3-venv" >&2
    exit 1
  }
fi

[ -x "$venv/bin/python" ] && [ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
echo "installing stos and its dependencies into $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
