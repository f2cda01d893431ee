"""KFP interface of report."""

from typing import Any

from kfp import dsl


@dsl.component(base_image="localhost/kubeface/report:0.1.0", install_kfp_package=False)
def report(
    gathered: dsl.Input[dsl.Artifact],
    aligned: dsl.Input[dsl.Dataset],
    filtered: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    promotion: dsl.Input[dsl.Artifact],
    audited: dsl.Input[dsl.Dataset],
    gather_metrics: dsl.Input[dsl.Metrics],
    audit_metrics: dsl.Input[dsl.Metrics],
    split_metrics: dsl.Input[dsl.Metrics],
    finetune_metrics: dsl.Input[dsl.Metrics],
    evaluate_metrics: dsl.Input[dsl.Metrics],
    promote_metrics: dsl.Input[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
    models: str,
    name: str,
    run: str,
    scratch_model: dsl.Input[dsl.Model] = None,
    scratch_metrics: dsl.Input[dsl.Metrics] = None,
) -> None:
    """Makes a page for people and a JSON file for programs of one run, and keeps the run's conclusion."""
    from pathlib import Path

    from components.execution import run_step
    from kubeface.report.conclusion import conclude
    from kubeface.report.options import ReportOptions
    from kubeface.report.run import RunOutputs
    from kubeface.report.step import report as write_report
    from kubeface.runtime.errors import exit_on_error
    from kubeface.runtime.options import read_options

    steps = {
        "gather": gather_metrics,
        "audit": audit_metrics,
        "split": split_metrics,
        "finetune": finetune_metrics,
        "scratch": scratch_metrics,
        "evaluate": evaluate_metrics,
        "promote": promote_metrics,
    }
    outputs = RunOutputs(
        gathered=Path(gathered.path),
        aligned=Path(aligned.path),
        filtered=Path(filtered.path),
        audited=Path(audited.path),
        split=Path(divided.path),
        model=Path(model.path),
        evaluation=Path(evaluation.path),
        promotion=Path(promotion.path),
        metrics={step: Path(artifact.path) for step, artifact in steps.items() if artifact},
        scratch_model=Path(scratch_model.path) if scratch_model else None,
    )
    settings = read_options(ReportOptions, options, "report.")
    run_step(metrics, write_report, outputs, Path(report.path), Path(summary.path), settings)
    exit_on_error(conclude, Path(summary.path), report.uri, models, name, run)
