"""KFP interface of ingest, and of the look at the source that comes before it."""

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/ingest:0.1.0", install_kfp_package=False)
def fingerprint(source: str, listing: str = "", s3_endpoint: str = "") -> str:
    """A hash of what is in the source: the cache key of all that follows."""
    from components.faces.runtime import guarded, use_stores
    from components.ingest.step import fingerprint as run

    use_stores(s3_endpoint)
    return guarded(run, source=source, listing=listing)


@dsl.component(base_image="localhost/kubeface/ingest:0.1.0", install_kfp_package=False)
def ingest(
    source: str,
    faces: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    listing: str = "",
    identity_pattern: str = "",
    source_fingerprint: str = "",
    max_pixels: int = 50_000_000,
    seed: int = 0,
    s3_endpoint: str = "",
) -> None:
    """Reads the images of a source into a face table."""
    from pathlib import Path

    from components.faces.runtime import run_component, use_stores
    from components.ingest.step import ingest as run

    use_stores(s3_endpoint)
    run_component(
        metrics,
        run,
        source=source,
        out=Path(faces.path),
        listing=listing,
        identity_pattern=identity_pattern,
        expected_fingerprint=source_fingerprint,
        max_pixels=max_pixels,
        seed=seed,
    )
