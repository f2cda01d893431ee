"""KFP interface of audit."""

from typing import Any

from kfp import dsl

from components.interface import component


@component("audit")
def audit(
    gathered: dsl.Input[dsl.Dataset],
    audited: dsl.Output[dsl.Dataset],
    data: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    options: dict[str, Any],
) -> str:
    """Looks for duplicates, wrong labels, people of the evaluation sets, and drift."""
    from pathlib import Path
    from shutil import copy

    from components.execution import run_step
    from kubeface.audit.options import AuditOptions
    from kubeface.audit.step import audit
    from kubeface.records.data import gathered_tables
    from kubeface.runtime.options import read_options

    settings = read_options(AuditOptions, options, "audit.")
    inputs = gathered_tables(Path(gathered.path))
    result = run_step(audited, metrics, audit, *inputs, Path(audited.path), Path(data.path), settings)
    beside = Path(audited.path, "gathered")  # promote takes it from here, without all the images of gather
    beside.mkdir()
    copy(Path(gathered.path, "data.json"), beside)
    return result.decision
