"""KFP interface of promote."""

from typing import Any

from kfp import dsl

from components.interface import component


@component("promote")
def promote(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    audited: dsl.Input[dsl.Dataset],
    promotion: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
    champion: str = "",
) -> None:
    """Publishes the model and makes it the champion, if the gate found it better."""
    from pathlib import Path

    from components.execution import run_step
    from components.properties import describe_promotion
    from kubeface.promote.options import PromoteOptions
    from kubeface.promote.step import promote
    from kubeface.runtime.options import read_options

    settings = read_options(PromoteOptions, options, "promote.")
    judged, data = (Path(model.path), Path(evaluation.path)), (Path(audited.path, "gathered"), Path(audited.path))
    run_step(promotion, metrics, promote, *judged, Path(promotion.path), *data, settings, champion)
    describe_promotion(promotion, model, evaluation, settings.name)
