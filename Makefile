# What one types. Each target does its own set-up on a machine that has cargo (Rust 1.90 or newer), python3 and a C compiler.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build demo test bench bench-save bench-compare toolchain new-toolchain clean-toolchain toolchain-hashes

TOOLCHAIN := .toolchain
# nvcc and its parts, each of one version and with its digests. About 300 MB, no root needed.
WHEELS := toolchain/wheels.txt

help: ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

build: ## the program, target/release/irori
	cargo build --release --locked --bin irori

demo: build ## the whole job on data and a tiny model made on the spot, ending in a report
	target/release/irori demo

test: ## what CI does: formatting, lints, documentation, every test
	.ci/run

BENCHES := --bench ops --bench step --bench text

bench: ## throughput on this machine
	cargo bench --locked $(BENCHES)

bench-save: ## the same, kept as NAME: make bench-save NAME=before
	@[ -n "$(NAME)" ] || { echo 'say a name: make $@ NAME=before' >&2; exit 2; }
	cargo bench --locked $(BENCHES) -- --save-baseline '$(NAME)'

bench-compare: ## the same beside what was kept: make bench-compare NAME=before
	@[ -n "$(NAME)" ] || { echo 'say a name: make $@ NAME=before' >&2; exit 2; }
	cargo bench --locked $(BENCHES) -- --baseline '$(NAME)'

# Made from nothing where the list is not the one that it was made from: pip looks at the digests of what it fetches, not of
# what is there already.
toolchain: ## nvcc in .toolchain/, for building the CUDA kernels
	@[[ "$$(cat $(TOOLCHAIN)/ready 2>/dev/null)" == "$$(cat $(WHEELS))" ]] || $(MAKE) --no-print-directory new-toolchain

# build.rs looks into .toolchain/ by itself; its new date is what makes cargo look again.
new-toolchain:
	python3 -m venv --clear $(TOOLCHAIN)
	$(TOOLCHAIN)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $(WHEELS)
	@nvcc=$$(ls $(TOOLCHAIN)/lib/python3*/site-packages/nvidia/cu13/bin/nvcc); chmod +x "$$nvcc"; "$$nvcc" --version | tail -n 2
	cp $(WHEELS) $(TOOLCHAIN)/ready
	touch build.rs

toolchain-hashes: ## the digests of what `make toolchain` installs, taken anew after a version has been changed
	toolchain/hashes.sh

clean-toolchain: ## remove .toolchain/
	rm -rf $(TOOLCHAIN)
