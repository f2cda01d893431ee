"""The tasks that the pipelines are made of: each step's component with its resources, time limit, retries and keys.

A pipeline's own file says in which order they run and what they hand on.
"""

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, NamedTuple, TypeAlias
from unittest.mock import patch

from kfp import dsl, kubernetes

from components.align.component import align
from components.audit.component import audit
from components.evaluate.component import evaluate, evaluate_attributes, evaluate_classes
from components.filter.component import filter_faces
from components.finetune.component import finetune
from components.gather.component import gather
from components.ingest.component import ingest
from components.notify.component import notify
from components.plan.component import plan
from components.promote.component import promote
from components.report.component import report
from components.split.component import split
from components.superresolve.component import superresolve
from kubeface.plan.parameters import RunParameters

S3_SECRET = "mlpipeline-minio-artifact"  # noqa: S105 - the name of the secret that KFP keeps its own S3 key in
WEBHOOK_SECRET = "kubeface-webhook"  # noqa: S105 - the name of the secret, with key url; there need not be one
SETTINGS = "kubeface-settings"  # the config map of the deployment; there need not be one
RETRIES = 2
HOUR = 3600
FINETUNE_HOURS = 48
# What is left of a run in the cluster (Argo's Workflow, pods) goes after two weeks; until then it can be resumed.
TTL_SECONDS = 14 * 24 * HOUR
RUN_HOURS = 7 * 24  # a run that hangs ends, and says so, before the next month's begins
CACHE = "/cache"  # where a claim for weights is mounted
FETCHING = ("audit", "finetune")  # steps that fetch published weights or evaluation sets

Task: TypeAlias = Any  # dsl.PipelineTask; kfp has no types


@dataclass(frozen=True)
class Build:
    """What is compiled into a pipeline, for KFP knows no parameter for it."""

    parallelism: int = 8  # shards worked on at a time
    # Volume claim that the steps in FETCHING keep what they fetch in; empty for none. It must be there when a run
    # begins: KFP knows no optional volume.
    weights_claim: str = ""
    # After which Kubernetes ends a step's pod, by step, and the whole run, by the word `run`.
    hours: Mapping[str, float] = field(default_factory=dict)


BUILD: ContextVar[Build] = ContextVar("BUILD", default=Build())  # noqa: B039 - frozen


class Outputs(NamedTuple):
    """What a run hands out: the report and its figures, the page about the data, and the fine-tuned model."""

    report: dsl.HTML
    summary: dsl.Artifact
    data: dsl.HTML
    model: dsl.Model


def described(kind: type[RunParameters], summary: str) -> str:
    """A pipeline's description: KFP's form shows names, types and defaults of parameters, not what they are for."""
    lines = (f"{name}: {field.description}" for name, field in kind.model_fields.items())
    return "\n".join([summary, "", *lines])


def pipeline(name: str, description: str) -> Callable[[Callable[..., Outputs]], Any]:
    """Makes a pipeline of the function that adds its steps; its attribute `rebuild` makes it anew, as BUILD says. The
    description is the UI's.

    The steps are a pipeline inside the one that is submitted, which tells a webhook how they ended: the task that does
    so depends on the steps as a whole and on nothing else. A dsl.ExitHandler cannot hold a loop's item in a text
    (kubeflow/pipelines#12390) and hands nothing out."""

    # kfp looks at the call stack with each setting of a task: nine tenths of the time, were all its source read too.
    @patch("inspect.stack", partial(inspect.stack, 0))
    def build(steps: Callable[..., Outputs]) -> Any:
        inner = dsl.pipeline(name=f"{name}-steps")(steps)

        @wraps(steps)
        def run(*args: Any, **kwargs: Any) -> Outputs:
            given = inspect.signature(steps).bind(*args, **kwargs).arguments
            done = inner(**given)
            told = notify(
                options=given["notify"],
                models=given["models"],
                name=given["name"],
                run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
                title=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            )
            told.after(done).ignore_upstream_failure()
            set_resources(told, cpu="500m", memory="512Mi", s3=True, hours=0.25)
            told.set_caching_options(False)
            kubernetes.use_secret_as_env(told, WEBHOOK_SECRET, {"url": "KUBEFACE_WEBHOOK"}, optional=True)
            kubernetes.add_pod_label(told, "kubeface/internet", "true")  # what manifests/base lets out to port 443
            return Outputs(**{output: done.outputs[output] for output in Outputs._fields})

        return dsl.pipeline(
            name=name,
            description=description,
            # KFP 2.17 gives every workflow an hour after its success and after its failure, which go before `finished`.
            pipeline_config=dsl.PipelineConfig(
                ttl_seconds_after_success=TTL_SECONDS,
                ttl_seconds_after_failure=TTL_SECONDS,
                active_deadline_seconds=round(BUILD.get().hours.get("run", RUN_HOURS) * HOUR),
            ),
        )(run)

    def make(steps: Callable[..., Outputs]) -> Any:
        made = build(steps)
        made.rebuild = partial(build, steps)
        return made

    return make


def step_of(image: str) -> str:
    """The step that an image is named for: registry/step:tag."""
    return image.rpartition("/")[2].partition(":")[0]


def set_resources(
    task: Task, cpu: Any, memory: Any, s3: bool = False, hours: float = 6, cpu_request: Any = "500m"
) -> None:
    """Resources, time limit, retries, caching, the deployment's settings and, where it reads or writes the object
    store, the S3 key of a task.

    What its pod may use at most, and asks for, is a text or an output of plan; Kubernetes ends it after `hours`."""
    build, step = BUILD.get(), step_of(task.container_spec.image)
    task.set_cpu_request(cpu_request).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
    # KFP writes the amount's name into the pod's resources without handing the amount on into a loop.
    task.register_pipeline_channels([amount for amount in (cpu, memory, cpu_request) if not isinstance(amount, str)])
    # Argo counts the longest backoff from the first try: one shorter than the step may take allows no second.
    limit = max(1, round(build.hours.get(step, hours) * HOUR))
    task.set_retry(
        RETRIES, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration=f"{(RETRIES + 1) * limit}s"
    )
    task.set_caching_options(True)
    task.set_env_variable("KUBEFACE_IMAGE", task.container_spec.image)  # for the model's passport
    kubernetes.set_timeout(task, limit)
    if build.weights_claim and step in FETCHING:
        kubernetes.mount_pvc(task, pvc_name=build.weights_claim, mount_path=CACHE)
        task.set_env_variable("KUBEFACE_CACHE", CACHE)
    kubernetes.set_security_context(task, run_as_non_root=True)  # pod security `restricted` refuses the pod without it
    settings = {name: name for name in ("S3_ENDPOINT", "KUBEFACE_WEIGHTS_MIRROR")}
    kubernetes.use_config_map_as_env(task, SETTINGS, settings, optional=True)
    if s3:
        kubernetes.use_secret_as_env(
            task, S3_SECRET, {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
        )


class Run:
    """The tasks of one run with all its parameters: each is added by the method of its step, with what it takes from
    the tasks before it."""

    def __init__(self, pipeline: str, **parameters: Any) -> None:
        self._source, self._models, self._name = (parameters[name] for name in ("source", "models", "name"))
        task = plan(pipeline=pipeline, **parameters)
        set_resources(task, cpu="500m", memory="2Gi", s3=True, hours=1)
        task.set_caching_options(False)  # it is what tells the others whether the source has changed
        deployed = {name: name for name in ("RESOURCES_SIZE", "GPU_NODE_SELECTOR", "GPU_TOLERATIONS")}
        kubernetes.use_config_map_as_env(task, SETTINGS, deployed, optional=True)
        self._planned = task.outputs

    def shards(self) -> Any:
        """The loop over the shards of the source."""
        return dsl.ParallelFor(self._planned["Output"], name="shards", parallelism=BUILD.get().parallelism)

    def _set_planned_resources(self, task: Task, pod: str, s3: bool = True, hours: float = 6) -> None:
        cpu, memory, request = (self._planned[f"{pod}_{amount}"] for amount in ("cpu", "memory", "cpu_request"))
        set_resources(task, cpu, memory, s3, hours, request)

    def ingest(self, shard: Any) -> Task:
        """Photographs of a shard of the source, as a face table."""
        task = ingest(source=self._source, shard=shard, options=self._planned["ingest"])
        set_resources(task, cpu="2", memory="4Gi", s3=True)
        return task

    def superresolve(self, ingested: Task, shard: Any) -> Task:
        """The photographs of a shard, those of low resolution enlarged."""
        task = superresolve(faces=ingested.outputs["faces"], shard=shard, options=self._planned["superresolve"])
        self._set_planned_resources(task, "shard")
        return task

    def align(self, faces: Any, shard: Any) -> Task:
        """The face crops of a shard's photographs."""
        task = align(faces=faces, shard=shard, options=self._planned["align"])
        self._set_planned_resources(task, "shard", s3=False)
        return task

    def filter(self, faces: Any, aligned: Task, shard: Any) -> Task:
        """Which crops of a shard are kept."""
        task = filter_faces(
            faces=faces, aligned=aligned.outputs["aligned"], shard=shard, options=self._planned["filter"]
        )
        self._set_planned_resources(task, "shard", s3=False)
        task.set_display_name("filter")
        return task

    def gather(self, photographs: Task, aligned: Task, filtered: Task) -> Task:
        """The tables of all shards as one, behind ingest or superresolve: what leaves the loop are receipts, since
        parameters are collected from it."""
        task = gather(
            ingested=dsl.Collected(photographs.outputs["Output"]),
            aligned=dsl.Collected(aligned.outputs["Output"]),
            filtered=dsl.Collected(filtered.outputs["Output"]),
            options=self._planned["gather"],
        )
        set_resources(task, cpu="2", memory="4Gi", s3=True)
        return task

    def audit(self, gathered: Task) -> Task:
        """What is wrong with the data, and whether they ask for a training."""
        task = audit(gathered=gathered.outputs["gathered"], options=self._planned["audit"])
        self._set_planned_resources(task, "audit")
        return task

    def split(self, gathered: Task, audited: Task) -> Task:
        """Who is trained on, and who is held out."""
        task = split(
            gathered=gathered.outputs["gathered"], audited=audited.outputs["audited"], options=self._planned["split"]
        )
        set_resources(task, cpu="1", memory="4Gi", hours=1)
        return task

    def finetune(self, gathered: Task, divided: Task, audited: Task) -> Task:
        """The training; the promoted model is handed on where nothing has changed since its own, or the audit says
        keep."""
        champion = f"{self._models}/{self._name}"
        return self._training("finetune", gathered, divided, champion=champion, decision=audited.outputs["Output"])

    def scratch(self, gathered: Task, divided: Task, tuned: Task) -> Task:
        """The training of the small network that a classifier is compared with."""
        task = self._training("scratch", gathered, divided)
        task.set_display_name("scratch").after(tuned)  # one after the other, for a quota of one GPU
        return task

    def _training(self, options: str, gathered: Task, divided: Task, **arguments: Any) -> Task:
        """A training on the split's images, with GPUs and shared memory."""
        planned = self._planned
        task = finetune(
            gathered=gathered.outputs["gathered"],
            divided=divided.outputs["divided"],
            nodes=planned["nodes"],
            options=planned[options],
            **arguments,
        )
        self._set_planned_resources(task, "finetune", hours=FINETUNE_HOURS)
        task.set_accelerator_type(planned["gpu_type"]).set_accelerator_limit(planned["gpus"])
        task.register_pipeline_channels([planned["gpu_type"], planned["gpus"]])
        kubernetes.add_node_selector_json(task, planned["node_selector"])
        kubernetes.add_toleration_json(task, planned["tolerations"])
        # DataLoader workers hand batches over in shared memory; a pod's default is 64 MB.
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit="8Gi")  # noqa: S108
        return task

    def evaluate(self, gathered: Task, divided: Task, tuned: Task) -> Task:
        """The comparison of recognition models on held-out people and benchmarks."""
        return self._comparison(evaluate, gathered, divided, tuned)

    def evaluate_attributes(self, gathered: Task, divided: Task, tuned: Task) -> Task:
        """The comparison of models of attributes on held-out people."""
        return self._comparison(evaluate_attributes, gathered, divided, tuned)

    def evaluate_classes(self, gathered: Task, divided: Task, tuned: Task, scratch: Task) -> Task:
        """The comparison of classifiers on held-out images."""
        return self._comparison(evaluate_classes, gathered, divided, tuned, scratch=scratch.outputs["model"])

    def _comparison(self, component: Any, gathered: Task, divided: Task, tuned: Task, **more: Any) -> Task:
        """The fine-tuned model beside the one it started from, and the promoted one; `more` are inputs that not every
        component takes."""
        task = component(
            gathered=gathered.outputs["gathered"],
            divided=divided.outputs["divided"],
            model=tuned.outputs["model"],
            options=self._planned["evaluate"],
            champion=self._planned["champion"],
            **more,
        )
        self._set_planned_resources(task, "evaluate")
        return task

    def promote(self, audited: Task, tuned: Task, evaluated: Task) -> Task:
        """Publishes the model if it is better."""
        task = promote(
            model=tuned.outputs["model"],
            evaluation=evaluated.outputs["evaluation"],
            audited=audited.outputs["audited"],
            options=self._planned["promote"],
            champion=self._planned["champion"],
        )
        set_resources(task, cpu="500m", memory="1Gi", s3=True, hours=1)
        return task

    def report(
        self,
        gathered: Task,
        audited: Task,
        divided: Task,
        tuned: Task,
        evaluated: Task,
        promoted: Task,
        scratch: Task | None = None,
    ) -> Outputs:
        """The run as a page and as figures, what it came to is kept beside the models; and what the run hands out."""
        task = report(
            gathered=gathered.outputs["gathered"],
            audited=audited.outputs["audited"],
            divided=divided.outputs["divided"],
            model=tuned.outputs["model"],
            evaluation=evaluated.outputs["evaluation"],
            promotion=promoted.outputs["promotion"],
            options=self._planned["report"],
            models=self._models,
            name=self._name,
            run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            **({"scratch": scratch.outputs["model"]} if scratch else {}),
        )
        set_resources(task, cpu="1", memory="2Gi", s3=True, hours=1)
        task.set_caching_options(False)  # it is about this run
        return Outputs(task.outputs["report"], task.outputs["summary"], audited.outputs["data"], tuned.outputs["model"])
