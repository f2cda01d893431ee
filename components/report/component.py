"""KFP interface of report."""

from typing import Any

from kfp import dsl

from components.interface import component


@component("report")
def report(
    gathered: dsl.Input[dsl.Dataset],
    audited: dsl.Input[dsl.Dataset],
    divided: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    promotion: dsl.Input[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
    models: str,
    name: str,
    run: str,
    scratch: dsl.Input[dsl.Model] = None,
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

    settings = read_options(ReportOptions, options, "report.")
    folders = (Path(output.path) for output in (gathered, audited, divided, model, evaluation, promotion))
    outputs = RunOutputs.of_tasks(folders, Path(scratch.path) if scratch else None)
    run_step(None, metrics, write_report, outputs, Path(report.path), Path(summary.path), settings)
    exit_on_error(conclude, Path(summary.path), report.uri, models, name, run)
