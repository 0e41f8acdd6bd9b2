# A server that had to be put under target/ is not in the PATH, so cargo is told where it is. Otherwise nothing is set, and
# a FAIRLANE_SERVER of the caller's stays. Where there is no server and none can be installed, nothing else is tried.
WITH_SERVER = server=$$(tools/redis-server.sh) && $${server:+env FAIRLANE_SERVER="$$server"}

# What a script may use without `local`: what Redis gives it.
LUA_GLOBALS = redis KEYS ARGV tonumber type pcall ipairs pairs next unpack math string table

.PHONY: help demo demo-cluster test test-matrix ci soak bench fuzz lua deny server

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: ## runs the quick start on a server of its own
	@$(WITH_SERVER) cargo run --release --example quickstart

demo-cluster: ## starts a cluster of three primaries, and kills one while it is at work
	@$(WITH_SERVER) cargo run --release --features cluster,testing --example cluster

test: ## runs all tests, those of the documentation too
	@tools/tmux.sh
	@$(WITH_SERVER) cargo test --workspace --all-features

# SERVERS names those that are wanted, where not all are.
test-matrix: ## runs the tests on each server of tools/servers.sh, and prints a table
	@tools/tmux.sh
	@tools/matrix.sh $(SERVERS)

# The tests run the examples, too. They run on the server that is there and on the newest.
ci: lua deny ## runs all that has to pass before a change goes in
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	cargo clippy --lib -- -D warnings
	cargo clippy --lib --no-default-features -- -D warnings
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	RUSTFLAGS="--cfg fuzzing" cargo clippy --manifest-path fuzz/Cargo.toml --target-dir target/fuzz -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --all-features
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --no-default-features
	$(MAKE) test
	$(MAKE) test-matrix SERVERS=valkey-9.1
	@$(WITH_SERVER) cargo bench --bench bench -- --quick

soak: ## runs the fault battery for about twelve minutes, and writes target/faults.md
	@mkdir -p target && printf '%s\n' '| fault | delivered | served | doubled | lost | longest stall |' \
	  '|---|---|---|---|---|---|' >target/faults.md
	@$(WITH_SERVER) env FAIRLANE_SOAK=1 FAIRLANE_FAULTS_TABLE="$(CURDIR)/target/faults.md" \
	  cargo test --workspace --all-features --test faults -- --nocapture

bench: ## measures cost, latency and fairness, on a server of its own
	@$(WITH_SERVER) cargo bench --bench bench

# FOR is in seconds, and for each of them.
fuzz: ## fuzzes what reads messages, replies, tokens and URLs, for a short time (FOR=20)
	@tools/fuzz.sh $(or $(FOR),20)

# The bytecode of Lua 5.1, which Redis runs, names each global: one that is not of Redis is a missing `local`.
lua: ## checks the format of the scripts, and that they have no globals
	@if command -v stylua >/dev/null; then stylua --check lua; \
	else echo "stylua is not installed: the format of the scripts is not checked."; fi
	@for luac in luac5.1 luac ''; do \
	  [ -z "$$luac" ] || ! $$luac -v 2>&1 | grep -q '^Lua 5\.1' || break; \
	done; \
	[ -n "$$luac" ] || { echo "luac 5.1 is not installed: the globals of the scripts are not checked."; exit 0; }; \
	status=0; \
	for script in lua/*.lua; do \
	  [ "$$script" != lua/prelude.lua ] || continue; \
	  parts=$$(sed -n 's/,//g; s/^-- Parts: \(.*\)\.$$/\1/p' "$$script"); \
	  front=$$(for part in prelude $${parts:+$$(printf 'parts/%s ' $$parts)}; do cat "lua/$$part.lua"; done; echo .); \
	  front=$${front%.}; before=$$(printf %s "$$front" | wc -l); \
	  list=$$({ printf %s "$$front"; tail -n +2 "$$script"; } | $$luac -p -l -) || { echo "$$script: not Lua"; exit 1; }; \
	  printf '%s\n' "$$list" | awk -v allowed='$(LUA_GLOBALS)' -v before="$$before" -v script="$$script" ' \
	    BEGIN { split(allowed, names, " "); for (i in names) known[names[i]] } \
	    $$3 == "SETGLOBAL" || $$3 == "GETGLOBAL" && !($$NF in known) { \
	      line = substr($$2, 2) + 0; \
	      at = line > before ? script ":" line - before + 1 : "line " line " of what stands before " script; \
	      print at ": " $$NF " is a global: is a local missing?"; bad = 1; \
	    } \
	    END { exit bad }' || status=1; \
	done; exit $$status

deny: ## checks licences and sources of the dependencies
	@if command -v cargo-deny >/dev/null; then cargo deny check licenses bans sources; \
	else echo "cargo-deny is not installed: licences and sources of the dependencies are not checked."; fi

server: ## installs a Redis server where there is none
	@tools/redis-server.sh
