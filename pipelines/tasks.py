"""The tasks that the pipelines are made of: each step's component with its resources, time limit, retries and keys.

A pipeline's own file says in which order they run and what they hand on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any, NamedTuple, TypeAlias

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
PARALLELISM = 8  # shards worked on at a time; `kubeface compile --parallelism` sets another number

Task: TypeAlias = Any  # dsl.PipelineTask; kfp has no types


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
    """Makes a pipeline of the function that adds its steps.

    The steps are a pipeline inside the one that is submitted, which tells a webhook how they ended: the task that does
    so depends on the steps as a whole and on nothing else. A dsl.ExitHandler cannot hold a loop's item in a text
    (kubeflow/pipelines#12390) and hands nothing out.

    Args:
        name: of the pipeline.
        description: for the UI.
    """

    def make(steps: Callable[..., Outputs]) -> Any:
        inner = dsl.pipeline(name=f"{name}-steps")(steps)

        @wraps(steps)
        def run(*args: Any, **kwargs: Any) -> Outputs:
            given = signature(steps).bind(*args, **kwargs).arguments
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
            pipeline_config=dsl.PipelineConfig(ttl_seconds_after_finished=TTL_SECONDS),
        )(run)

    return make


def set_resources(task: Task, cpu: Any, memory: Any, s3: bool = False, hours: float = 6) -> None:
    """Resources, time limit, retries, caching, the deployment's settings and, where needed, the S3 key of a task.

    Args:
        task: of the pipeline.
        cpu, memory: what its pod asks for and may use at most: a text, or an output of plan.
        s3: whether it reads or writes the object store.
        hours: after which Kubernetes ends its pod; KFP takes no parameter for it.
    """
    task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
    # KFP writes the amount's name into the pod's resources without handing the amount on into a loop.
    task.register_pipeline_channels([amount for amount in (cpu, memory) if not isinstance(amount, str)])
    task.set_retry(RETRIES, backoff_duration="30s", backoff_factor=2.0)
    task.set_caching_options(True)
    task.set_env_variable("KUBEFACE_IMAGE", task.container_spec.image)  # for the model's passport
    kubernetes.set_timeout(task, int(hours * HOUR))
    kubernetes.set_security_context(task, run_as_non_root=True)  # pod security `restricted` refuses the pod without it
    settings = {name: name for name in ("S3_ENDPOINT", "KUBEFACE_WEIGHTS_MIRROR")}
    kubernetes.use_config_map_as_env(task, SETTINGS, settings, optional=True)
    if s3:
        kubernetes.use_secret_as_env(
            task, S3_SECRET, {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
        )


def plan_task(pipeline: str, **parameters: Any) -> Task:
    """Checks the run, lists its source and gives each task its options.

    Args:
        pipeline: its name.
        parameters: of the run, all of them.
    """
    task = plan(pipeline=pipeline, **parameters)
    set_resources(task, cpu="500m", memory="2Gi", s3=True, hours=1)
    task.set_caching_options(False)  # it is what tells the others whether the source has changed
    nodes = {name: name for name in ("GPU_NODE_SELECTOR", "GPU_TOLERATIONS")}
    kubernetes.use_config_map_as_env(task, SETTINGS, nodes, optional=True)
    return task


def ingest_task(planned: Task, source: Any, shard: Any) -> Task:
    """Photographs of a shard of the source, as a face table."""
    task = ingest(source=source, shard=shard, options=planned.outputs["ingest"])
    set_resources(task, cpu="2", memory="4Gi", s3=True)
    return task


def superresolve_task(planned: Task, faces: Any, shard: Any) -> Task:
    """The photographs of a shard, those of low resolution enlarged."""
    task = superresolve(faces=faces, shard=shard, options=planned.outputs["superresolve"])
    set_resources(task, planned.outputs["shard_cpu"], planned.outputs["shard_memory"], s3=True)
    return task


def align_task(planned: Task, faces: Any, shard: Any) -> Task:
    """The face crops of a shard."""
    task = align(faces=faces, shard=shard, options=planned.outputs["align"])
    set_resources(task, planned.outputs["shard_cpu"], planned.outputs["shard_memory"])
    return task


def filter_task(planned: Task, faces: Any, aligned: Any, shard: Any) -> Task:
    """Which crops of a shard are kept."""
    task = filter_faces(faces=faces, aligned=aligned, shard=shard, options=planned.outputs["filter"])
    set_resources(task, planned.outputs["shard_cpu"], planned.outputs["shard_memory"])
    task.set_display_name("filter")
    return task


def gather_task(planned: Task, photographs: Task, aligned: Task, filtered: Task) -> Task:
    """The tables of all shards as one: what leaves the loop are receipts, since parameters are collected from it.

    Args:
        planned: the plan.
        photographs: ingest, or superresolve where it stands between ingest and align.
        aligned, filtered: the tasks behind that.
    """
    task = gather(
        ingested=dsl.Collected(photographs.outputs["Output"]),
        aligned=dsl.Collected(aligned.outputs["Output"]),
        filtered=dsl.Collected(filtered.outputs["Output"]),
        options=planned.outputs["gather"],
    )
    set_resources(task, cpu="2", memory="4Gi", s3=True)
    return task


def tables_of(gathered: Task) -> dict[str, Any]:
    """The aligned table and the filter's, as the steps behind gather take them."""
    return {"aligned": gathered.outputs["out_aligned"], "filtered": gathered.outputs["out_filtered"]}


def audit_task(planned: Task, gathered: Task) -> Task:
    """What is wrong with the data, and whether they ask for a training."""
    task = audit(**tables_of(gathered), options=planned.outputs["audit"])
    set_resources(task, planned.outputs["audit_cpu"], planned.outputs["audit_memory"], s3=True)
    return task


def split_task(planned: Task, gathered: Task, audited: Task) -> Task:
    """Who is trained on, and who is held out."""
    task = split(**tables_of(gathered), audited=audited.outputs["audited"], options=planned.outputs["split"])
    set_resources(task, cpu="1", memory="4Gi", hours=1)
    return task


def finetune_task(planned: Task, gathered: Task, divided: Task, audited: Task, models: Any, name: Any) -> Task:
    """The training; the promoted model is handed on where nothing has changed since its own, or the audit says keep."""
    return _training_task(
        planned,
        gathered,
        divided,
        options=planned.outputs["finetune"],
        champion=f"{models}/{name}",
        decision=audited.outputs["Output"],
    )


def scratch_task(planned: Task, gathered: Task, divided: Task, tuned: Task) -> Task:
    """The training of the small network that a classifier is compared with."""
    task = _training_task(planned, gathered, divided, options=planned.outputs["scratch"])
    task.set_display_name("scratch").after(tuned)  # one after the other, for a quota of one GPU
    return task


def _training_task(planned: Task, gathered: Task, divided: Task, **arguments: Any) -> Task:
    """A training on the split's images, with GPUs and shared memory."""
    task = finetune(
        aligned=gathered.outputs["out_aligned"],
        divided=divided.outputs["divided"],
        nodes=planned.outputs["nodes"],
        **arguments,
    )
    set_resources(
        task, planned.outputs["finetune_cpu"], planned.outputs["finetune_memory"], s3=True, hours=FINETUNE_HOURS
    )
    task.set_accelerator_type(planned.outputs["gpu_type"]).set_accelerator_limit(planned.outputs["gpus"])
    task.register_pipeline_channels([planned.outputs["gpu_type"], planned.outputs["gpus"]])
    kubernetes.add_node_selector_json(task, planned.outputs["node_selector"])
    kubernetes.add_toleration_json(task, planned.outputs["tolerations"])
    # DataLoader workers hand batches over in shared memory; a pod's default is 64 MB.
    kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit="8Gi")  # noqa: S108
    return task


def evaluate_task(planned: Task, gathered: Task, divided: Task, tuned: Task) -> Task:
    """The comparison of recognition models on held-out people and benchmarks."""
    return _comparison_task(evaluate, planned, gathered, divided, tuned)


def evaluate_attributes_task(planned: Task, gathered: Task, divided: Task, tuned: Task) -> Task:
    """The comparison of models of attributes on held-out people."""
    return _comparison_task(evaluate_attributes, planned, gathered, divided, tuned)


def evaluate_classes_task(planned: Task, gathered: Task, divided: Task, tuned: Task, scratch: Task) -> Task:
    """The comparison of classifiers on held-out images."""
    return _comparison_task(evaluate_classes, planned, gathered, divided, tuned, scratch=scratch.outputs["model"])


def _comparison_task(component: Any, planned: Task, gathered: Task, divided: Task, tuned: Task, **more: Any) -> Task:
    """The fine-tuned model beside the one it started from, and the promoted one.

    Args:
        component: evaluate, evaluate_attributes or evaluate_classes.
        planned, gathered, divided, tuned: the tasks before it.
        more: inputs that not every one of them takes.
    """
    task = component(
        aligned=gathered.outputs["out_aligned"],
        divided=divided.outputs["divided"],
        model=tuned.outputs["model"],
        options=planned.outputs["evaluate"],
        champion=planned.outputs["champion"],
        **more,
    )
    set_resources(task, planned.outputs["evaluate_cpu"], planned.outputs["evaluate_memory"], s3=True)
    return task


def promote_task(planned: Task, gathered: Task, audited: Task, tuned: Task, evaluated: Task) -> Task:
    """Publishes the model if it is better."""
    task = promote(
        model=tuned.outputs["model"],
        evaluation=evaluated.outputs["evaluation"],
        gathered=gathered.outputs["gathered"],
        audited=audited.outputs["audited"],
        options=planned.outputs["promote"],
        champion=planned.outputs["champion"],
    )
    set_resources(task, cpu="500m", memory="1Gi", s3=True, hours=1)
    return task


@dataclass(frozen=True)
class Done:
    """The tasks of a run that its report tells of."""

    planned: Task
    gathered: Task
    audited: Task
    divided: Task
    tuned: Task
    evaluated: Task
    promoted: Task

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures of each, as the report takes them."""
        return {
            "gather_metrics": self.gathered.outputs["metrics"],
            "audit_metrics": self.audited.outputs["metrics"],
            "split_metrics": self.divided.outputs["metrics"],
            "finetune_metrics": self.tuned.outputs["metrics"],
            "evaluate_metrics": self.evaluated.outputs["metrics"],
            "promote_metrics": self.promoted.outputs["metrics"],
        }


def report_task(done: Done, models: Any, name: Any, **more: Any) -> Task:
    """The run as a page and as figures; what it came to is kept beside the models.

    Args:
        done: the tasks before it.
        models, name: where the models are kept.
        more: artifacts that not every pipeline has.
    """
    task = report(
        gathered=done.gathered.outputs["gathered"],
        **tables_of(done.gathered),
        audited=done.audited.outputs["audited"],
        divided=done.divided.outputs["divided"],
        model=done.tuned.outputs["model"],
        evaluation=done.evaluated.outputs["evaluation"],
        promotion=done.promoted.outputs["promotion"],
        **done.metrics,
        options=done.planned.outputs["report"],
        models=models,
        name=name,
        run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        **more,
    )
    set_resources(task, cpu="1", memory="2Gi", s3=True, hours=1)
    task.set_caching_options(False)  # it is about this run
    return task


def outputs_of(done: Done, reported: Task) -> Outputs:
    """What a run hands out."""
    return Outputs(
        report=reported.outputs["html"],
        summary=reported.outputs["summary"],
        data=done.audited.outputs["html"],
        model=done.tuned.outputs["model"],
    )
