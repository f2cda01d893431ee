"""KFP interface of align."""

from typing import Any

from kfp import dsl

from components.interface import component


@component("align")
def align(
    faces: dsl.Input[dsl.Dataset],
    aligned: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
    shard: str = "0/1",
) -> str:
    """Finds the largest face nearest the centre and makes a crop of it."""
    from pathlib import Path

    from components.execution import run_shard
    from kubeface.align.options import AlignOptions
    from kubeface.align.step import align
    from kubeface.runtime.options import read_options

    settings = read_options(AlignOptions, options, "align.")
    return run_shard(shard, aligned, metrics, align, Path(faces.path), Path(aligned.path), settings)
