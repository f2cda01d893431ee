"""The pipelines by name: what each is for, where it is made, and what its compiled file is called."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubeface.plan.parameters import PIPELINES
from kubeface.records.tasks import Task
from kubeface.runtime.errors import require

FACE_FINETUNING, FACE_ATTRIBUTES, IMAGE_CLASSIFICATION = "face-finetuning", "face-attributes", "image-classification"
LOW_RESOLUTION = "low-resolution"
TASKS: Mapping[str, Task] = {name: kind.task for name, kind in PIPELINES.items()}
BUILD = Path("build")
PACKAGE = BUILD / f"{FACE_FINETUNING}.yaml"


def require_pipeline(name: str) -> None:
    """Raises:
    KubefaceError: there is no pipeline of this name.
    """
    require(name in TASKS, f"pipeline '{name}' is unknown: use one of {', '.join(TASKS)}")


def load(name: str) -> Any:
    """The pipeline that kfp compiles and kfp.local runs: `a_b` of pipelines/a_b.py for `a-b`.

    Raises:
        KubefaceError: there is none of this name.
    """
    require_pipeline(name)
    place = name.replace("-", "_")
    return getattr(importlib.import_module(f"pipelines.{place}"), place)


def package_of(name: str) -> Path:
    """Where `make compile` writes the pipeline.

    Raises:
        KubefaceError: there is none of this name.
    """
    require_pipeline(name)
    return BUILD / f"{name}.yaml"


@contextmanager
def kept(pipeline: Any) -> Iterator[None]:
    """Whatever is done to a pipeline while the block lasts is undone behind it: kfp makes it once for a process."""
    parts = [pipeline.pipeline_spec, pipeline.platform_spec]
    copies = [type(part)() for part in parts]
    for copy, part in zip(copies, parts, strict=True):
        copy.CopyFrom(part)
    try:
        yield
    finally:
        for copy, part in zip(copies, parts, strict=True):
            part.CopyFrom(copy)
