"""The command `compile`: the pipelines as KFP's intermediate representation, ready to upload."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import compiler

from kubeface import __version__
from kubeface.runtime.errors import require
from pipelines.build.catalogue import FACE_FINETUNING, TASKS, load, package_of, restored
from pipelines.build.images import REGISTRY, Images, commit, read_images
from pipelines.tasks import HOUR, PARALLELISM

FETCHING = ("audit", "finetune")
CACHE = "/cache"
MOST_HOURS = 10_000
NUMBER = re.compile(r"\d+(\.\d+)?")
STEP_IMAGE = re.compile(rf"{REGISTRY}/(\w+):{re.escape(__version__)}")  # as the components name theirs


def compile_pipeline(
    path: Path,
    registry: str = REGISTRY,
    tag: str = __version__,
    parallelism: int = PARALLELISM,
    images: Images | None = None,
    weights_claim: str = "",
    hours: Mapping[str, float] = {},
    pipeline: str = FACE_FINETUNING,
) -> None:
    """Writes a pipeline to a YAML file whose steps run the images `<registry>/<step>:<tag>`, or those given.

    Args:
        path: file to write.
        registry: registry and prefix of the images.
        tag: of the images.
        parallelism: shards worked on at a time, 1 or more; KFP knows no parameter for it.
        images: images by step, to be run by digest. Where a tag is moved, KFP serves results of the image before out of
            its cache (kubeflow/pipelines#13862); a digest cannot be moved.
        weights_claim: volume claim that the steps which fetch published weights or evaluation sets keep them in; empty
            for none. It must be there when a run begins: KFP knows no optional volume.
        hours: after which Kubernetes ends a step's pod, by step, above 0; the others keep theirs. KFP knows no
            parameter for it.
        pipeline: its name.

    Raises:
        KubefaceError: no such pipeline, a parallelism under 1, an image that is missing or was not pushed, hours of no
            step.
    """
    require(parallelism >= 1, f"parallelism is {parallelism}: it must be at least 1")
    made = load(pipeline)
    steps = {step for step, _ in images_in(made.pipeline_spec)}
    pinned = {step: image.pinned for step, image in (images or {}).items() if step in steps}
    if images is not None:
        missing = sorted(steps - pinned.keys())
        require(not missing, f"no image of {', '.join(missing)} is named: run 'make push' for all steps")
    path.parent.mkdir(parents=True, exist_ok=True)
    with restored(made):
        _change(made, parallelism, weights_claim, hours)
        compiler.Compiler().compile(made, str(path))
    # kfp's comment at the top shows default dictionaries in whatever order protobuf has them.
    text = re.sub(r"\A(#.*\n)+", "", path.read_text("utf-8"))
    path.write_text(STEP_IMAGE.sub(lambda name: pinned.get(name[1], f"{registry}/{name[1]}:{tag}"), text), "utf-8")


def images_in(spec: Any) -> list[tuple[str, Any]]:
    """The containers in a pipeline's spec, each with the step that its image is named for."""
    executors = spec.deployment_spec.fields["executors"].struct_value.fields.values()
    containers = (executor.struct_value.fields["container"].struct_value for executor in executors)
    return [(found[1], container) for container in containers if (found := STEP_IMAGE.fullmatch(container["image"]))]


def _change(made: Any, parallelism: int, weights_claim: str, hours: Mapping[str, float]) -> None:
    """Sets in a pipeline what KFP knows no parameter for."""
    for component in made.pipeline_spec.components.values():
        for task in component.dag.tasks.values():
            if task.HasField("parameter_iterator"):
                task.iterator_policy.parallelism_limit = parallelism
    if weights_claim:
        for step in FETCHING:
            for executor in _executors(made, step):
                _mount(made, executor, weights_claim)
    for step, limit in hours.items():
        _limit(made, step, limit)


def _executors(made: Any, step: str) -> list[str]:
    """Names of a step's executors, each a task's: called for its function, whose first word is the step (filter_faces,
    evaluate_classes), and numbered where there are several."""
    containers = made.pipeline_spec.deployment_spec.fields["executors"].struct_value.fields
    return [name for name in containers if _step(name) == step]


def _step(executor: str) -> str:
    return executor.split("-")[1]


def _mount(made: Any, executor: str, claim: str) -> None:
    """Keeps a step's cache in a volume: what kubernetes.mount_pvc and set_env_variable do while a DAG is built."""
    containers = made.pipeline_spec.deployment_spec.fields["executors"].struct_value.fields
    containers[executor].struct_value.fields["container"].struct_value.get_or_create_list("env").append(
        {"name": "KUBEFACE_CACHE", "value": CACHE}
    )
    settings = made.platform_spec.platforms["kubernetes"].deployment_spec.executors[executor]
    settings.get_or_create_list("pvcMount").append(
        {
            "mountPath": CACHE,
            "constant": claim,
            "pvcNameParameter": {"runtimeValue": {"constant": claim}},
        }
    )


def _limit(made: Any, step: str, hours: float) -> None:
    """Ends a step's pod after so many hours: what kubernetes.set_timeout does while a DAG is built."""
    executors = made.platform_spec.platforms["kubernetes"].deployment_spec.executors
    limited = _executors(made, step)
    known = sorted({_step(name) for name in executors})
    require(bool(limited), f"hours names {step}: use one of {', '.join(known)}")
    require(0 < hours <= MOST_HOURS, f"hours of {step} is {hours:g}: it must lie above 0 and up to {MOST_HOURS}")
    for executor in limited:
        executors[executor]["activeDeadlineSeconds"] = str(max(1, round(hours * HOUR)))


def read_hours(text: str) -> dict[str, float]:
    """Hours by step, of a text such as `finetune=72 evaluate=12`.

    Raises:
        KubefaceError: it is not written so.
    """
    limits = {}
    for word in text.split():
        step, _, hours = word.partition("=")
        require(bool(NUMBER.fullmatch(hours)), f"hours is '{word}': write a step and a number, as finetune=72")
        limits[step] = float(hours)
    return limits


def compile_pipelines(
    pipeline: str = "",
    *,
    out: Path | None = None,
    registry: str = REGISTRY,
    tag: str = "",
    images: Path | None = None,
    parallelism: int = PARALLELISM,
    weights_claim: str = "",
    hours: str = "",
) -> None:
    """Writes the pipelines for Kubeflow Pipelines.

    Args:
        pipeline: Name of one pipeline; all of them where empty.
        out: File to write, of the one pipeline; build/<pipeline>.yaml where it is not given.
        registry: Registry and prefix of the images.
        tag: Tag of the images; the git commit where empty.
        images: File of images by digest, as `kubeface push` writes it.
        parallelism: Shards worked on at a time.
        weights_claim: Volume claim that published weights are kept in; empty for none.
        hours: Time limits other than the usual ones, as "finetune=72 evaluate=12".

    Raises:
        KubefaceError: no such pipeline, a parallelism under 1, an image that was not pushed, hours of no step.
    """
    require(bool(pipeline) or not out, "--out is one file: name its pipeline")
    by_digest, limits = read_images(images) if images else None, read_hours(hours)
    for name in [pipeline] if pipeline else TASKS:
        path = out or package_of(name)
        compile_pipeline(path, registry, tag or commit(), parallelism, by_digest, weights_claim, limits, name)
        print(f"wrote {path}")
