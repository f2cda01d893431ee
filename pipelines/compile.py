"""python -m pipelines.compile: the pipeline as KFP's intermediate representation, ready to upload."""

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp import compiler

from components.faces.errors import KubefaceError, require
from components.faces.runtime import VERSION
from pipelines.face_finetuning import HOUR, PARALLELISM, face_finetuning
from pipelines.images import REGISTRY, Images, commit, read_images

FETCHING = ("audit", "finetune")
CACHE = "/cache"
MOST_HOURS = 10_000
NUMBER = re.compile(r"\d+(\.\d+)?")
STEP_IMAGE = re.compile(rf"{REGISTRY}/(\w+):{re.escape(VERSION)}")  # as the components name theirs


def compile_pipeline(
    path: Path,
    registry: str = REGISTRY,
    tag: str = VERSION,
    parallelism: int = PARALLELISM,
    images: Images | None = None,
    weights_claim: str = "",
    hours: Mapping[str, float] = {},
) -> None:
    """Writes the pipeline to a YAML file whose steps run the images `<registry>/<step>:<tag>`, or those given.

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

    Raises:
        KubefaceError: a parallelism under 1, an image that is missing or was not pushed, hours of no step.
    """
    require(parallelism >= 1, f"parallelism is {parallelism}: it must be at least 1")
    steps = {step for step, _ in images_in(face_finetuning.pipeline_spec)}
    pinned = {step: image.pinned for step, image in (images or {}).items() if step in steps}
    if images is not None:
        missing = sorted(steps - pinned.keys())
        require(not missing, f"no image of {', '.join(missing)} is named: run 'make push' for all steps")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _changed(parallelism, weights_claim, hours):
        compiler.Compiler().compile(face_finetuning, str(path))
    text = path.read_text("utf-8")
    path.write_text(STEP_IMAGE.sub(lambda name: pinned.get(name[1], f"{registry}/{name[1]}:{tag}"), text), "utf-8")


def images_in(spec: Any) -> list[tuple[str, Any]]:
    """Of each container in a pipeline's spec: the step that its image is named for, and the container itself."""
    executors = spec.deployment_spec.fields["executors"].struct_value.fields.values()
    containers = (executor.struct_value.fields["container"].struct_value for executor in executors)
    return [(found[1], container) for container in containers if (found := STEP_IMAGE.fullmatch(container["image"]))]


@contextmanager
def _changed(parallelism: int, weights_claim: str, hours: Mapping[str, float]) -> Iterator[None]:
    """The pipeline with what KFP knows no parameter for."""
    spec, platform = face_finetuning.pipeline_spec, face_finetuning.platform_spec
    kept, kept_platform = type(spec)(), type(platform)()
    kept.CopyFrom(spec)
    kept_platform.CopyFrom(platform)
    for part in spec.components.values():
        for task in part.dag.tasks.values():
            if task.HasField("parameter_iterator"):
                task.iterator_policy.parallelism_limit = parallelism
    if weights_claim:
        for step in FETCHING:
            _mount(f"exec-{step}", weights_claim)
    try:
        for step, limit in hours.items():
            _limit(step, limit)
        yield
    finally:
        spec.CopyFrom(kept)
        platform.CopyFrom(kept_platform)


def _mount(executor: str, claim: str) -> None:
    """Has a step keep its cache in a volume: what kubernetes.mount_pvc and set_env_variable do while a DAG is built."""
    containers = face_finetuning.pipeline_spec.deployment_spec.fields["executors"].struct_value.fields
    containers[executor].struct_value.fields["container"].struct_value.get_or_create_list("env").append(
        {"name": "KUBEFACE_CACHE", "value": CACHE}
    )
    settings = face_finetuning.platform_spec.platforms["kubernetes"].deployment_spec.executors[executor]
    settings.get_or_create_list("pvcMount").append(
        {
            "mountPath": CACHE,
            "constant": claim,
            "pvcNameParameter": {"runtimeValue": {"constant": claim}},
        }
    )


def _limit(step: str, hours: float) -> None:
    """Has Kubernetes end a step's pod after so many hours: what kubernetes.set_timeout does while a DAG is built."""
    executors = face_finetuning.platform_spec.platforms["kubernetes"].deployment_spec.executors
    # A task is named for its function, of which the step is the first word: filter_faces.
    found = [settings for name, settings in executors.items() if name.split("-")[1] == step]
    known = sorted(name.split("-")[1] for name in executors)
    require(bool(found), f"hours names {step}: use one of {', '.join(known)}")
    require(0 < hours <= MOST_HOURS, f"hours of {step} is {hours:g}: it must lie above 0 and up to {MOST_HOURS}")
    for settings in found:
        settings["activeDeadlineSeconds"] = str(max(1, round(hours * HOUR)))


def read_hours(text: str) -> dict[str, float]:
    """Hours by step out of `finetune=72 evaluate=12`.

    Raises:
        KubefaceError: it is written otherwise.
    """
    found = {}
    for word in text.split():
        step, _, hours = word.partition("=")
        require(bool(NUMBER.fullmatch(hours)), f"hours is '{word}': write a step and a number, as finetune=72")
        found[step] = float(hours)
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compile", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("build/face-finetuning.yaml"), help="file to write (%(default)s)"
    )
    parser.add_argument("--registry", default=REGISTRY, help="registry and prefix of the images (%(default)s)")
    parser.add_argument("--tag", default=commit(), help="tag of the images, the git commit (%(default)s)")
    parser.add_argument("--parallelism", type=int, default=PARALLELISM, help="shards worked on at a time (%(default)s)")
    parser.add_argument("--images", type=Path, help="file of images by digest, as 'make push' writes it")
    parser.add_argument("--weights-claim", default="", help="volume claim that published weights are kept in")
    parser.add_argument(
        "--hours", default="", help="time limits other than the usual ones, as 'finetune=72 evaluate=12'"
    )
    settings = parser.parse_args()
    try:
        images = read_images(settings.images) if settings.images else None
        compile_pipeline(
            settings.out,
            settings.registry,
            settings.tag,
            settings.parallelism,
            images,
            settings.weights_claim,
            read_hours(settings.hours),
        )
    except KubefaceError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"wrote {settings.out}")


if __name__ == "__main__":
    main()
