# What a person needs; the work is in scripts/.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export ECS_LAB_DIR ?= $(CURDIR)/target/lab
IMAGES ?= debian-12 tiny lab-host

.PHONY: help demo test bench build images lint clean deps

help:
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: ## a cloud on this machine, and a Debian instance in it to log in to
	scripts/demo.sh

test: ## every test, the lab's end-to-end tests included
	scripts/test.sh

bench: deps ## ecs-vmm against QEMU; writes target/bench/*.json
	source scripts/env.sh && scripts/bench.sh

build: deps ## the programs, in target/release
	scripts/build.sh

images: deps ## the disk images, in target/images
	images/build.sh $(IMAGES)

lint: deps ## formatting, clippy and cargo-deny
	scripts/lint.sh

deps: ## the packages and the Rust toolchain this needs
	scripts/install-deps.sh

clean: ## stops the lab and deletes everything built
	-target/release/ecsctl lab down --wipe
	-ECS_LAB_DIR=$(CURDIR)/target/lab-test target/release/ecsctl lab down --wipe
	rm -rf target
