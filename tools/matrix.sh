#!/bin/sh
# Runs the tests on the servers of tools/servers.sh, all of them or those that are named, one after the other. They are built
# once. Prints a table of what passed, and of a server on which not all did the whole output. Fails if anything failed.
set -u
cd "$(dirname "$0")/.." || exit 1
. tools/common.sh

servers=$(tools/servers.sh "$@") || exit 1
suite="cargo test --workspace --all-features --test it --no-fail-fast"
$suite --no-run && cargo build --workspace --all-features --examples || exit 1 # Some of the tests run the examples.

rows='' status=0
log=target/matrix.log
while read -r name version program; do
  say "The tests on $name:"
  begun=$(date +%s)
  FAIRLANE_SERVER=$program $suite </dev/null >"$log" 2>&1 || { status=1 && cat "$log" >&2; }
  took=$(($(date +%s) - begun))
  counts=$(awk '/^test result: / { passed += $4; failed += $6 } END { print passed + 0 " | " failed + 0 }' "$log")
  rows="$rows
| $name | $version | $counts | $took s |"
done <<END
$servers
END

printf '| server | version | passed | failed | time |\n|---|---|---|---|---|%s\n' "$rows"
exit $status
