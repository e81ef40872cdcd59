# `make` lists what can be asked for.
.DEFAULT_GOAL := help
# cargo uses all cores by itself, and the targets share its lock: one after the other.
.NOTPARALLEL:
# What `wq-run --version` shows. Only `main.rs` looks at it, so that a new commit compiles nothing else.
COMMIT = $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null)
.PHONY: help demo build docs man install package dist manifests guests languages image guest-image lint test test-cluster test-upgrade test-rabbitmq4 soak bench bench-quick fuzz deps-test clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the work-queue example of the Kubernetes page, with no cluster and no broker; BROKER=redis, sqs or rabbitmq on one
	@scripts/install.sh build guests-rust
	@echo "Building wq-run: some minutes the first time, seconds after that."
	@cargo build --locked -p wq-run
	@guest-examples/build.sh rust
	@scripts/demo.sh $(BROKER)

build: ## wq-run in the dev profile: target/debug/wq-run
	scripts/install.sh build
	WQ_COMMIT="$(COMMIT)" cargo build --locked -p wq-run

man: build ## the manual pages: build/man
	target/debug/wq-run man build/man

install: ## wq-run into PREFIX (/usr/local), with manual pages and completions; FROM=IMAGE takes it out of an image
	PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' FROM='$(FROM)' scripts/install-program.sh

package: ## the package for `cargo install`, compiled from what is in it
	scripts/install.sh build
	cargo package --locked -p wq-run

dist: ## what a release has, in build/dist: tarball, licences, bill of materials, checksums
	scripts/dist.sh

manifests: build ## the manifests in deploy/ that `wq-run manifest` prints
	scripts/manifests.sh

guests: ## the example guests, as many as the machine can build: build/guests/*.wasm; GUESTS='rust c' builds some
	scripts/install.sh $(if $(GUESTS),$(GUESTS:%=guests-%),guests)
	guest-examples/build.sh $(GUESTS)

languages: guests ## what the example guests cost, into docs/languages.md
	scripts/install.sh build
	cargo build --release --locked -p wq-run
	scripts/languages.py

image: ## the container image; PLATFORM=linux/arm64 for that processor
	scripts/image.sh

docs: ## the pages of docs/ as a book: build/book/html
	scripts/docs.sh

guest-image: ## an image with GUEST and its compiled code, for an image volume; FLAGS='--fuel 1000000' as the workers have them
	scripts/guest-image.sh '$(GUEST)' $(FLAGS)

lint: ## formatting, clippy, shellcheck, actionlint, cargo-deny, spelling, style
	scripts/install.sh --optional lint
	scripts/lint.sh

# The tests skip what is not installed and say so; with CI set, they fail instead. The same holds for the guests here.
test: deps-test lint ## everything: guests, lint, all tests (as root on Debian it installs a broker and podman)
	guest-examples/build.sh rust
	guest-examples/build.sh
	guest-examples/build.sh tests || test -z "$$CI"
	guest-examples/test.sh
	scripts/install.sh --optional programs
	# Most tests wait for a broker or a clock most of the time.
	RUST_TEST_THREADS=6 cargo test --locked --workspace

test-cluster: ## the README's first Job on the cluster that KUBECONFIG names; FIRST_JOB_LOAD is a command that brings the image there
	@if [ -n "$$KUBECONFIG" ]; then scripts/first-job.sh cluster; else echo "SKIPPED: KUBECONFIG names no cluster" >&2; test -z "$$CI"; fi

test-upgrade: deps-test ## workers of the last release and of this build on one queue
	scripts/test-upgrade.sh

test-rabbitmq4: VERSION = 4.0
test-rabbitmq4: deps-test ## the tests on RabbitMQ 4.0, or VERSION=4.3 (as root on Debian)
	guest-examples/build.sh
	guest-examples/build.sh tests
	scripts/rabbitmq4.sh build/rabbitmq$(VERSION) $(VERSION)
	WQ_TEST_RABBITMQ_ROOT=$(CURDIR)/build/rabbitmq$(VERSION) RUST_TEST_THREADS=6 cargo test --locked --test it

soak: deps-test ## the ledger over thousands of kills: WQ_SOAK_MESSAGES, _KILLS, _BROKER_KILLS, _ALARMS, _LEDGERS and _SEED set it
	WQ_SOAK_MESSAGES=$${WQ_SOAK_MESSAGES:-12000} WQ_SOAK_KILLS=$${WQ_SOAK_KILLS:-3000} \
		WQ_SOAK_BROKER_KILLS=$${WQ_SOAK_BROKER_KILLS:-60} WQ_SOAK_ALARMS=$${WQ_SOAK_ALARMS:-40} \
		WQ_SOAK_LEDGERS=$${WQ_SOAK_LEDGERS:-4} RUST_TEST_THREADS=3 \
		cargo test --locked --test it ledger -- --nocapture

fuzz: ## every reader of foreign input, FUZZ_SECONDS each (30): stops at the first crash
	scripts/install.sh build fuzz
	scripts/fuzz.sh

bench: ## wq-run against its peers, 18 to 30 minutes: bench/RESULTS.md and bench/results.svg
	scripts/bench.sh

bench-quick: ## the same in about 5, for a look: build/bench
	scripts/bench.sh --quick

deps-test:
	scripts/install.sh build guests-rust
	scripts/install.sh --optional guests rabbitmq redis sqs faketime prometheus pika containers

clean: ## remove all that was built
	cargo clean
	rm -rf build fuzz/artifacts guest-examples/target deploy/job/task.wasm
