# `make demo` shows it, `make test` is everything that CI runs. Both need root, for namespaces.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help demo demo-overlay bench bench-all bench-wan nat-matrix bench-control test packages build check unit integration

help:
	@echo "make demo           build it, run one SLA on two sites behind NATs, show what it does"
	@echo "make demo-overlay   the overlay alone, without orchestrators"
	@echo "make bench          tunnels side by side: SYSTEMS=raw,weald,boringtun ROUNDS=1 OUT=file.json"
	@echo "make bench-wan      TCP and pages over long and lossy paths, and the L4 lane on a LAN; restricted by"
	@echo "                    RTT=20 LOSS=1 RATE=100 SYSTEMS=raw-cubic,weald-l4 ONLY=bulk,http ROUNDS=1 OUT=file.json"
	@echo "make bench-all      the same with all peers and with techniques switched off"
	@echo "make nat-matrix     how two nodes connect behind every pair of NATs; restricted by"
	@echo "                    PAIRS=cone:symmetric,port:same ROUTER=drops IP=v4 RUNS=20 OUT=file.json"
	@echo "make bench-control  what the control plane costs and how fast it is (ROUNDS=3 OUT=FILE)"
	@echo "make test           everything that CI runs"

demo: bins = netmanager weald demo
demo: packages build
	target/release/demo

demo-overlay: bins = netmanager demo-overlay
demo-overlay: packages build
	target/release/demo-overlay

bench_options = $(if $(SYSTEMS),--systems $(SYSTEMS)) $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SHORT),--short)
bench_out = $(or $(OUT),bench/results/latest.json)

bench bench-all: bins = netmanager weald-bench weald-limit

bench: packages build
	bench/peers
	target/release/weald-bench $(bench_options) --out $(bench_out)

bench-all: packages build
	bench/peers all
	target/release/weald-bench --all $(bench_options) --out $(bench_out)

wan_options = $(if $(SYSTEMS),--systems $(SYSTEMS)) $(if $(ONLY),--only $(ONLY)) $(if $(RTT),--rtt $(RTT)) $(if $(LOSS),--loss $(LOSS)) \
	$(if $(RATE),--rate $(RATE)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SECONDS),--seconds $(SECONDS))

bench-wan: bins = netmanager weald-wan
bench-wan: packages build
	bench/peers all
	target/release/weald-wan $(wan_options) --out $(or $(OUT),bench/results/wan-latest.json)

# Which pairs, routers and families, how often, and where the list goes; empty means all of them,
# once. The table is stored beside the list.
nat-matrix: bins = netmanager nat-matrix
nat-matrix: packages build
	PAIRS="$(PAIRS)" ROUTER="$(ROUTER)" IP="$(IP)" RUNS="$(RUNS)" \
		OUT="$(or $(OUT),bench/results/nat-matrix.json)" target/release/nat-matrix

bench-control: bins = netmanager weald bench-control
bench-control: packages build
	ROUNDS="$(ROUNDS)" OUT="$(OUT)" target/release/bench-control

test: packages check
	@mkdir -p target && : > target/test-counts
	@$(MAKE) --no-print-directory bins="netmanager weald weald-ops" unit build integration
	@echo && cat target/test-counts
	@awk '{ passed += $$1; failed += $$3; namespaces += $$7 } \
		END { print passed " passed, " namespaces " of them in namespaces, " failed " failed" }' \
		target/test-counts

# Installs the Debian packages that tests and demo need and that are missing.
packages:
	@.ci/packages

# The programs as they are used: those that the goal needs, or all of them. Every build takes the
# whole workspace, so that dependencies are built once and not once per selection of packages.
build:
	cargo build --release --workspace --locked $(or $(addprefix --bin ,$(bins)),--bins)

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items --locked

# What needs neither root nor kernel: tests beside the code, examples in docs, benches once.
unit:
	.ci/count cargo test --workspace --lib --bins --benches --locked
	.ci/count cargo test --workspace --doc --locked

# Journeys and models of the core, the corpus, the tree's own rules, and everything that needs a
# kernel: one at a time, because they share the machine's namespaces and its clock. The programs
# under test are the built ones.
integration:
	WEALD_NETMANAGER="$$PWD/target/release/netmanager" WEALD_OPS="$$PWD/target/release/weald-ops" \
		.ci/count cargo test --workspace --test '*' --locked --no-fail-fast -- --test-threads=1
