"""KFP interface of filter."""

from typing import Any

from kfp import dsl

from components.interface import component


@component("filter")
def filter_faces(
    faces: dsl.Input[dsl.Dataset],
    aligned: dsl.Input[dsl.Dataset],
    filtered: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
    shard: str = "0/1",
) -> str:
    """Scores every aligned image with RetinaFace and says which to keep."""
    from pathlib import Path

    from components.execution import run_shard
    from kubeface.filter.options import FilterOptions
    from kubeface.filter.step import filter_faces
    from kubeface.runtime.options import read_options

    settings = read_options(FilterOptions, options, "filter.")
    return run_shard(
        shard, filtered, metrics, filter_faces, Path(faces.path), Path(aligned.path), Path(filtered.path), settings
    )
