#!/bin/sh
# Makes sure that there is tmux, in which a test looks at the screen of `fairlane top`. All it says goes to stderr.
set -u
cd "$(dirname "$0")/.." || exit 1
. tools/common.sh

has tmux && exit 0
say "There is no tmux here: installing it."
install_package tmux tmux tmux tmux </dev/null >&2
has tmux && exit 0
say "The tests need tmux, and it could not be installed here: apt-get, dnf, apk or brew install tmux"
exit 1
