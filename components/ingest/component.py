"""KFP interface of ingest, and of the look at the source that comes before it."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/ingest:0.1.0", install_kfp_package=False)
def plan(
    source: str,
    listing: str = "",
    identity_pattern: str = "",
    forget: str = "",
    num_shards: int = 1,
    s3_endpoint: str = "",
) -> list[str]:
    """Divides the source into shards by name; each comes with what tells whether it has changed."""
    from kubeface.ingest.options import IngestOptions
    from kubeface.ingest.step import plan_shards
    from kubeface.runtime.errors import exit_on_error
    from kubeface.runtime.process import use_stores

    use_stores(s3_endpoint)
    settings = IngestOptions(listing=listing, identity_pattern=identity_pattern, forget=forget)
    return exit_on_error(plan_shards, source, num_shards, settings).shards


@dsl.component(base_image="localhost/kubeface/ingest:0.1.0", install_kfp_package=False)
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
