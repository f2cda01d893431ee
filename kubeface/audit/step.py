"""The audit step: checks of the data before anything is trained on them."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kubeface import __version__
from kubeface.audit.drift import FEATURES, make_histogram, measure_drift, read_previous
from kubeface.audit.duplicates import SamePhotograph, find_duplicates
from kubeface.audit.embeddings import Embedder, EmbeddingStore, no_embedding, sface
from kubeface.audit.evaluation_sets import read_evaluation_set, split_sources
from kubeface.audit.findings import Findings, count_findings, decide, identity_sizes, write_findings
from kubeface.audit.images import AuditedImages, read_audited_images
from kubeface.audit.label_errors import find_suspects, group_lookalikes, lookalike_pairs
from kubeface.audit.leaks import Leak, find_leaks
from kubeface.audit.options import AuditOptions
from kubeface.audit.page import render_page
from kubeface.faces.templates import WHOLE
from kubeface.records.findings import AuditFigures, Distributions, Drift, FindingsRecord, Setting
from kubeface.records.tasks import ATTRIBUTES, RECOGNITION
from kubeface.runtime.errors import require
from kubeface.storage.folders import new_file
from kubeface.tables.table import Table


class AuditResult(AuditFigures):
    """Figures of the audit, and what the run does next."""

    max_drift_found: float
    """Drift of the feature that drifted most since the earlier run; 0 without one."""
    decision: Literal["train", "keep"]
    """train, or keep the promoted model: on_drift is retrain, and the data have not drifted enough."""


def audit(aligned: Path, filtered: Path, out: Path, html: Path, options: AuditOptions = AuditOptions()) -> AuditResult:
    """Looks for duplicates, wrong labels, people of the evaluation sets, and drift.

    No image is copied: the result is a table of image_id, identity, kept, reason, cluster (images of one photograph)
    and person (identities that look like one), with data.json (FindingsRecord), duplicates.csv, suspects.csv, pairs.csv
    and leaks.csv beside it. When the step stops because of leaks or drift, everything is written before.

    Args:
        aligned: Aligned table.
        filtered: Filter table of this aligned table.
        out: Folder to write the audit table to.
        html: File to write the page to.
        options: Thresholds, and what is done about findings.

    Raises:
        KubefaceError: evaluation sets for whole photographs, tables that do not belong together, a source that cannot
            be read; leaks or drift where they are to stop the run.
    """
    table, verdict_table = Table(aligned, "aligned"), Table(filtered, "filter")
    require(table.rows > 0, f"{aligned} holds no image: run align again")
    previous = read_previous(options.previous) if options.previous else None
    whole = table.manifest.setting("template") == WHOLE
    require(
        not (whole and options.evaluation_sets),
        "evaluation_sets are looked through for faces, and whole photographs have none: leave evaluation_sets empty",
    )
    embed = no_embedding if whole else sface()
    with EmbeddingStore() as embeddings:
        images = read_audited_images(table, verdict_table, embed, embeddings)
        findings = _find(images, options, embed, whole)
        verdicts = decide(images, findings, options)
        features = {name: make_histogram(FEATURES[name], values) for name, values in _features(images, whole).items()}
        mean = findings.centres.overall[: 0 if whole else None]
        drift = measure_drift(features, mean, previous, options.max_drift)
        record = FindingsRecord(
            producer=f"audit {__version__}",
            settings=_settings(options, table, verdict_table, previous),
            counts=count_findings(images, findings, verdicts),
            classes=identity_sizes(images),
            features=features,
            embedding_mean=[round(float(value), 4) + 0.0 for value in mean],
            drift=drift,
        )
        write_findings(out, images, findings, verdicts, record)
        with new_file(html) as file:
            file.write_text(render_page(images, findings, verdicts, record, options.seed), "utf-8", "surrogateescape")
    _stop(options, images, findings.leaks, drift)
    figures = record.counts.model_dump(exclude={"reasons", "filter_reasons"})
    # Where it waits for drift: only above the limit, or where there is nothing to compare with.
    train = options.on_drift != "retrain" or drift.exceeded or drift.worst is None
    return AuditResult(**figures, max_drift_found=drift.largest, decision="train" if train else "keep")


def _find(images: AuditedImages, options: AuditOptions, embed: Embedder, whole: bool) -> Findings:
    """Runs every check."""
    duplicates = find_duplicates(images, SamePhotograph.of(options, whole))
    if options.task == ATTRIBUTES:  # names only say what belongs together, and none is wrong
        duplicates = replace(duplicates, two_names=np.zeros_like(duplicates.two_names))
    centres, suspects = find_suspects(images, duplicates.cluster, options.far_below)
    if whole:
        return Findings(duplicates, centres, [], group_lookalikes(centres, []), [])
    pairs = lookalike_pairs(images, centres, suspects, options.alike_above, options.image_above)
    lookalikes = group_lookalikes(centres, pairs)
    leaks = [
        leak
        for uri in split_sources(options.evaluation_sets)
        for leak in find_leaks(images, centres, read_evaluation_set(uri, embed), options)
    ]
    return Findings(duplicates, centres, suspects, lookalikes, leaks)


def _features(images: AuditedImages, whole: bool) -> dict[str, NDArray[Any]]:
    """Finite values of the features, by name; of whole photographs without those of faces."""
    values: dict[str, NDArray[Any]] = {
        "images_per_identity": np.bincount(images.identity, minlength=len(images.names)),
        "face_size": images.face_size,
        "image_size": images.image_size,
        "det_score": images.det_score,
        "brightness": images.brightness[images.readable],
    }
    values |= {name: images.filter_scores[name] for name in ("score", "sharpness", "turn", "agreement")}
    if whole:
        values = {name: values[name] for name in ("images_per_identity", "image_size", "brightness", "sharpness")}
    return {name: column[np.isfinite(column)] for name, column in values.items()}


def _settings(
    options: AuditOptions, table: Table, verdict_table: Table, previous: Distributions | None
) -> dict[str, Setting]:
    """What manifest and data.json record: the options, the inputs' hashes, and the hash of the earlier run's figures.

    The earlier run's address is not recorded, since it may change; nor is recognition, for which tables are made by
    default.
    """
    seen = hashlib.sha256(previous.model_dump_json().encode()).hexdigest() if previous else ""
    recorded = options.model_dump(mode="json", exclude={"task"} if options.task == RECOGNITION else None)
    return {"aligned": table.sha256, "filtered": verdict_table.sha256} | recorded | {"previous": seen}


def _stop(options: AuditOptions, images: AuditedImages, leaks: Sequence[Leak], drift: Drift) -> None:
    """Raises KubefaceError where leaks or drift are to stop the run."""
    leaked = list(dict.fromkeys(images.names[leak.identity] for leak in leaks))
    require(
        options.on_leak != "fail" or not leaked,
        f"{len(leaked)} people of the training data are in an evaluation set ({', '.join(leaked[:3])}"
        f"{', …' if len(leaked) > 3 else ''}): take them out, or set on_leak to drop; leaks.csv lists them",
    )
    require(
        options.on_drift != "stop" or not drift.exceeded,
        f"{drift.worst} drifted by {drift.largest} since the previous run, max_drift is {options.max_drift:g}: look at "
        "the data, or raise max_drift",
    )
