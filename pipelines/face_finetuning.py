"""The pipeline: images of people in, a fine-tuned model, a comparison and a report out.

Its steps are a pipeline of their own, `face_finetuning_steps`; the pipeline that is submitted runs them and then tells
how they ended. A dsl.ExitHandler would hold them as well, but what a run hands out cannot be returned out of one.
"""

import inspect
from collections.abc import Callable
from functools import wraps
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

S3_SECRET = "mlpipeline-minio-artifact"  # noqa: S105 - the name of the secret that KFP keeps its own S3 key in
WEBHOOK_SECRET = "kubeface-webhook"  # noqa: S105 - the name of the secret, with key url; there need not be one
RETRIES = 2
HOUR = 3600
FINETUNE_HOURS = 48
# What is left of a run in the cluster (Argo's Workflow, pods) goes after two weeks; until then it can be resumed.
KEPT_SECONDS = 14 * 24 * HOUR
PARALLELISM = 8  # shards worked on at a time; `pipelines.compile --parallelism` sets another number


class Outputs(NamedTuple):
    """What a run hands out: where its report, its figures and the model are (the promoted one where none was trained),
    as JSON, and the page about the data."""

    left: str
    data: dsl.HTML


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


def told_at_the_end(steps: Any) -> Callable[..., Any]:
    """A pipeline's function with the same parameters, that runs the steps and tells how they ended.

    The task that tells depends on the steps as a whole, and on nothing else: KFP makes it a hook on their end, which
    leaves the run's own state alone. Why not dsl.ExitHandler around them: see the top of this file; and its compiler
    (2.17.0) names an input that does not exist where a text is made of a loop's item (kubeflow/pipelines#12390).
    """

    @wraps(steps.pipeline_func)
    def pipeline(*values: Any) -> Outputs:
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

    return pipeline


@dsl.pipeline(name="face-finetuning-steps")
def face_finetuning_steps(
    source: str,
    models: str,
    name: str = "face-model",
    listing: str = "",
    identity_pattern: str = "",
    forget: str = "",
    num_shards: int = 1,
    degradation: str = "none",
    backbone: str = "sface",
    pretrained: str = "",
    detector: str = "mtcnn",
    template: str = "arcface_112",
    min_face_size: int = 20,
    min_confidence: float = 0.9,
    filter_min_score: float = 0.9,
    filter_min_face_size: float = 20.0,
    max_faces: int = 0,
    min_sharpness: float = 20.0,
    max_turn: float = 0.97,
    min_agreement: float = 0.5,
    evaluation_sets: str = "",
    on_leak: str = "drop",
    suspects: str = "keep",
    duplicates: str = "group",
    max_drift: float = 0.0,
    on_drift: str = "warn",
    only_if_changed: bool = False,
    apply_filter: str = "validation",
    heldout_fraction: float = 0.33,
    val_fraction: float = 0.2,
    val_people_fraction: float = 0.0,
    min_images: int = 2,
    recipe: str = "",
    settings: dict[str, Any] = {},  # noqa: B006 - KFP wants the default as it is
    checkpoints: str = "",
    resume: str = "",
    device: str = "auto",
    workers: int = -1,
    lfw_archive: str = "",
    lfw_pairs: str = "",
    pairs: str = "",
    bin_sets: str = "",
    probes: str = "all",
    fmr: float = 0.001,
    gate: dict[str, Any] = {},  # noqa: B006
    bootstrap: int = 1000,
    model_registry: str = "",
    mlflow: str = "",
    max_pixels: int = 50_000_000,
    s3_endpoint: str = "",
    weights_mirror: str = "",
    seed: int = 0,
    align_cpu: str = "4",
    align_memory: str = "8Gi",
    audit_cpu: str = "4",
    audit_memory: str = "4Gi",
    evaluate_cpu: str = "4",
    evaluate_memory: str = "8Gi",
    finetune_cpu: str = "8",
    finetune_memory: str = "32Gi",
    finetune_gpus: str = "1",
    gpu_type: str = "nvidia.com/gpu",
    node_selector: dict[str, Any] = {},  # noqa: B006
    tolerations: list[Any] = [],  # noqa: B006
    num_nodes: int = 1,
    node_resources: dict[str, Any] = {},  # noqa: B006
    training_runtime: str = "torch-distributed",
    ui: str = "",
) -> Outputs:
    """Fine-tunes a face-recognition model on your own people and says whether it got better.

    Args:
        source: Images, one folder per person: s3://bucket/prefix, a folder, or a .tar, .tgz or .zip.
        models: Where promoted models are written, s3://bucket/models or a folder.
        name: Name of the model below `models`.
        listing: Who is in which image of the source, as CSV or Parquet (path, identity, perhaps split; others are
            groups); empty where folders or names say it.
        identity_pattern: Regular expression whose first group, found in a file's name, is the person, as ^(\\d+)_;
            empty for the folder's name.
        forget: People and images to leave out for good, a text file with one name of a person or a file a line; empty
            for none.
        num_shards: Parts that the images are divided into for alignment and filtering; when images are added, only the
            parts that they fall into are worked on again. 1 for a few thousand images; about one for each 5,000.
        degradation: What your cameras do to faces: noise:60, lowres:14, blur:4, jpeg:5, dark, grey, masked,
            rotated:15, or none. Put on
            training and validation crops and on the held-out people.
        backbone: Name of the architecture, such as sface, iresnet50 or edgeface_xs_gamma_06.
        pretrained: Start from this model folder or weights file (s3://, https:// with #sha256=…); empty for the
            published weights.
        detector: Face detector of the alignment, mtcnn or retinaface.
        template: Where the aligned faces' landmarks lie, arcface_112 or facenet_160.
        min_face_size: Smallest face that is aligned, in pixels of the photograph.
        min_confidence: Least score of a face that is aligned, 0 to 1.
        filter_min_score: Least RetinaFace score of an image that is kept, 0 to 1.
        filter_min_face_size: Least RetinaFace face size of an image that is kept, in pixels.
        max_faces: Most faces at least half as large as the subject, itself included, of an image that is kept; 0 for
            any number.
        min_sharpness: Least sharpness of a crop that is kept (variance of the Laplacian of its grey levels).
        max_turn: Largest turn of the head of an image that is kept, 0 (frontal) to 1; 0.97 is some 55 degrees.
        min_agreement: Least overlap of the two detectors' boxes of an image that is kept, 0 to 1.
        evaluation_sets: Image sets that nobody who is trained on may be in, archives or prefixes with one folder per
            person, divided by spaces; lfw_archive is always among them.
        on_leak: What happens to people who are in an evaluation set, found by their faces: drop, fail or warn.
        suspects: What happens to images that look mislabelled: keep (and list) or drop.
        duplicates: Near-duplicates stay on one side of every division (group), or only one of them stays (drop).
        max_drift: Largest drift from the data of the run before (population stability index; 0.25 is large); 0 for no
            limit.
        on_drift: What happens above max_drift: warn, stop, or retrain, with which a run whose data have not drifted
            that far ends early, without training.
        only_if_changed: A run whose data are the very ones that the promoted model was trained on ends early, without
            training; for schedules.
        apply_filter: Where rejected images are left out: validation (and held-out people), all, or none.
        heldout_fraction: Share of people held out for verification.
        val_fraction: Share of each trained person's images used for validation.
        val_people_fraction: Share of the trained people who are used for validation alone.
        min_images: Least images of a person, 2 or more; 10 are recommended.
        recipe: Training settings by name (low-resolution, noise) or from a file (s3://, https:// with #sha256=…); empty
            for the defaults.
        settings: Training settings that go before the recipe's, as JSON: {"strategy": "partial", "num_layers": 8}.
        checkpoints: Where a training keeps its checkpoints while it runs, s3://bucket/checkpoints; the same training
            goes on from there when it is started again. Empty for none.
        resume: Go on exactly from this checkpoint of a training that was stopped; empty for a new one.
        device: auto, cpu or cuda.
        workers: Processes that read and augment in fine-tuning; negative for as many as suit the device.
        lfw_archive: LFW's images (s3://…/lfw-deepfunneled.tar), to measure on LFW too; empty for none.
        lfw_pairs: LFW's pairs.txt; needed with lfw_archive.
        pairs: Own pairs of held-out images to measure on, CSV with left, right, same; empty for none.
        bin_sets: Pair sets of insightface to measure on (lfw.bin, cfp_fp.bin …), divided by spaces; empty for none.
        probes: What is put on the held-out people's crops to see how both models stand it, divided by spaces, as
            lowres:14 blur:4 masked; all for twelve of them, none for none.
        fmr: False match rate that the decision threshold is calibrated for, as a share.
        gate: When a model is better, as JSON: {"target": "heldout", "metrics": "auc tar", "min_gain": 0.0, "max_loss":
            0.01, "max_loss_lfw": 0.01, "max_loss_group": 0.1, "confidence": 0.95, "over_champion": "better"}.
        bootstrap: Samples of people for the intervals.
        model_registry: URL of a Kubeflow Model Registry in which promoted models are registered; empty for none.
        mlflow: Tracking URI of an MLflow in which promoted models are registered; empty for none.
        max_pixels: Largest image in pixels; larger ones are rejected.
        s3_endpoint: URL of the S3 store; empty for S3_ENDPOINT of the steps' environment, or AWS.
        weights_mirror: Where published weights are copied to, s3://bucket/weights, for clusters without internet; empty
            for KUBEFACE_WEIGHTS_MIRROR of the steps' environment, or the publishers.
        seed: Seed of everything random.
        align_cpu: Processors of each pod that aligns, as 4 or 500m.
        align_memory: Memory of each pod that aligns, as 8Gi.
        audit_cpu: Processors of the audit.
        audit_memory: Memory of the audit.
        evaluate_cpu: Processors of the evaluation.
        evaluate_memory: Memory of the evaluation.
        finetune_cpu: Processors of fine-tuning.
        finetune_memory: Memory of fine-tuning.
        finetune_gpus: GPUs of fine-tuning, as 1; several share the work. 0 for none, and with num_nodes above 1.
        gpu_type: What a GPU is called in your cluster: nvidia.com/gpu, amd.com/gpu, nvidia.com/mig-1g.5gb …
        node_selector: Labels of the nodes that fine-tuning runs on, as JSON: {"pool": "gpu"}.
        tolerations: Taints of nodes that fine-tuning may run on all the same, as JSON: [{"key": "nvidia.com/gpu",
            "operator": "Exists", "effect": "NoSchedule"}].
        num_nodes: Nodes that fine-tuning runs on; above 1 it is handed to Kubeflow Trainer.
        node_resources: With num_nodes above 1, what each node's pod gets, as JSON: {"cpu": "8", "memory": "32Gi",
            "nvidia.com/gpu": 1}.
        training_runtime: With num_nodes above 1, the ClusterTrainingRuntime of Kubeflow Trainer.
        ui: Address of Kubeflow Pipelines' UI, for a link in what the webhook is told; empty for none.
    """
    current = champion(models=models, name=name, only_if_changed=only_if_changed, s3_endpoint=s3_endpoint)
    place(current, cpu="500m", memory="1Gi", s3=True, hours=0.5)
    current.set_caching_options(False)  # which model is promoted, no argument tells

    planned = plan(
        source=source,
        listing=listing,
        identity_pattern=identity_pattern,
        forget=forget,
        num_shards=num_shards,
        s3_endpoint=s3_endpoint,
    )
    place(planned, cpu="500m", memory="2Gi", s3=True, hours=1)
    planned.set_caching_options(False)  # it is what tells the others whether the source has changed

    # Unchanged shards come from KFP's cache. What leaves the loop are receipts: parameters are collected from it.
    with dsl.ParallelFor(planned.output, name="shards", parallelism=PARALLELISM) as shard:
        ingested = ingest(
            source=source,
            shard=shard,
            listing=listing,
            identity_pattern=identity_pattern,
            max_pixels=max_pixels,
            seed=seed,
            s3_endpoint=s3_endpoint,
        )
        place(ingested, cpu="2", memory="4Gi", s3=True)

        aligned = align(
            faces=ingested.outputs["faces"],
            shard=shard,
            detector=detector,
            template=template,
            min_face_size=min_face_size,
            min_confidence=min_confidence,
        )
        place(aligned, align_cpu, align_memory)

        filtered = filter_faces(
            faces=ingested.outputs["faces"],
            aligned=aligned.outputs["aligned"],
            shard=shard,
            min_score=filter_min_score,
            min_face_size=filter_min_face_size,
            max_faces=max_faces,
            min_sharpness=min_sharpness,
            max_turn=max_turn,
            min_agreement=min_agreement,
        )
        place(filtered, cpu="4", memory="4Gi")
        filtered.set_display_name("filter")

    gathered = gather(
        ingested=dsl.Collected(ingested.outputs["Output"]),
        aligned=dsl.Collected(aligned.outputs["Output"]),
        filtered=dsl.Collected(filtered.outputs["Output"]),
        forget=forget,
        previous=f"{models}/{name}/data.json",
        seed=seed,
        s3_endpoint=s3_endpoint,
    )
    place(gathered, cpu="2", memory="4Gi", s3=True)

    audited = audit(
        aligned=gathered.outputs["out_aligned"],
        filtered=gathered.outputs["out_filtered"],
        evaluation_sets=f"{evaluation_sets} {lfw_archive}",
        previous=f"{models}/{name}/data.json",
        on_leak=on_leak,
        suspects=suspects,
        duplicates=duplicates,
        max_drift=max_drift,
        on_drift=on_drift,
        champion=current.outputs["trained"],
        s3_endpoint=s3_endpoint,
    )
    place(audited, audit_cpu, audit_memory, s3=True)

    with dsl.If(audited.outputs["Output"] == "train", name="train"):
        divided = split(
            aligned=gathered.outputs["out_aligned"],
            filtered=gathered.outputs["out_filtered"],
            audited=audited.outputs["audited"],
            apply_filter=apply_filter,
            heldout_fraction=heldout_fraction,
            val_fraction=val_fraction,
            val_people_fraction=val_people_fraction,
            min_images=min_images,
            seed=seed,
        )
        place(divided, cpu="1", memory="4Gi", hours=1)

        tuned = finetune(
            aligned=gathered.outputs["out_aligned"],
            divided=divided.outputs["divided"],
            backbone=backbone,
            pretrained=pretrained,
            degradation=degradation,
            recipe=recipe,
            settings=settings,
            checkpoints=checkpoints,
            resume=resume,
            device=device,
            workers=workers,
            seed=seed,
            s3_endpoint=s3_endpoint,
            weights_mirror=weights_mirror,
            num_nodes=num_nodes,
            node_resources=node_resources,
            training_runtime=training_runtime,
        )
        place(tuned, finetune_cpu, finetune_memory, s3=True, hours=FINETUNE_HOURS)
        tuned.set_accelerator_type(gpu_type).set_accelerator_limit(finetune_gpus)
        tuned.register_pipeline_channels([gpu_type, finetune_gpus])
        kubernetes.add_node_selector_json(tuned, node_selector)
        kubernetes.add_toleration_json(tuned, tolerations)
        # DataLoader workers hand batches over in shared memory; a pod's default is 64 MB.
        kubernetes.empty_dir_mount(tuned, "shared-memory", "/dev/shm", medium="Memory", size_limit="8Gi")  # noqa: S108

        evaluated = evaluate(
            aligned=gathered.outputs["out_aligned"],
            divided=divided.outputs["divided"],
            model=tuned.outputs["model"],
            degradation=degradation,
            lfw_archive=lfw_archive,
            lfw_pairs=lfw_pairs,
            pairs=pairs,
            bin_sets=bin_sets,
            probes=probes,
            fmr=fmr,
            gate=gate,
            champion=current.outputs["uri"],
            bootstrap=bootstrap,
            seed=seed,
            s3_endpoint=s3_endpoint,
            weights_mirror=weights_mirror,
        )
        place(evaluated, evaluate_cpu, evaluate_memory, s3=True)

        promoted = promote(
            model=tuned.outputs["model"],
            evaluation=evaluated.outputs["evaluation"],
            gathered=gathered.outputs["gathered"],
            audited=audited.outputs["audited"],
            name=name,
            destination=models,
            champion=current.outputs["uri"],
            model_registry=model_registry,
            mlflow=mlflow,
            s3_endpoint=s3_endpoint,
        )
        place(promoted, cpu="500m", memory="1Gi", s3=True, hours=1)

        reported = report(
            gathered=gathered.outputs["gathered"],
            aligned=gathered.outputs["out_aligned"],
            filtered=gathered.outputs["out_filtered"],
            divided=divided.outputs["divided"],
            model=tuned.outputs["model"],
            evaluation=evaluated.outputs["evaluation"],
            promotion=promoted.outputs["promotion"],
            audited=audited.outputs["audited"],
            gather_metrics=gathered.outputs["metrics"],
            audit_metrics=audited.outputs["metrics"],
            split_metrics=divided.outputs["metrics"],
            finetune_metrics=tuned.outputs["metrics"],
            evaluate_metrics=evaluated.outputs["metrics"],
            promote_metrics=promoted.outputs["metrics"],
            pipeline="face-finetuning",
            seed=seed,
        )
        place(reported, cpu="1", memory="2Gi", hours=1)

    with dsl.Else(name="keep"):
        kept = keep(
            gathered=gathered.outputs["gathered"],
            audited=audited.outputs["audited"],
            champion=current.outputs["uri"],
            pipeline="face-finetuning",
            seed=seed,
        )
        place(kept, cpu="500m", memory="1Gi", hours=1)

    concluded = conclude(
        left=dsl.OneOf(reported.outputs["Output"], kept.outputs["Output"]),
        models=models,
        name=name,
        run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        s3_endpoint=s3_endpoint,
    )
    place(concluded, cpu="500m", memory="512Mi", s3=True, hours=0.25)
    concluded.set_caching_options(False)  # it is about this run

    return Outputs(left=concluded.output, data=audited.outputs["html"])


face_finetuning = dsl.pipeline(
    told_at_the_end(face_finetuning_steps),
    name="face-finetuning",
    description="Fine-tunes a face-recognition model on your own people and says whether it got better.",
    pipeline_config=dsl.PipelineConfig(ttl_seconds_after_finished=KEPT_SECONDS),
)
