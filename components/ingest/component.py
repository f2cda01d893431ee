"""KFP interface of ingest."""

from typing import Any

from kfp import dsl

from components.interface import component


@component("ingest")
def ingest(
    faces: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
    source: str,
    shard: str = "0/1",
) -> str:
    """Reads the images of one shard of a source into a face table; returns its receipt."""
    from pathlib import Path

    from components.execution import run_shard
    from kubeface.ingest.options import IngestOptions
    from kubeface.ingest.step import ingest
    from kubeface.runtime.options import read_options

    settings = read_options(IngestOptions, options, "ingest.")
    return run_shard(shard, faces, metrics, ingest, source, Path(faces.path), settings, shard=shard)
