"""Report: the page and the figures of one run."""

import platform
from collections import Counter
from pathlib import Path

from kubeface import __version__
from kubeface.records.promotion import PromotionRecord
from kubeface.records.record import StepResult
from kubeface.records.summary import DatasetSummary, GateSummary, ModelSummary, SummaryRecord
from kubeface.records.tasks import RECOGNITION, task_of
from kubeface.report.options import ReportOptions
from kubeface.report.page import PAGES, REJECTED, render
from kubeface.report.pdf import find_browser, print_pdf
from kubeface.report.run import (
    Run,
    RunOutputs,
    read_metrics,
    read_object,
    read_passport,
    read_rejected,
    read_thresholds,
    read_training,
    step_figures,
)
from kubeface.runtime.errors import require
from kubeface.storage.folders import new_file, read_json
from kubeface.tables.table import Table

DATA_FIELDS = ("images", "identities", "rejected", "shards", "changed_shards", "erasure")
AUDIT_FIELDS = ("counts", "drift")
SHARD_STEPS = ("ingest", "align", "filter")
MODEL_FIELDS = ("backbone", "start", "start_license", "weights_sha256", "training")
EVALUATION_FIELDS = ("producer", "split", "degradation", "people", "images", "baseline", "finetuned", "gain", "gate")
# Entries of the training that stand elsewhere or name files of one run.
NOT_SETTINGS = ("aligned", "split", "start_sha256", "versions", "onnx", "guard", "wise_ft_scores")


STEPS = ("gather", "audit", "split", "finetune", "scratch", "evaluate", "promote")


class ReportResult(StepResult):
    """What report did: images ingested in, images evaluated out."""


def report(
    outputs: RunOutputs,
    html: Path,
    summary: Path,
    options: ReportOptions = ReportOptions(),
    pdf: Path | None = None,
) -> ReportResult:
    """Makes the report of a run: a self-contained page for people, and a JSON file of its figures for programs.

    The page holds its pictures and asks the network for nothing. Apart from seconds, equal runs give equal files; the
    PDF also holds the time of its printing.

    Args:
        outputs: What the steps wrote.
        html: File to write the page to.
        summary: JSON file to write the figures to.
        options: What the report says of its run.
        pdf: File to print the page to; needs Chromium or Chrome on PATH.

    Raises:
        KubefaceError: a file is missing, corrupt or lacks a field, the folders are of several runs, or there is no
            browser to print with.
    """
    browser = find_browser() if pdf else ""  # before anything is written
    run = read_run(outputs, options)
    figures = summarise(run)
    # A file name that is not UTF-8 reaches the page as surrogates; it shows question marks for them.
    page = render(run, figures).encode("utf-8", "replace")
    with new_file(html) as file:
        file.write_bytes(page)
    if pdf:
        with new_file(pdf) as file:
            print_pdf(browser, page, file)
    with new_file(summary) as file:
        figures.write(file)
    return ReportResult(rows_in=run.data["images"], rows_out=run.steps["evaluate"].rows_in)


def read_run(outputs: RunOutputs, options: ReportOptions) -> Run:
    """Reads and checks the outputs of a run.

    Raises:
        KubefaceError: a file is missing, corrupt or lacks a field, or the folders are of several runs.
    """
    require(
        (outputs.scratch_model is None) == ("scratch" not in outputs.metrics),
        "scratch_model and the metrics of scratch go together: give both or neither",
    )
    required = [step for step in STEPS if step != "scratch" and step not in outputs.metrics]
    require(not required, f"the metrics of {', '.join(required)} are missing: give the JSON file of each step")
    evaluated = outputs.evaluation / "evaluation.json"
    task = task_of(read_object(evaluated, EVALUATION_FIELDS))
    promotion = PromotionRecord.read(outputs.promotion / "promotion.json")
    shard_steps = read_object(outputs.gathered / "steps.json", SHARD_STEPS)
    run = Run(
        pipeline=options.pipeline,
        seed=options.seed,
        data=read_object(outputs.gathered / "data.json", DATA_FIELDS),
        rejected=read_rejected(outputs.gathered / "rejected.csv", REJECTED),
        audit=read_object(outputs.audited / "data.json", AUDIT_FIELDS),
        aligned=Table(outputs.aligned, "aligned"),
        filtered=Table(outputs.filtered, "filter"),
        split=Table(outputs.split, "split"),
        training=read_training(outputs.model, MODEL_FIELDS, promotion.trained),
        scratch=read_training(outputs.scratch_model, MODEL_FIELDS) if outputs.scratch_model else None,
        evaluation_folder=outputs.evaluation,
        evaluation=read_object(evaluated, PAGES[task].fields),
        roc=read_json(outputs.evaluation / "roc.json") if task == RECOGNITION else {},
        thresholds=read_thresholds(outputs.evaluation / "thresholds.csv"),
        promotion=promotion,
        passport=read_passport(outputs.promotion / "passport.json"),
        steps={
            **{step: step_figures(entry) for step, entry in shard_steps.items()},
            **{step: read_metrics(outputs.metrics[step]) for step in STEPS if step in outputs.metrics},
        },
    )
    run.check()
    return run


def summarise(run: Run) -> SummaryRecord:
    """The figures of a run; nothing in them but seconds differs between equal runs."""
    page = PAGES[run.task]
    evaluation, training = page.absent | run.evaluation, run.model["training"]
    shared = SummaryRecord(
        pipeline=run.pipeline,
        task=run.task,
        seed=run.seed,
        trained=run.promotion.trained,
        steps=run.steps,
        dataset=_dataset(run),
        degradation=evaluation["degradation"],
        baseline=evaluation["baseline"],
        finetuned=evaluation["finetuned"],
        gain=evaluation["gain"],
        gain_over_champion=evaluation["gain_over_champion"],
        gate=GateSummary(
            promoted=run.promotion.promoted,
            promotion_reason=run.promotion.reason,
            **{name: evaluation["gate"][name] for name in ("better", "reason", "checks")},
        ),
        model=ModelSummary(
            uri=run.promotion.uri,
            version=run.promotion.version,
            backbone=run.model["backbone"],
            weights_sha256=run.model["weights_sha256"],
        ),
        settings={name: value for name, value in training.items() if name not in NOT_SETTINGS},
        versions={"python": platform.python_version(), "kubeface": __version__} | training.get("versions", {}),
    )
    return page.summary(evaluation, shared)


def _dataset(run: Run) -> DatasetSummary:
    """The figures of the data."""
    rejected: Counter[str] = Counter()
    for counts in run.data["rejected"].values():
        rejected.update(counts)
    return DatasetSummary(
        images=run.data["images"],
        identities=run.data["identities"],
        shards=len(run.data["shards"]),
        changed_shards=run.data["changed_shards"],
        forgotten=run.data["erasure"]["files_left_out"],
        duplicates=run.audit["counts"]["duplicates"],
        suspects=run.audit["counts"]["suspects"],
        leaks=run.audit["counts"]["leaks"],
        drift=run.audit["drift"],
        rejected=rejected.total(),
        rejected_by_reason=dict(rejected),
        heldout_identities=run.people_in("heldout"),
        train_identities=run.people_in("train"),
    )
