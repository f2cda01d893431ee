"""KFP interface of gather."""

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/gather:0.1.0", install_kfp_package=False)
def gather(
    ingested: list[str],
    aligned: list[str],
    filtered: list[str],
    out_aligned: dsl.Output[dsl.Dataset],
    out_filtered: dsl.Output[dsl.Dataset],
    gathered: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    forget: str = "",
    previous: str = "",
    seed: int = 0,
    s3_endpoint: str = "",
) -> None:
    """Merges the tables of all shards; the result does not depend on their number."""
    from pathlib import Path

    from kubeface.gather.step import gather as run
    from kubeface.runtime.process import run_component, use_stores

    use_stores(s3_endpoint)
    run_component(
        metrics,
        run,
        ingested=ingested,
        aligned=aligned,
        filtered=filtered,
        out=Path(gathered.path),
        out_aligned=Path(out_aligned.path),
        out_filtered=Path(out_filtered.path),
        forget=forget,
        previous=previous,
        seed=seed,
    )
