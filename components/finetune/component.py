"""KFP interface of finetune."""

from typing import Any

from kfp import dsl

from components.interface import component


@component("finetune")
def finetune(
    gathered: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
    nodes: dict[str, Any] = {},  # noqa: B006 - KFP wants the default as it is
    champion: str = "",
    decision: str = "train",
) -> None:
    """Fine-tunes a model on the training images of a split; on several GPUs or nodes where there are."""
    from components.execution import run_step
    from components.finetune.nodes import Nodes
    from components.finetune.training import train
    from components.properties import describe_model
    from kubeface.finetune.options import FinetuneOptions
    from kubeface.runtime.options import read_options

    settings = read_options(FinetuneOptions, options, "finetune.")
    where = read_options(Nodes, nodes, "nodes.")
    run_step(model, metrics, train, gathered, divided, model, settings, champion, decision, where)
    describe_model(model, champion)
