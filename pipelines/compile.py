"""python -m pipelines.compile: the pipeline as KFP's intermediate representation, ready to upload."""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kfp import compiler

from components.faces.errors import KubefaceError, require
from components.faces.runtime import VERSION
from pipelines.face_finetuning import PARALLELISM, face_finetuning

REGISTRY = "localhost/kubeface"


def compile_pipeline(path: Path, registry: str = REGISTRY, tag: str = VERSION, parallelism: int = PARALLELISM) -> None:
    """Writes the pipeline to a YAML file whose steps run the images `<registry>/<step>:<tag>`.

    Args:
        path: file to write.
        registry: registry and prefix of the images.
        tag: of the images.
        parallelism: shards worked on at a time, 1 or more; KFP knows no parameter for it.

    Raises:
        KubefaceError: a parallelism under 1.
    """
    require(parallelism >= 1, f"parallelism is {parallelism}: it must be at least 1")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _parallelism(parallelism):
        compiler.Compiler().compile(face_finetuning, str(path))
    text = path.read_text("utf-8")
    path.write_text(re.sub(rf"{REGISTRY}/(\w+):{re.escape(VERSION)}", rf"{registry}/\1:{tag}", text), "utf-8")


@contextmanager
def _parallelism(shards: int) -> Iterator[None]:
    loops = [
        task for task in face_finetuning.pipeline_spec.root.dag.tasks.values() if task.HasField("parameter_iterator")
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
    parser.add_argument("--tag", default=VERSION, help="tag of the images (%(default)s)")
    parser.add_argument("--parallelism", type=int, default=PARALLELISM, help="shards worked on at a time (%(default)s)")
    settings = parser.parse_args()
    try:
        compile_pipeline(settings.out, settings.registry, settings.tag, settings.parallelism)
    except KubefaceError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"wrote {settings.out}")


if __name__ == "__main__":
    main()
