# The verbs of the project. Each makes its own environment first, so a fresh clone needs no step before.

VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 50
KILLS ?= 300
OVERLAY ?= ha
PROTOS := $(wildcard libs/stoscore/proto/*.proto)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow conformance sim fuzz bench bench-failover bench-delta bench-csi bench-idle bench-python bench-store lint proto clean

help: ## this list
	@awk -F ':.*## ' '/^[-a-z]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml tools/venv.sh
	@tools/venv.sh $(VENV)
	@touch $@

.PHONY: packages
packages:
	@tools/packages.sh

# A cluster is a dozen processes: where Python may keep no bytecode, each would compile all of stos.
.PHONY: bytecode
bytecode: $(VENV)/.installed
	@$(BIN)/python -m compileall -q libs services

.PHONY: kustomize
kustomize:
	@tools/kustomize.sh

.PHONY: manifests
manifests: kustomize ## what `kubectl apply -k` would send: OVERLAY=single-node, ha or development
	@.tools/kustomize build deploy/kustomize/overlays/$(OVERLAY)

demo: $(VENV)/.installed bytecode packages ## a cluster, a volume through CSI, its primary killed twice, everything checked on disk
	@$(BIN)/stos dev demo

test: $(VENV)/.installed bytecode packages kustomize ## all tests
	@$(BIN)/pytest

test-slow: $(VENV)/.audit bytecode packages kustomize ## what takes minutes: defences taken out one by one, rotation under load, known weaknesses
	@$(BIN)/pytest -m long -rs

$(VENV)/.audit: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,audit,fuzz]'
	@touch $@

conformance: $(VENV)/.installed bytecode packages ## csi-sanity of the Kubernetes project, with real devices and mounts (needs Go)
	@tools/csi_sanity.sh $(BIN)
	@$(BIN)/python -m tests.conformance --sanity $(BIN)/csi-sanity

sim: $(VENV)/.installed ## the deterministic simulation: SEEDS=200 for more, SEED=7 for one
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

SECONDS ?= 600

fuzz: $(VENV)/.audit ## the fuzzer at the three places where bytes come in: TARGET=nbd (or peers, files), SECONDS=600
	@$(BIN)/python -m tests.fuzz $(or $(TARGET),nbd) --seconds $(SECONDS)

bench: $(VENV)/.installed bytecode packages ## ten jobs beside the floor, nbdkit, qemu and, where installed, Ceph: CPU per operation, latency, rate
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,bench]"
	@$(BIN)/python -m benchmarks.bench

bench-failover: $(VENV)/.installed bytecode packages ## the primary lost KILLS=300 times and more: the distribution of the gaps
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@$(BIN)/python -m benchmarks.failover --kills $(KILLS)

bench-delta: $(VENV)/.installed bytecode packages ## copies taken away and brought back: bytes on the wire, seconds, beside what was missed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@$(BIN)/python -m benchmarks.delta

bench-csi: $(VENV)/.installed bytecode ## CSI: creates, pages of a thousand volumes, pauses around snapshots (six minutes)
	@$(BIN)/python -m benchmarks.csi

bench-idle: $(VENV)/.installed bytecode ## what a cluster costs that does nothing, with 10 and with 300 volumes
	@$(BIN)/python -m benchmarks.idle

bench-python: $(VENV)/.installed bytecode packages ## what our own code costs a request, and what metrics and traces add to it
	@$(BIN)/python -m benchmarks.inprocess
	@$(BIN)/python -m benchmarks.looking

bench-store: $(VENV)/.installed bytecode packages ## memory of a volume, the time to open it, a scrub beside the application
	@$(BIN)/python -m benchmarks.store

lint: $(VENV)/.installed ## ruff, mypy, import-linter
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy libs services
	@$(BIN)/lint-imports

proto: $(VENV)/.installed ## generate the gRPC stubs again
	@$(BIN)/python -m grpc_tools.protoc -I libs --python_out=libs --pyi_out=libs --grpc_python_out=libs $(PROTOS)

clean: ## stop this directory's clusters, remove what was made
	@if [ -x $(BIN)/stos ]; then for dir in .stos/dev .demo/cluster; do \
		[ ! -e $$dir/cluster.json ] || $(BIN)/stos dev stop --dir $$dir; done; fi
	@rm -rf $(VENV) .tools .stos .demo .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
