"""Report: one run as a page to read and as figures to compare."""

import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.faces.folders import read_json, write_json
from components.faces.runtime import VERSION
from components.faces.table import Table
from components.report.page import render
from components.report.run import Run, read_metrics, read_object

MODEL_FIELDS = ("backbone", "start", "start_license", "weights_sha256", "training")
EVALUATION_FIELDS = (
    "producer", "split", "degradation", "people", "images", "pairs", "gate_far", "baseline", "finetuned", "gain",
    "gate", "hardest",
)  # fmt: skip
PROMOTION_FIELDS = ("promoted", "reason", "uri", "version")
# What model.json says of the training that is told elsewhere or names one run's files.
NOT_SETTINGS = ("aligned", "split", "start_sha256", "versions", "onnx", "guard", "wise_ft_scores")


def report(
    faces: Path,
    aligned: Path,
    filtered: Path,
    split: Path,
    model: Path,
    evaluation: Path,
    promotion: Path,
    ingest_metrics: Path,
    align_metrics: Path,
    filter_metrics: Path,
    split_metrics: Path,
    finetune_metrics: Path,
    evaluate_metrics: Path,
    promote_metrics: Path,
    html: Path,
    summary: Path,
    pipeline: str = "face-finetuning",
    seed: int = 0,
) -> dict[str, Any]:
    """Tells one run: a self-contained page for people, and a JSON file of its figures for programs.

    The page holds its pictures and asks the network for nothing. Apart from seconds, equal runs give
    equal files.

    Args:
        faces: Face table of ingest.
        aligned: Aligned table.
        filtered: Filter table.
        split: Split table.
        model: Model folder of finetune.
        evaluation: Folder of evaluate.
        promotion: Folder with promotion.json.
        ingest_metrics: JSON file with the figures that ingest returned.
        align_metrics: The same of align.
        filter_metrics: The same of filter.
        split_metrics: The same of split.
        finetune_metrics: The same of finetune.
        evaluate_metrics: The same of evaluate.
        promote_metrics: The same of promote.
        html: File to write the page to.
        summary: JSON file to write the figures to.
        pipeline: Name of the pipeline, the page's title.
        seed: Seed of the run, to be told.

    Returns:
        rows_in (images ingested), rows_out (images evaluated).

    Raises:
        KubefaceError: a file is missing, corrupt or lacks a field, or the folders are of several runs.
    """
    run = Run(
        pipeline=pipeline,
        seed=seed,
        faces=Table(faces, "faces"),
        aligned=Table(aligned, "aligned"),
        filtered=Table(filtered, "filter"),
        split=Table(split, "split"),
        model=read_object(model / "model.json", MODEL_FIELDS),
        history=read_json(model / "logs" / "history.json"),
        evaluation_folder=evaluation,
        evaluation=read_object(evaluation / "evaluation.json", EVALUATION_FIELDS),
        roc=read_json(evaluation / "roc.json"),
        promotion=read_object(promotion / "promotion.json", PROMOTION_FIELDS),
        steps={
            "ingest": read_metrics(ingest_metrics),
            "align": read_metrics(align_metrics),
            "filter": read_metrics(filter_metrics),
            "split": read_metrics(split_metrics),
            "finetune": read_metrics(finetune_metrics),
            "evaluate": read_metrics(evaluate_metrics),
            "promote": read_metrics(promote_metrics),
        },
    )
    run.check()
    figures = summarise(run)
    page = render(run, figures["settings"], figures["versions"])
    with _new_file(html) as file:
        # A file name that is not UTF-8 reaches the page as surrogates; it shows question marks for them.
        file.write_bytes(page.encode("utf-8", "replace"))
    with _new_file(summary) as file:
        write_json(file, figures)
    return {"rows_in": run.faces.rows, "rows_out": run.steps["evaluate"]["rows_in"]}


def summarise(run: Run) -> dict[str, Any]:
    """The figures of a run; nothing in them but seconds differs between equal runs."""
    rejected: Counter[str] = Counter()
    for table in run.sources.values():
        rejected.update(table.manifest["rejected"])
    evaluation, promotion, training = run.evaluation, run.promotion, run.model["training"]
    return {
        "pipeline": run.pipeline,
        "seed": run.seed,
        "steps": run.steps,
        "dataset": {
            "images": run.faces.rows,
            "identities": run.faces.identities,
            "rejected": rejected.total(),
            "rejected_by_reason": dict(rejected),
            "heldout_identities": run.people_in("heldout"),
            "train_identities": run.people_in("train"),
        },
        "degradation": evaluation["degradation"],
        "baseline": evaluation["baseline"],
        "finetuned": evaluation["finetuned"],
        "gain": evaluation["gain"],
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
        "versions": {"python": platform.python_version(), "kubeface": VERSION} | training.get("versions", {}),
    }


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path` that becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
