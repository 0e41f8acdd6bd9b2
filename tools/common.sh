# What the scripts here share; sourced.

say() { printf '%s\n' "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    has sudo && sudo -n "$@"
  fi
}

# Installs the package that has each of these names with apt, dnf, apk and brew; several for one, the first that there is.
# Only the program is wanted: RUNLEVEL=1 keeps Debian's package from starting a service where sysvinit runs the machine, and
# containers start none; under systemd it does start, and nothing simple prevents that.
# An update that fails for one source of several does not matter: the installation tells.
install_package() {
  if has apt-get; then
    as_root apt-get update
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends "$1"
  elif has dnf; then
    for package in $2; do
      as_root dnf install -y "$package" && return
    done
  elif has apk; then
    as_root apk add "$3"
  elif has brew; then
    brew install "$4"
  fi
}

# Prints the version of the server program $1.
version_of() { "$1" --version | sed -n 's/.* v=\([0-9.]*\).*/\1/p'; }
