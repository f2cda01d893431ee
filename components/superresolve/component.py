"""KFP interface of superresolve: enlarging images, and training the network that does it."""

from typing import Any

from kfp import dsl

from components.interface import component


@component("superresolve")
def superresolve(
    faces: dsl.Input[dsl.Dataset],
    enlarged: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
    shard: str = "0/1",
) -> str:
    """Enlarges images of low resolution, by a super-resolution network or bicubic interpolation."""
    from pathlib import Path

    from components.execution import run_shard
    from kubeface.runtime.options import read_options
    from kubeface.superresolve.options import SuperresolveOptions
    from kubeface.superresolve.step import superresolve

    settings = read_options(SuperresolveOptions, options, "superresolve.")
    return run_shard(shard, enlarged, metrics, superresolve, Path(faces.path), Path(enlarged.path), settings)


@component("superresolve")
def train_superresolution(
    gathered: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    network: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
) -> None:
    """Trains a super-resolution network on the people who are trained on, by their pixels and their identity."""
    from pathlib import Path

    from components.execution import run_step
    from kubeface.records.data import gathered_tables
    from kubeface.runtime.options import read_options
    from kubeface.superresolve.options import TrainSuperresolutionOptions
    from kubeface.superresolve.training import train_superresolution

    settings = read_options(TrainSuperresolutionOptions, options, "train_superresolution.")
    aligned, _ = gathered_tables(Path(gathered.path))
    run_step(network, metrics, train_superresolution, aligned, Path(divided.path), Path(network.path), settings)
