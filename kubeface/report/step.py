"""Report: one run as a page to read and as figures to compare."""

import platform
from collections import Counter
from pathlib import Path
from typing import Any

from kubeface import __version__
from kubeface.records.tasks import RECOGNITION, task_of
from kubeface.report.page import PAGES, REJECTED, render
from kubeface.report.pdf import find_browser, print_pdf
from kubeface.report.run import (
    Run,
    only_metrics,
    read_metrics,
    read_object,
    read_passport,
    read_rejected,
    read_thresholds,
    read_training,
)
from kubeface.runtime.errors import require
from kubeface.storage.folders import new_file, read_json, write_json
from kubeface.tables.table import Table

DATA_FIELDS = ("images", "identities", "rejected", "shards", "changed_shards", "erasure")
AUDIT_FIELDS = ("counts", "drift")
SHARD_STEPS = ("ingest", "align", "filter")
MODEL_FIELDS = ("backbone", "start", "start_license", "weights_sha256", "training")
EVALUATION_FIELDS = ("producer", "split", "degradation", "people", "images", "baseline", "finetuned", "gain", "gate")
PROMOTION_FIELDS = ("promoted", "reason", "uri", "version")
# What model.json says of the training that is told elsewhere or names one run's files.
NOT_SETTINGS = ("aligned", "split", "start_sha256", "versions", "onnx", "guard", "wise_ft_scores")


def report(
    gathered: Path,
    aligned: Path,
    filtered: Path,
    audited: Path,
    split: Path,
    model: Path,
    evaluation: Path,
    promotion: Path,
    gather_metrics: Path,
    audit_metrics: Path,
    split_metrics: Path,
    finetune_metrics: Path,
    evaluate_metrics: Path,
    promote_metrics: Path,
    html: Path,
    summary: Path,
    pipeline: str = "face-finetuning",
    seed: int = 0,
    pdf: Path | None = None,
    scratch_model: Path | None = None,
    scratch_metrics: Path | None = None,
) -> dict[str, Any]:
    """Tells one run: a self-contained page for people, and a JSON file of its figures for programs.

    The page holds its pictures and asks the network for nothing. Apart from seconds, equal runs give
    equal files; the PDF also holds the time of its printing.

    Args:
        gathered: Folder of gather, with data.json, steps.json and rejected.csv.
        aligned: Aligned table.
        filtered: Filter table.
        audited: Audit table, with data.json beside it.
        split: Split table.
        model: Model folder of finetune.
        evaluation: Folder of evaluate.
        promotion: Folder with promotion.json, and passport.json where promote wrote one.
        gather_metrics: JSON file with the figures that gather returned.
        audit_metrics: The same of audit.
        split_metrics: The same of split.
        finetune_metrics: The same of finetune.
        evaluate_metrics: The same of evaluate.
        promote_metrics: The same of promote.
        html: File to write the page to.
        summary: JSON file to write the figures to.
        pipeline: Name of the pipeline, the page's title.
        seed: Seed of the run, to be told.
        pdf: File to print the page to; needs Chromium or Chrome on PATH.
        scratch_model: Model folder of the small network that was trained from scratch beside it, if one was.
        scratch_metrics: JSON file with the figures that its finetune returned; goes with scratch_model.

    Returns:
        rows_in (images ingested), rows_out (images evaluated).

    Raises:
        KubefaceError: a file is missing, corrupt or lacks a field, the folders are of several runs, or
            there is no browser to print with.
    """
    browser = find_browser() if pdf else ""  # said now, not after the page is written
    require(
        (scratch_model is None) == (scratch_metrics is None),
        "scratch_model and scratch_metrics go together: give both or neither",
    )
    evaluated = evaluation / "evaluation.json"
    measured = read_object(evaluated, EVALUATION_FIELDS)
    task = task_of(measured)
    run = Run(
        pipeline=pipeline,
        seed=seed,
        data=read_object(gathered / "data.json", DATA_FIELDS),
        rejected=read_rejected(gathered / "rejected.csv", REJECTED),
        audit=read_object(audited / "data.json", AUDIT_FIELDS),
        aligned=Table(aligned, "aligned"),
        filtered=Table(filtered, "filter"),
        split=Table(split, "split"),
        training=read_training(model, MODEL_FIELDS),
        scratch=read_training(scratch_model, MODEL_FIELDS) if scratch_model else None,
        evaluation_folder=evaluation,
        evaluation=read_object(evaluated, PAGES[task].fields),
        roc=read_json(evaluation / "roc.json") if task == RECOGNITION else {},
        thresholds=read_thresholds(evaluation / "thresholds.csv"),
        promotion=read_object(promotion / "promotion.json", PROMOTION_FIELDS),
        passport=read_passport(promotion / "passport.json"),
        steps={
            **{step: only_metrics(told) for step, told in read_object(gathered / "steps.json", SHARD_STEPS).items()},
            "gather": read_metrics(gather_metrics),
            "audit": read_metrics(audit_metrics),
            "split": read_metrics(split_metrics),
            "finetune": read_metrics(finetune_metrics),
            **({"scratch": read_metrics(scratch_metrics)} if scratch_metrics else {}),
            "evaluate": read_metrics(evaluate_metrics),
            "promote": read_metrics(promote_metrics),
        },
    )
    run.check()
    figures = summarise(run)
    # A file name that is not UTF-8 reaches the page as surrogates; it shows question marks for them.
    page = render(run, figures["settings"], figures["versions"]).encode("utf-8", "replace")
    with new_file(html) as file:
        file.write_bytes(page)
    if pdf:
        with new_file(pdf) as file:
            print_pdf(browser, page, file)
    with new_file(summary) as file:
        write_json(file, figures)
    return {"rows_in": run.data["images"], "rows_out": run.steps["evaluate"]["rows_in"]}


def summarise(run: Run) -> dict[str, Any]:
    """The figures of a run; nothing in them but seconds differs between equal runs."""
    rejected: Counter[str] = Counter()
    for counts in run.data["rejected"].values():
        rejected.update(counts)
    task = PAGES[run.task]
    evaluation, promotion, training = task.absent | run.evaluation, run.promotion, run.model["training"]
    return {
        "pipeline": run.pipeline,
        "task": run.task,
        "seed": run.seed,
        "steps": run.steps,
        "dataset": {
            "images": run.data["images"],
            "identities": run.data["identities"],
            "shards": len(run.data["shards"]),
            "changed_shards": run.data["changed_shards"],
            "forgotten": run.data["erasure"]["files_left_out"],
            "duplicates": run.audit["counts"]["duplicates"],
            "suspects": run.audit["counts"]["suspects"],
            "leaks": run.audit["counts"]["leaks"],
            "drift": run.audit["drift"],
            "rejected": rejected.total(),
            "rejected_by_reason": dict(rejected),
            "heldout_identities": run.people_in("heldout"),
            "train_identities": run.people_in("train"),
        },
        "degradation": evaluation["degradation"],
        "baseline": evaluation["baseline"],
        "finetuned": evaluation["finetuned"],
        "gain": evaluation["gain"],
        **task.summary(evaluation),
        "gate": {
            "promoted": promotion["promoted"],
            "promotion_reason": promotion["reason"],
            **{name: evaluation["gate"][name] for name in ("better", "reason", "checks")},
        },
        "model": {
            "uri": promotion["uri"],
            "version": promotion["version"],
            "backbone": run.model["backbone"],
            "weights_sha256": run.model["weights_sha256"],
        },
        "settings": {name: value for name, value in training.items() if name not in NOT_SETTINGS},
        "versions": {"python": platform.python_version(), "kubeface": __version__} | training.get("versions", {}),
    }
