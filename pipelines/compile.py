"""python -m pipelines.compile: the pipeline as KFP's intermediate representation, ready to upload."""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp import compiler

from components.faces.errors import KubefaceError, require
from components.faces.runtime import VERSION
from pipelines.face_finetuning import PARALLELISM, face_finetuning
from pipelines.images import REGISTRY, Images, commit, read_images

STEP_IMAGE = re.compile(rf"{REGISTRY}/(\w+):{re.escape(VERSION)}")  # as the components name theirs


def compile_pipeline(
    path: Path,
    registry: str = REGISTRY,
    tag: str = VERSION,
    parallelism: int = PARALLELISM,
    images: Images | None = None,
) -> None:
    """Writes the pipeline to a YAML file whose steps run the images `<registry>/<step>:<tag>`, or those given.

    Args:
        path: file to write.
        registry: registry and prefix of the images.
        tag: of the images.
        parallelism: shards worked on at a time, 1 or more; KFP knows no parameter for it.
        images: images by step, to be run by digest. Where a tag is moved, KFP serves results of the image before out of
            its cache (kubeflow/pipelines#13862); a digest cannot be moved.

    Raises:
        KubefaceError: a parallelism under 1, an image that is missing or was not pushed.
    """
    require(parallelism >= 1, f"parallelism is {parallelism}: it must be at least 1")
    steps = {step for step, _ in images_in(face_finetuning.pipeline_spec)}
    pinned = {step: image.pinned for step, image in (images or {}).items() if step in steps}
    if images is not None:
        missing = sorted(steps - pinned.keys())
        require(not missing, f"no image of {', '.join(missing)} is named: run 'make push' for all steps")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _parallelism(parallelism):
        compiler.Compiler().compile(face_finetuning, str(path))
    text = path.read_text("utf-8")
    path.write_text(STEP_IMAGE.sub(lambda name: pinned.get(name[1], f"{registry}/{name[1]}:{tag}"), text), "utf-8")


def images_in(spec: Any) -> list[tuple[str, Any]]:
    """Of each container in a pipeline's spec: the step that its image is named for, and the container itself."""
    executors = spec.deployment_spec.fields["executors"].struct_value.fields.values()
    containers = (executor.struct_value.fields["container"].struct_value for executor in executors)
    return [(found[1], container) for container in containers if (found := STEP_IMAGE.fullmatch(container["image"]))]


@contextmanager
def _parallelism(shards: int) -> Iterator[None]:
    loops = [
        task
        for part in face_finetuning.pipeline_spec.components.values()
        for task in part.dag.tasks.values()
        if task.HasField("parameter_iterator")
    ]
    before = [loop.iterator_policy.parallelism_limit for loop in loops]
    for loop in loops:
        loop.iterator_policy.parallelism_limit = shards
    try:
        yield
    finally:
        for loop, limit in zip(loops, before, strict=True):
            loop.iterator_policy.parallelism_limit = limit


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
    settings = parser.parse_args()
    try:
        images = read_images(settings.images) if settings.images else None
        compile_pipeline(settings.out, settings.registry, settings.tag, settings.parallelism, images)
    except KubefaceError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"wrote {settings.out}")


if __name__ == "__main__":
    main()
