# `make demo` shows it, `make test` is everything that CI runs. Both need root, for namespaces.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help demo demo-overlay test packages build check unit integration

help:
	@echo "make demo           build it, run one SLA on two sites behind NATs, show what it does"
	@echo "make demo-overlay   the overlay alone, without orchestrators"
	@echo "make test           everything that CI runs"

demo: packages build
	target/release/demo

demo-overlay: packages build
	target/release/demo-overlay

test: packages check
	@mkdir -p target && : > target/test-counts
	@$(MAKE) --no-print-directory unit build integration
	@echo && cat target/test-counts
	@awk '{ passed += $$1; failed += $$3 } END { print passed " passed, " failed " failed" }' \
		target/test-counts

# Installs the Debian packages that tests and demo need and that are missing.
packages:
	@.ci/packages

# The programs as they are used. Every build takes the whole workspace, so that dependencies are
# built once and not once per selection of packages.
build:
	cargo build --release --workspace --bins --locked

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
	WEALD_NETMANAGER="$$PWD/target/release/netmanager" \
		.ci/count cargo test --workspace --test '*' --locked -- --test-threads=1
