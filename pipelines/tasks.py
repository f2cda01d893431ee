"""What the pipelines share: their data path, training, promotion and report, and what each task gets on a cluster.

A pipeline's steps are a pipeline of their own, `<name>-steps`; the pipeline that is submitted runs them and then tells
how they ended. A dsl.ExitHandler would hold them as well, but what a run hands out cannot be returned out of one.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from types import SimpleNamespace
from typing import Any, NamedTuple

from kfp import dsl, kubernetes

from components.align.component import align
from components.audit.component import audit
from components.evaluate.component import evaluate
from components.filter.component import filter_faces
from components.finetune.component import finetune
from components.gather.component import gather
from components.ingest.component import ingest, plan
from components.notify.component import conclude, notify
from components.promote.component import champion, promote
from components.report.component import keep, report
from components.split.component import split
from components.superresolve.component import superresolve
from pipelines.signatures import Parameter, interface

S3_SECRET = "mlpipeline-minio-artifact"  # noqa: S105 - the name of the secret that KFP keeps its own S3 key in
WEBHOOK_SECRET = "kubeface-webhook"  # noqa: S105 - the name of the secret, with key url; there need not be one
RETRIES = 2
HOUR = 3600
FINETUNE_HOURS = 48
# What is left of a run in the cluster (Argo's Workflow, pods) goes after two weeks; until then it can be resumed.
KEPT_SECONDS = 14 * 24 * HOUR
PARALLELISM = 8  # shards worked on at a time; `pipelines.build.compile --parallelism` sets another number


class Outputs(NamedTuple):
    """What a run hands out: where its report, its figures and the model are (the promoted one where none was trained),
    as JSON, and the page about the data."""

    left: str
    data: dsl.HTML


class Given(SimpleNamespace):
    """A pipeline's parameters, by name: values that are known when it runs."""


@dataclass(frozen=True)
class Data:
    """The tasks behind which the data are ready: which model is promoted, the tables, and what was found in them."""

    current: dsl.PipelineTask
    gathered: dsl.PipelineTask
    audited: dsl.PipelineTask

    @property
    def tables(self) -> dict[str, Any]:
        """The aligned and the filter's table, as the steps behind them take them."""
        return {"aligned": self.gathered.outputs["out_aligned"], "filtered": self.gathered.outputs["out_filtered"]}


@dataclass(frozen=True)
class Trained:
    """The tasks of a training."""

    divided: dsl.PipelineTask
    tuned: dsl.PipelineTask


def pipeline(
    name: str,
    description: str,
    parameters: Mapping[str, Parameter],
    steps: Callable[[Given, Data], dsl.PipelineTask],
    of_audit: Callable[[Given], Mapping[str, Any]],
    enlarged: bool = False,
) -> Any:
    """A pipeline: the data path, the steps of a training where the data ask for one, and how it ended.

    Args:
        name: of the pipeline, and of the runs' folders.
        description: one line.
        parameters: by name.
        steps: adds the tasks from split to report; returns the report's.
        of_audit: arguments of the audit that not every pipeline has.
        enlarged: whether images of few pixels are enlarged before their faces are looked for.

    Returns:
        what kfp compiles and kfp.local runs.
    """

    def run(*values: Any) -> Outputs:
        given = Given(**dict(zip(parameters, values, strict=True)))
        data = _prepare(given, of_audit(given), enlarged)
        with dsl.If(data.audited.outputs["Output"] == "train", name="train"):
            reported = steps(given, data)
        with dsl.Else(name="keep"):
            kept = _keep(given, data, name)
        concluded = _conclude(given, reported, kept)
        return Outputs(left=concluded.output, data=data.audited.outputs["html"])

    return dsl.pipeline(
        told_at_the_end(dsl.pipeline(interface(run, parameters, description, Outputs), name=f"{name}-steps")),
        name=name,
        description=description,
        pipeline_config=dsl.PipelineConfig(ttl_seconds_after_finished=KEPT_SECONDS),
    )


def told_at_the_end(steps: Any) -> Callable[..., Any]:
    """A pipeline's function with the same parameters, that runs the steps and tells how they ended.

    The task that tells depends on the steps as a whole, and on nothing else: KFP makes it a hook on their end, which
    leaves the run's own state alone. Why not dsl.ExitHandler around them: see the top of this file; and its compiler
    (2.17.0) names an input that does not exist where a text is made of a loop's item (kubeflow/pipelines#12390).
    """

    @wraps(steps.pipeline_func)
    def run(*values: Any) -> Outputs:
        arguments = dict(zip(inspect.signature(steps.pipeline_func).parameters, values, strict=True))
        done = steps(**arguments)
        told = notify(
            models=arguments["models"],
            name=arguments["name"],
            run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            title=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            ui=arguments["ui"],
            s3_endpoint=arguments["s3_endpoint"],
        )
        told.after(done).ignore_upstream_failure()
        place(told, cpu="500m", memory="512Mi", s3=True, hours=0.25)
        told.set_caching_options(False)
        kubernetes.use_secret_as_env(told, WEBHOOK_SECRET, {"url": "KUBEFACE_WEBHOOK"}, optional=True)
        kubernetes.add_pod_label(told, "kubeface/internet", "true")  # what manifests/base lets out to port 443
        return Outputs(left=done.outputs["left"], data=done.outputs["data"])

    return run


def place(task: dsl.PipelineTask, cpu: str, memory: str, s3: bool = False, hours: float = 6) -> None:
    """Resources, time limit, retries and caching of a task, the name of its image, and the S3 key where it needs one.

    Args:
        task: of the pipeline.
        cpu, memory: what its pod asks for and may use at most, or the pipeline's parameter for it. That is a text, even
            where it is a number: KFP's driver reads nothing else (resolvePodSpecInputRuntimeParameter).
        s3: whether it reads or writes the object store.
        hours: after which Kubernetes ends its pod; KFP takes no parameter for it.
    """
    task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
    # KFP writes a parameter's name into the pod's resources without handing the parameter on into loops and branches.
    task.register_pipeline_channels([amount for amount in (cpu, memory) if not isinstance(amount, str)])
    task.set_retry(RETRIES, backoff_duration="30s", backoff_factor=2.0)
    task.set_caching_options(True)
    task.set_env_variable("KUBEFACE_IMAGE", task.container_spec.image)  # for the model's passport
    kubernetes.set_timeout(task, int(hours * HOUR))
    if s3:
        kubernetes.use_secret_as_env(
            task, S3_SECRET, {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
        )


def _prepare(given: Given, of_audit: Mapping[str, Any], enlarged: bool) -> Data:
    """The data path: from the source to tables that were looked at as a whole."""
    current = champion(
        models=given.models,
        name=given.name,
        only_if_changed=given.only_if_changed,
        s3_endpoint=given.s3_endpoint,
    )
    place(current, cpu="500m", memory="1Gi", s3=True, hours=0.5)
    current.set_caching_options(False)  # which model is promoted, no argument tells

    planned = plan(
        source=given.source,
        listing=given.listing,
        identity_pattern=given.identity_pattern,
        forget=given.forget,
        num_shards=given.num_shards,
        s3_endpoint=given.s3_endpoint,
    )
    place(planned, cpu="500m", memory="2Gi", s3=True, hours=1)
    planned.set_caching_options(False)  # it is what tells the others whether the source has changed

    # Unchanged shards come from KFP's cache. What leaves the loop are receipts: parameters are collected from it.
    with dsl.ParallelFor(planned.output, name="shards", parallelism=PARALLELISM) as shard:
        ingested = ingest(
            source=given.source,
            shard=shard,
            listing=given.listing,
            identity_pattern=given.identity_pattern,
            max_pixels=given.max_pixels,
            seed=given.seed,
            s3_endpoint=given.s3_endpoint,
        )
        place(ingested, cpu="2", memory="4Gi", s3=True)
        if enlarged:
            ingested = _enlarge(given, ingested.outputs["faces"], shard)
        photographs = ingested.outputs["enlarged" if enlarged else "faces"]

        aligned = align(
            faces=photographs,
            shard=shard,
            detector=given.detector,
            template=given.template,
            min_face_size=given.min_face_size,
            min_confidence=given.min_confidence,
        )
        place(aligned, given.align_cpu, given.align_memory)

        filtered = filter_faces(
            faces=photographs,
            aligned=aligned.outputs["aligned"],
            shard=shard,
            min_score=given.filter_min_score,
            min_face_size=given.filter_min_face_size,
            max_faces=given.max_faces,
            min_sharpness=given.min_sharpness,
            max_turn=given.max_turn,
            min_agreement=given.min_agreement,
        )
        place(filtered, cpu="4", memory="4Gi")
        filtered.set_display_name("filter")

    gathered = gather(
        ingested=dsl.Collected(ingested.outputs["Output"]),
        aligned=dsl.Collected(aligned.outputs["Output"]),
        filtered=dsl.Collected(filtered.outputs["Output"]),
        forget=given.forget,
        previous=f"{given.models}/{given.name}/data.json",
        seed=given.seed,
        s3_endpoint=given.s3_endpoint,
    )
    place(gathered, cpu="2", memory="4Gi", s3=True)

    audited = audit(
        aligned=gathered.outputs["out_aligned"],
        filtered=gathered.outputs["out_filtered"],
        previous=f"{given.models}/{given.name}/data.json",
        suspects=given.suspects,
        duplicates=given.duplicates,
        max_drift=given.max_drift,
        on_drift=given.on_drift,
        champion=current.outputs["trained"],
        s3_endpoint=given.s3_endpoint,
        **of_audit,
    )
    place(audited, given.audit_cpu, given.audit_memory, s3=True)
    return Data(current, gathered, audited)


def _enlarge(given: Given, faces: Any, shard: Any) -> dsl.PipelineTask:
    """The task that gives the photographs of a shard, those of few pixels enlarged, in the place of ingest's."""
    enlarged = superresolve(
        faces=faces,
        shard=shard,
        model=given.superresolver,
        scale=given.enlarge_scale,
        which=given.enlarge_which,
        max_side=given.enlarge_max_side,
        s3_endpoint=given.s3_endpoint,
        weights_mirror=given.weights_mirror,
    )
    place(enlarged, cpu="4", memory="8Gi", s3=True)
    return enlarged


def divide(given: Given, data: Data, **more: Any) -> dsl.PipelineTask:
    """The split; `more` are arguments of it that not every pipeline has."""
    divided = split(
        **data.tables,
        audited=data.audited.outputs["audited"],
        apply_filter=given.apply_filter,
        heldout_fraction=given.heldout_fraction,
        val_fraction=given.val_fraction,
        min_images=given.min_images,
        seed=given.seed,
        **more,
    )
    place(divided, cpu="1", memory="4Gi", hours=1)
    return divided


def train(
    given: Given, data: Data, divided: dsl.PipelineTask, backbone: Any, settings: Any, **more: Any
) -> dsl.PipelineTask:
    """A training on the split's images, with GPUs and shared memory.

    Args:
        given, data, divided: what the run has.
        backbone, settings: of the training.
        more: arguments of finetune that not every training has.
    """
    tuned = finetune(
        aligned=data.tables["aligned"],
        divided=divided.outputs["divided"],
        backbone=backbone,
        degradation=given.degradation,
        settings=settings,
        checkpoints=given.checkpoints,
        device=given.device,
        workers=given.workers,
        seed=given.seed,
        s3_endpoint=given.s3_endpoint,
        weights_mirror=given.weights_mirror,
        num_nodes=given.num_nodes,
        node_resources=given.node_resources,
        training_runtime=given.training_runtime,
        **more,
    )
    place(tuned, given.finetune_cpu, given.finetune_memory, s3=True, hours=FINETUNE_HOURS)
    tuned.set_accelerator_type(given.gpu_type).set_accelerator_limit(given.finetune_gpus)
    tuned.register_pipeline_channels([given.gpu_type, given.finetune_gpus])
    kubernetes.add_node_selector_json(tuned, given.node_selector)
    kubernetes.add_toleration_json(tuned, given.tolerations)
    # DataLoader workers hand batches over in shared memory; a pod's default is 64 MB.
    kubernetes.empty_dir_mount(tuned, "shared-memory", "/dev/shm", medium="Memory", size_limit="8Gi")  # noqa: S108
    return tuned


def compare(component: Any, given: Given, data: Data, trained: Trained, **more: Any) -> dsl.PipelineTask:
    """The evaluation of a task.

    Args:
        component: evaluate, evaluate_attributes or evaluate_classes.
        given, data, trained: what the run has.
        more: arguments that not every one of them takes.
    """
    evaluated = component(
        aligned=data.tables["aligned"],
        divided=trained.divided.outputs["divided"],
        model=trained.tuned.outputs["model"],
        degradation=given.degradation,
        gate=given.gate,
        champion=data.current.outputs["uri"],
        bootstrap=given.bootstrap,
        seed=given.seed,
        s3_endpoint=given.s3_endpoint,
        weights_mirror=given.weights_mirror,
        **more,
    )
    place(evaluated, given.evaluate_cpu, given.evaluate_memory, s3=True)
    return evaluated


def recognise(
    given: Given, data: Data, pipeline: str, of_training: Mapping[str, Any], of_evaluation: Mapping[str, Any]
) -> dsl.PipelineTask:
    """From people that are held out to a report, for a model that tells people apart.

    Args:
        given, data: what the run has.
        pipeline: its name.
        of_training, of_evaluation: arguments that not every such pipeline has.
    """
    divided = divide(given, data, val_people_fraction=given.val_people_fraction)
    tuned = train(
        given,
        data,
        divided,
        given.backbone,
        given.settings,
        pretrained=given.pretrained,
        recipe=given.recipe,
        resume=given.resume,
        **of_training,
    )
    trained = Trained(divided, tuned)
    evaluated = compare(
        evaluate,
        given,
        data,
        trained,
        lfw_archive=given.lfw_archive,
        lfw_pairs=given.lfw_pairs,
        pairs=given.pairs,
        bin_sets=given.bin_sets,
        probes=given.probes,
        fmr=given.fmr,
        **of_evaluation,
    )
    return decide_and_report(given, data, trained, evaluated, pipeline)


def leaks(given: Given) -> dict[str, Any]:
    """Arguments of the audit by which nobody is trained on who is in an evaluation set."""
    return {"evaluation_sets": f"{given.evaluation_sets} {given.lfw_archive}", "on_leak": given.on_leak}


def decide_and_report(
    given: Given, data: Data, trained: Trained, evaluated: dsl.PipelineTask, pipeline: str, **more: Any
) -> dsl.PipelineTask:
    """Promotes the model if it is better, and tells what the run came to.

    Args:
        given, data, trained, evaluated: what the run has.
        pipeline: its name.
        more: artifacts for the report that not every pipeline has.
    """
    promoted = promote(
        model=trained.tuned.outputs["model"],
        evaluation=evaluated.outputs["evaluation"],
        gathered=data.gathered.outputs["gathered"],
        audited=data.audited.outputs["audited"],
        name=given.name,
        destination=given.models,
        champion=data.current.outputs["uri"],
        model_registry=given.model_registry,
        mlflow=given.mlflow,
        s3_endpoint=given.s3_endpoint,
    )
    place(promoted, cpu="500m", memory="1Gi", s3=True, hours=1)

    reported = report(
        gathered=data.gathered.outputs["gathered"],
        **data.tables,
        divided=trained.divided.outputs["divided"],
        model=trained.tuned.outputs["model"],
        evaluation=evaluated.outputs["evaluation"],
        promotion=promoted.outputs["promotion"],
        audited=data.audited.outputs["audited"],
        gather_metrics=data.gathered.outputs["metrics"],
        audit_metrics=data.audited.outputs["metrics"],
        split_metrics=trained.divided.outputs["metrics"],
        finetune_metrics=trained.tuned.outputs["metrics"],
        evaluate_metrics=evaluated.outputs["metrics"],
        promote_metrics=promoted.outputs["metrics"],
        pipeline=pipeline,
        seed=given.seed,
        **more,
    )
    place(reported, cpu="1", memory="2Gi", hours=1)
    return reported


def _keep(given: Given, data: Data, pipeline: str) -> dsl.PipelineTask:
    """What a run says whose data ask for no training."""
    kept = keep(
        gathered=data.gathered.outputs["gathered"],
        audited=data.audited.outputs["audited"],
        champion=data.current.outputs["uri"],
        pipeline=pipeline,
        seed=given.seed,
    )
    place(kept, cpu="500m", memory="1Gi", hours=1)
    return kept


def _conclude(given: Given, reported: dsl.PipelineTask, kept: dsl.PipelineTask) -> dsl.PipelineTask:
    """The last of the steps."""
    concluded = conclude(
        left=dsl.OneOf(reported.outputs["Output"], kept.outputs["Output"]),
        models=given.models,
        name=given.name,
        run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        s3_endpoint=given.s3_endpoint,
    )
    place(concluded, cpu="500m", memory="512Mi", s3=True, hours=0.25)
    concluded.set_caching_options(False)  # it is about this run
    return concluded
