"""KFP interface of evaluate: one component for each task."""

from typing import Any

from kfp import dsl

from components.interface import component


@component("evaluate")
def evaluate(
    gathered: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
    options: dict[str, Any],
    champion: str = "",
) -> None:
    """Compares the fine-tuned model with its starting model, and the promoted one, on held-out people and more."""
    from pathlib import Path

    from components.execution import run_step
    from kubeface.evaluate.options import EvaluateOptions
    from kubeface.evaluate.step import evaluate
    from kubeface.records.data import gathered_tables
    from kubeface.records.evaluation import read_curves
    from kubeface.runtime.options import read_options

    settings = read_options(EvaluateOptions, options, "evaluate.")
    aligned, _ = gathered_tables(Path(gathered.path))
    folders = aligned, Path(divided.path), Path(model.path), Path(evaluation.path)
    run_step(evaluation, metrics, evaluate, *folders, settings, champion)
    curve = read_curves(Path(evaluation.path, "roc.json"))["heldout"]["finetuned"]
    roc.log_roc_curve(curve.fmr, curve.tmr, curve.threshold)


@component("evaluate")
def evaluate_attributes(
    gathered: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
    champion: str = "",
) -> None:
    """Compares a model of many labels with its features before fine-tuning, and the promoted one."""
    from pathlib import Path

    from components.execution import run_step
    from kubeface.evaluate.attributes import evaluate_attributes
    from kubeface.evaluate.options import EvaluateAttributesOptions
    from kubeface.records.data import gathered_tables
    from kubeface.runtime.options import read_options

    settings = read_options(EvaluateAttributesOptions, options, "evaluate.")
    aligned, _ = gathered_tables(Path(gathered.path))
    folders = aligned, Path(divided.path), Path(model.path), Path(evaluation.path)
    run_step(evaluation, metrics, evaluate_attributes, *folders, settings, champion)


@component("evaluate")
def evaluate_classes(
    gathered: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
    champion: str = "",
    scratch: dsl.Input[dsl.Model] = None,
) -> None:
    """Compares a classifier with its features before fine-tuning, one from scratch, and the promoted one."""
    from pathlib import Path

    from components.execution import run_step
    from kubeface.evaluate.classes import evaluate_classes
    from kubeface.evaluate.options import EvaluateClassesOptions
    from kubeface.records.data import gathered_tables
    from kubeface.runtime.options import read_options

    settings = read_options(EvaluateClassesOptions, options, "evaluate.")
    aligned, _ = gathered_tables(Path(gathered.path))
    folders = aligned, Path(divided.path), Path(model.path), Path(evaluation.path)
    run_step(
        evaluation, metrics, evaluate_classes, *folders, settings, champion, Path(scratch.path) if scratch else None
    )
