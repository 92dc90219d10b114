# What one types. Each target does its own set-up on a machine that has cargo (Rust 1.90 or newer), python3 and a C compiler.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build demo test bench bench-save bench-compare toolchain clean-toolchain

TOOLCHAIN := .toolchain
# nvcc of CUDA 13 with its parts, all of one version; and the assembler of CUDA 12.4, whose machine code loads on drivers
# from r525 on. About 300 MB, no root needed.
NVCC_WHEELS := nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
	nvidia-cuda-runtime==13.0.* nvidia-cuda-cccl==13.0.* \
	nvidia-cuda-cuobjdump==13.2.* nvidia-cuda-nvdisasm==13.2.* \
	nvidia-cuda-nvcc-cu12==12.4.131

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

toolchain: $(TOOLCHAIN)/ready ## nvcc in .toolchain/, for building the CUDA kernels

# build.rs looks into .toolchain/ by itself; its new date is what makes cargo look again.
$(TOOLCHAIN)/ready: Makefile
	python3 -m venv $(TOOLCHAIN)
	$(TOOLCHAIN)/bin/python -m pip install --quiet --disable-pip-version-check $(NVCC_WHEELS)
	@nvcc=$$(ls $(TOOLCHAIN)/lib/python3*/site-packages/nvidia/cu13/bin/nvcc); chmod +x "$$nvcc"; "$$nvcc" --version | tail -n 2
	touch $@ build.rs

clean-toolchain: ## remove .toolchain/
	rm -rf $(TOOLCHAIN)
