# Every target works in .venv, which `make setup` makes from requirements.lock.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
REGISTRY ?= localhost/kubeface
TAG ?= 0.1.0
PARALLELISM ?= 8
STEPS := ingest align filter gather audit split finetune evaluate promote report
LOCK := --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

# What components/faces/runtime.py sets for the steps: without it torch on a CPU spends its time in page faults.
MALLOC := MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=1073741824 \
	ARROW_DEFAULT_MEMORY_POOL=jemalloc

.DEFAULT_GOAL := help
.PHONY: help setup lock demo lfw mirror-weights bench-finetune bench-data bench-evaluate bench-memory test lint compile clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: $(READY) ## Make .venv with the exact packages of requirements.lock

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is missing: install Python 3.11, or name it with PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "error: $(PYTHON) is not Python 3.11: name one with PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv module: install python3.11-venv" >&2; exit 1; }
	@echo "setup: installing the packages of requirements.lock into .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --no-deps --require-hashes -r requirements.lock \
		|| { echo "error: the packages of requirements.lock could not be installed: is the package index within reach?" >&2; exit 1; }
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@
	@echo "setup: done"

lock: $(READY) ## Write the lock files anew from the ranges in pyproject.toml
	@$(BIN)/uv pip compile -q pyproject.toml --extra dev $(LOCK) -o requirements.lock
	@for step in $(STEPS); do \
		$(BIN)/uv pip compile -q pyproject.toml --extra $$step -c requirements.lock $(LOCK) -o images/$$step/requirements.lock || exit 1; \
	done

demo: $(READY) ## Fine-tune on real faces, from images in a bucket to a report (about 6 minutes on 2 cores)
	@$(BIN)/python -m pipelines.demo

lfw: $(READY) ## Measure a model on LFW: LFW=lfw.tar PAIRS=pairs.txt [MODEL=folder] [DETECTOR=mtcnn] [DEGRADATION=lowres:14]
	@test -n "$(LFW)" -a -n "$(PAIRS)" || { echo "error: usage: make lfw LFW=lfw-deepfunneled.tar PAIRS=pairs.txt [MODEL=folder]" >&2; exit 2; }
	@$(BIN)/python -m components.evaluate lfw --archive "$(LFW)" --pairs "$(PAIRS)" --model "$(MODEL)" --detector $(or $(DETECTOR),mtcnn) \
		--degradation $(or $(DEGRADATION),none)

mirror-weights: $(READY) ## Copy published weights to MIRROR=s3://bucket/prefix for clusters without internet [BACKBONES="sface …"]
	@test -n "$(MIRROR)" || { echo "error: usage: make mirror-weights MIRROR=s3://bucket/prefix [BACKBONES=\"sface iresnet50\"]" >&2; exit 2; }
	@$(BIN)/python -m components.faces.weights --mirror "$(MIRROR)" $(addprefix --backbone ,$(BACKBONES))

bench-finetune: $(READY) ## Training speed beside a bare loop and a peer, peak memory (25 minutes on 2 cores)
	@$(BIN)/python -m tests.bench.finetune

bench-memory: $(READY) ## Peak memory of the data path at 10,000 and 100,000 images (30 minutes on 2 cores)
	@$(MALLOC) $(BIN)/python -m tests.bench.memory

bench-data: $(READY) ## Speed of align, filter and reading beside the usual loops [LFW=lfw-deepfunneled.tar] (10 minutes on 2 cores)
	@LFW="$(LFW)" $(BIN)/python -m tests.bench.data

bench-evaluate: $(READY) ## Cost of an evaluation beside the bare network, and its memory (2 minutes on 2 cores)
	@$(MALLOC) $(BIN)/python -m tests.bench.evaluate

compile: $(READY) ## Write build/face-finetuning.yaml for Kubeflow Pipelines (REGISTRY=… TAG=… PARALLELISM=shards at a time)
	@$(BIN)/python -m pipelines.compile --registry $(REGISTRY) --tag $(TAG) --parallelism $(PARALLELISM)

lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

test: lint ## Run every check and every test
	@$(MALLOC) $(BIN)/python -m pytest

clean: ## Remove what the targets made, but not .venv
	rm -rf build runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
