"""KFP interface of ingest, and of the look at the source that comes before it."""

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
    from kubeface.ingest.step import plan as run
    from kubeface.runtime.errors import exit_on_error
    from kubeface.runtime.process import use_stores

    use_stores(s3_endpoint)
    planned = exit_on_error(
        run,
        source=source,
        listing=listing,
        identity_pattern=identity_pattern,
        forget=forget,
        num_shards=num_shards,
    )
    return list(planned["shards"])


@dsl.component(base_image="localhost/kubeface/ingest:0.1.0", install_kfp_package=False)
def ingest(
    source: str,
    faces: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    shard: str = "0/1",
    listing: str = "",
    identity_pattern: str = "",
    max_pixels: int = 50_000_000,
    seed: int = 0,
    s3_endpoint: str = "",
) -> str:
    """Reads the images of one shard of a source into a face table; returns its receipt."""
    from pathlib import Path

    from kubeface.ingest.step import ingest as run
    from kubeface.runtime.process import run_shard, use_stores

    use_stores(s3_endpoint)
    return run_shard(
        shard,
        faces,
        metrics,
        run,
        source=source,
        shard=shard,
        out=Path(faces.path),
        listing=listing,
        identity_pattern=identity_pattern,
        max_pixels=max_pixels,
        seed=seed,
    )
