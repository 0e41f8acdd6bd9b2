#!/bin/sh
# Fuzzes each target in fuzz/ for $1 seconds, or those that are named behind that. Installs cargo-fuzz where there is none.
# What was found and what was learned stays under target/fuzz.
set -u
cd "$(dirname "$0")/.." || exit 1
. tools/common.sh

cargo +nightly --version >/dev/null 2>&1 || { say "cargo-fuzz needs the nightly toolchain: rustup toolchain install nightly"; exit 1; }
if ! has cargo-fuzz; then
  say "There is no cargo-fuzz here: installing it."
  cargo install --locked cargo-fuzz || { say "It could not be installed."; exit 1; }
fi

seconds=$1
shift
for target in ${*:-addresses envelope replies tokens}; do
  learned=target/fuzz/corpus/$target found=target/fuzz/found/$target/
  mkdir -p "$learned" "$found"
  # One reply or record takes little memory, whatever it says of its sizes.
  cargo +nightly fuzz run --target-dir target/fuzz "$target" "$learned" -- -max_total_time="$seconds" \
    -artifact_prefix="$found" -malloc_limit_mb=64 -max_len=4096 -print_final_stats=1 || exit 1
done
