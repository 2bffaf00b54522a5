# `make demo` shows it, `make test` is everything that CI runs. Both need root, for namespaces.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help demo test packages check unit namespaces corpus

help:
	@echo "make demo   build it, start two sites behind NATs and a relay, fetch by name, show it"
	@echo "make test   everything that CI runs"

demo: packages
	cargo build --release --locked -p netmanager -p netns-tests --bins
	cargo run --release --locked -q -p netns-tests --bin demo

test: packages check unit namespaces corpus
	@echo "make test: all passed"

# Installs the Debian packages that tests and demo need and that are missing.
packages:
	@.ci/packages

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

# Everything that needs no namespace; tests of libraries and programs, benches once.
unit:
	.ci/count cargo test --workspace --lib --bins --benches --locked
	.ci/count cargo test -p tidy --locked
	cargo test --workspace --doc --locked

# One at a time: they share the machine's namespaces and its clock.
namespaces:
	cargo build --locked -p netmanager
	.ci/count cargo test -p netmanager -p netns-tests --test '*' --locked -- --test-threads=1

# Replays every committed input through every fuzz target.
corpus:
	.ci/count cargo test -p weald-fuzz --locked
