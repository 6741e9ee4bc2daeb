#!/usr/bin/env bash
# Makes .venv with the project and its dependencies. Usage: tools/venv.sh [DIRECTORY]
#
# Which Python: PYTHON, if it is set. Else python3, unless that was built without profile-guided optimization, as pyenv
# and `./configure && make` do, and the distribution's own, which has it, will do: the services take a sixth less
# processor time per write with it (docs/performance.md).
set -eu

venv="${1:-.venv}"

new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

optimized() {
  "$1" -c '
import sys, sysconfig
sys.exit("--enable-optimizations" not in (sysconfig.get_config_var("CONFIG_ARGS") or ""))' 2>/dev/null
}

# Debian keeps ensurepip in a package of its own.
makes_environments() {
  "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 && return
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Debian package: python3-venv"
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install python3-venv; } </dev/null >/dev/null 2>&1 || true
  fi
  "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

distributions=/usr/bin/python3
python="${PYTHON:-python3}"
if [ -z "${PYTHON:-}" ] && ! { new_enough python3 && optimized python3; } && [ -x "$distributions" ] \
  && new_enough "$distributions" && makes_environments "$distributions"; then
  python="$distributions"
fi

command -v "$python" >/dev/null 2>&1 || { echo "python3 is not installed: Python 3.11 or newer is needed" >&2; exit 1; }
new_enough "$python" || {
  echo "$("$python" --version) is too old: Python 3.11 or newer is needed (set PYTHON=/path/to/python3.11)" >&2
  exit 1
}
makes_environments "$python" || {
  echo "$python can't make virtual environments: install the package python3-venv" >&2
  exit 1
}

[ -x "$venv/bin/python" ] && [ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
echo "installing stos and its dependencies into $venv ($("$venv/bin/python" --version))"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
