"""KFP interface of split."""

from typing import Any

from kfp import dsl

from components.interface import component


@component("split")
def split(
    gathered: dsl.Input[dsl.Dataset],
    audited: dsl.Input[dsl.Dataset],
    divided: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
) -> None:
    """Divides the images into train, val and heldout."""
    from pathlib import Path

    from components.execution import run_step
    from kubeface.records.data import gathered_tables
    from kubeface.runtime.options import read_options
    from kubeface.split.options import SplitOptions
    from kubeface.split.step import split

    settings = read_options(SplitOptions, options, "split.")
    inputs = gathered_tables(Path(gathered.path))
    run_step(divided, metrics, split, *inputs, Path(divided.path), Path(audited.path), settings)
