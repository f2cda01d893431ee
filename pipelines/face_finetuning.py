"""The pipeline: images of people in, a fine-tuned model, a comparison and a report out."""

from typing import Any, NamedTuple

from kfp import dsl, kubernetes

from components.align.component import align
from components.audit.component import audit
from components.evaluate.component import evaluate
from components.filter.component import filter_faces
from components.finetune.component import finetune
from components.gather.component import gather
from components.ingest.component import ingest, plan
from components.promote.component import champion, promote
from components.report.component import keep, report
from components.split.component import split

S3_SECRET = "mlpipeline-minio-artifact"  # noqa: S105 - the name of the secret that KFP keeps its own S3 key in
RETRIES = 2
PARALLELISM = 8  # shards worked on at a time; `pipelines.compile --parallelism` sets another number


class Outputs(NamedTuple):
    """What a run hands out: where its report, its figures and the model are (the promoted one where none was trained),
    as JSON, and the page about the data."""

    left: str
    data: dsl.HTML


def place(task: dsl.PipelineTask, cpu: str, memory: str, s3: bool = False) -> None:
    """Resources, retries and caching of a task, the name of its image, and the S3 key where it needs one."""
    task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
    task.set_retry(RETRIES, backoff_duration="30s", backoff_factor=2.0)
    task.set_caching_options(True)
    task.set_env_variable("KUBEFACE_IMAGE", task.container_spec.image)  # for the model's passport
    if s3:
        kubernetes.use_secret_as_env(
            task, S3_SECRET, {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
        )


@dsl.pipeline(
    name="face-finetuning",
    description="Fine-tunes a face-recognition model on your own people and says whether it got better.",
)
def face_finetuning(
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
    """
    planned = plan(
        source=source,
        listing=listing,
        identity_pattern=identity_pattern,
        forget=forget,
        num_shards=num_shards,
        s3_endpoint=s3_endpoint,
    )
    place(planned, cpu="500m", memory="2Gi", s3=True)
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
        place(aligned, cpu="4", memory="8Gi")

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
        s3_endpoint=s3_endpoint,
    )
    place(audited, cpu="4", memory="4Gi", s3=True)

    current = champion(models=models, name=name, s3_endpoint=s3_endpoint).after(audited)
    place(current, cpu="500m", memory="1Gi", s3=True)
    current.set_caching_options(False)  # which model is promoted, no argument tells

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
        place(divided, cpu="1", memory="4Gi")

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
        )
        place(tuned, cpu="8", memory="32Gi", s3=True)
        tuned.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
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
            champion=current.output,
            bootstrap=bootstrap,
            seed=seed,
            s3_endpoint=s3_endpoint,
            weights_mirror=weights_mirror,
        )
        place(evaluated, cpu="4", memory="8Gi", s3=True)

        promoted = promote(
            model=tuned.outputs["model"],
            evaluation=evaluated.outputs["evaluation"],
            gathered=gathered.outputs["gathered"],
            audited=audited.outputs["audited"],
            name=name,
            destination=models,
            champion=current.output,
            model_registry=model_registry,
            mlflow=mlflow,
            s3_endpoint=s3_endpoint,
        )
        place(promoted, cpu="500m", memory="1Gi", s3=True)

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
        place(reported, cpu="1", memory="2Gi")

    with dsl.Else(name="keep"):
        kept = keep(
            gathered=gathered.outputs["gathered"],
            audited=audited.outputs["audited"],
            champion=current.output,
            pipeline="face-finetuning",
            seed=seed,
        )
        place(kept, cpu="500m", memory="1Gi")

    return Outputs(
        left=dsl.OneOf(reported.outputs["Output"], kept.outputs["Output"]),
        data=audited.outputs["html"],
    )
