"""The pipelines by name: the task of each, its module, and its compiled file."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubeface.plan.parameters import PIPELINES, parameters_of
from kubeface.records.tasks import Task

FACE_FINETUNING, FACE_ATTRIBUTES, IMAGE_CLASSIFICATION = "face-finetuning", "face-attributes", "image-classification"
LOW_RESOLUTION = "low-resolution"
TASKS: Mapping[str, Task] = {name: kind.task for name, kind in PIPELINES.items()}
BUILD = Path("build")


def load(name: str) -> Any:
    """The pipeline as kfp compiles and runs it: `a_b` of pipelines/a_b.py for `a-b`. Raises KubefaceError if there is
    none of this name."""
    parameters_of(name)
    module = name.replace("-", "_")
    return getattr(importlib.import_module(f"pipelines.{module}"), module)


def package_of(name: str) -> Path:
    """Where `make compile` writes the pipeline. Raises KubefaceError if there is none of this name."""
    parameters_of(name)
    return BUILD / f"{name}.yaml"


@contextmanager
def restored(pipeline: Any) -> Iterator[None]:
    """Undoes at the end of the block what was changed of a pipeline in it: kfp makes it once for a process."""
    parts = [pipeline.pipeline_spec, pipeline.platform_spec]
    copies = [type(part)() for part in parts]
    for copy, part in zip(copies, parts, strict=True):
        copy.CopyFrom(part)
    try:
        yield
    finally:
        for copy, part in zip(copies, parts, strict=True):
            part.CopyFrom(copy)
