"""The command `compile`: the pipelines as KFP's intermediate representation, ready to upload."""

import re
from contextvars import copy_context
from pathlib import Path
from typing import Any

from kfp import compiler

from kubeface import __version__
from kubeface.runtime.errors import require
from pipelines.build.catalogue import FACE_FINETUNING, TASKS, load, package_of
from pipelines.build.images import REGISTRY, Images, RegistryFlag, TagFlag, commit, read_images
from pipelines.tasks import BUILD, Build

MOST_HOURS = 10_000
NUMBER = re.compile(r"\d+(\.\d+)?")
STEP_IMAGE = re.compile(rf"{REGISTRY}/(\w+):{re.escape(__version__)}")  # as the components name theirs


def compile_pipeline(
    path: Path,
    registry: str = REGISTRY,
    tag: str = __version__,
    build: Build = Build(),
    images: Images | None = None,
    pipeline: str = FACE_FINETUNING,
) -> None:
    """Writes a pipeline to a YAML file whose steps run the images `<registry>/<step>:<tag>`, or those given.

    Args:
        build: what is compiled in; its parallelism is at least 1, its hours lie above 0.
        images: images by step, to be run by digest. Where a tag is moved, KFP serves results of the image before out of
            its cache (kubeflow/pipelines#13862); a digest cannot be moved.

    Raises KubefaceError if there is no such pipeline, the parallelism is under 1, an image is missing or was not
    pushed, or the hours are of no step."""
    require(build.parallelism >= 1, f"parallelism is {build.parallelism}: it must be at least 1")
    made = load(pipeline)
    steps = {step for step, _ in images_in(made.pipeline_spec)}
    for step, hours in build.hours.items():
        require(step in {*steps, "run"}, f"hours names {step}: use run, or one of {', '.join(sorted(steps))}")
        require(0 < hours <= MOST_HOURS, f"hours of {step} is {hours:g}: it must lie above 0 and up to {MOST_HOURS}")
    pinned = {step: image.pinned for step, image in (images or {}).items() if step in steps}
    if images is not None:
        missing = sorted(steps - pinned.keys())
        require(not missing, f"no image of {', '.join(missing)} is named: run 'make push' for all steps")
    path.parent.mkdir(parents=True, exist_ok=True)
    context = copy_context()
    context.run(BUILD.set, build)
    compiler.Compiler().compile(context.run(made.rebuild), str(path))
    # kfp's comment at the top shows default dictionaries in whatever order protobuf has them.
    text = re.sub(r"\A(#.*\n)+", "", path.read_text("utf-8"))
    path.write_text(STEP_IMAGE.sub(lambda name: pinned.get(name[1], f"{registry}/{name[1]}:{tag}"), text), "utf-8")


def images_in(spec: Any) -> list[tuple[str, Any]]:
    """The containers in a pipeline's spec, each with the step that its image is named for."""
    executors = spec.deployment_spec.fields["executors"].struct_value.fields.values()
    containers = (executor.struct_value.fields["container"].struct_value for executor in executors)
    return [(found[1], container) for container in containers if (found := STEP_IMAGE.fullmatch(container["image"]))]


def read_hours(text: str) -> dict[str, float]:
    """Hours by step, of a text such as `finetune=72 evaluate=12`. Raises KubefaceError if it is not written so."""
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
    registry: RegistryFlag = REGISTRY,
    tag: TagFlag = "",
    images: Path | None = None,
    parallelism: int = Build.parallelism,
    weights_claim: str = "",
    hours: str = "",
) -> None:
    """Writes the pipelines for Kubeflow Pipelines.

    Args:
        pipeline: Name of one pipeline; all of them where empty.
        out: File to write, of the one pipeline; build/<pipeline>.yaml where it is not given.
        images: File of images by digest, as `kubeface push` writes it.
        parallelism: Shards worked on at a time.
        weights_claim: Volume claim that published weights are kept in; empty for none.
        hours: Time limits other than the usual ones, as "finetune=72 evaluate=12".
    """
    require(bool(pipeline) or not out, "--out is one file: name its pipeline")
    by_digest, build = read_images(images) if images else None, Build(parallelism, weights_claim, read_hours(hours))
    for name in [pipeline] if pipeline else TASKS:
        path = out or package_of(name)
        compile_pipeline(path, registry, tag or commit(), build, by_digest, name)
        print(f"wrote {path}")
