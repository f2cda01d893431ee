"""KFP interface of gather."""

from typing import Any

from kfp import dsl

from components.interface import component


@component("gather")
def gather(
    ingested: list[str],
    aligned: list[str],
    filtered: list[str],
    gathered: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
) -> None:
    """Merges the tables of all shards; the result does not depend on their number."""
    from pathlib import Path

    from components.execution import run_step
    from kubeface.gather.options import GatherOptions
    from kubeface.gather.step import gather
    from kubeface.records.data import gathered_tables
    from kubeface.runtime.options import read_options

    settings = read_options(GatherOptions, options, "gather.")
    out = Path(gathered.path)
    run_step(gathered, metrics, gather, ingested, aligned, filtered, out, *gathered_tables(out), settings)
