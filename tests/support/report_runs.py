"""A small synthetic run: what the steps leave for the report, with and without all that evaluate can measure."""

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kubeface.faces.images import encode_png
from kubeface.records.data import DataRecord
from kubeface.records.evaluation import EVALUATIONS
from kubeface.records.findings import AuditCounts, Drift, FindingsRecord, IdentitySizes
from kubeface.records.model import ModelRecord
from kubeface.records.passport import FileEntry, Passport, PassportMetrics, StartingModel
from kubeface.records.promotion import PromotionRecord
from kubeface.report.options import ReportOptions
from kubeface.report.run import RunOutputs
from kubeface.report.step import ReportResult, report
from kubeface.storage.folders import read_json, write_json
from kubeface.tables.table import Table, TableWriter
from tests.support.evaluations import (
    HOSTILE,
    LONG,
    complete,
    curves,
    gain,
    labelled,
    recognition,
    resolutions,
    verdict,
    verification,
)
from tests.support.evaluations import shared as shared_fields
from tests.support.json_files import edit
from tests.support.tables import DETECTED, HASHES

IMAGES = 4  # of each identity
QUALITY = {"score": 0.5, "face_size": 8.0, "faces": 1, "sharpness": 9.0, "turn": 0.0, "agreement": 1.0}
SHARD_STEPS = ("ingest", "align", "filter")
STEPS = ("gather", "audit", "split", "finetune", "evaluate", "promote")
FOLDERS = ("gathered", "audited", "aligned", "filtered", "split", "model", "evaluation", "promotion")
PROMOTED = PromotionRecord(
    producer="promote 0.1.0", promoted=True, reason="better than the champion", uri="s3://models/sface/7", version="7"
)
FINDINGS = FindingsRecord(
    producer="audit 0.1.0",
    settings={},
    counts=AuditCounts(
        rows_in=36, rows_out=31, rejected=5, identities=9, identities_out=8, duplicate_clusters=2, duplicates=3,
        same_photo_two_names=2, suspects=1, alike_pairs=4, leaks=5, reasons={"leak": 5}, filter_reasons={},
    ),
    classes=IdentitySizes(min=4, median=4.0, max=4, gini=0.0, effective=9.0),
    features={},
    embedding_mean=[],
    drift=Drift(compared=True, features={"brightness": 0.31}, worst="brightness", exceeded=False),
)  # fmt: skip
PASSPORT = Passport(
    producer="promote 0.1.0",
    name="sface",
    images={"finetune": None},
    data={},
    seed=7,
    settings={},
    versions={"finetune": {"torch": "2.14.1"}},
    start=StartingModel(name="wheel#sha256=1", license="MIT"),
    metrics=PassportMetrics.model_validate(
        {"gate": verdict("better", "auc", "AUC"), "gain": {"heldout": {"auc": gain(0.8, 0.9)}}}
    ),
    erasure_marks=0,
    files={
        "model.onnx": FileEntry(sha256="3" * 64, bytes=40_000_000),
        HOSTILE: FileEntry(sha256="4" * 64, bytes=1),
    },
)


@dataclass(frozen=True)
class MadeRun:
    """The outputs of a run, and where its report goes."""

    outputs: RunOutputs
    html: Path
    summary: Path

    def report(self, options: ReportOptions = ReportOptions(), pdf: Path | None = None) -> ReportResult:
        return report(self.outputs, self.html, self.summary, options, pdf)

    def figures(self) -> dict[str, Any]:
        """Makes the report; returns summary.json."""
        self.report()
        return dict(read_json(self.summary))

    def with_outputs(self, **outputs: Any) -> "MadeRun":
        """The same run with some outputs of another one."""
        return replace(self, outputs=replace(self.outputs, **outputs))

    def evaluation(self) -> dict[str, Any]:
        return dict(read_json(self.outputs.evaluation / "evaluation.json"))

    def change_evaluation(self, **changes: Any) -> None:
        write_json(self.outputs.evaluation / "evaluation.json", self.evaluation() | changes)


@dataclass(frozen=True)
class Made:
    """What a run of `make_run` is about.

    The first identity has a hostile name, as has the first label of attributes; of classes the identities are the
    classes, the last one unknown. With `reject`, ingest and align reject two images, and the filter the last image of
    each held-out identity. A `full` run has every part that an evaluation can have, a passport, and of classes a
    network from scratch.
    """

    identities: int = 9
    reject: bool = False
    degradation: str = "noise:60"
    lfw: bool = False
    full: bool = False
    task: str = "recognition"
    labels: int = 6
    promotion: PromotionRecord = PROMOTED


def colour(number: int, size: int = 8) -> bytes:
    """A PNG of one colour that depends on the number."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:] = (37 * number % 256, 91 * number % 256, 53 * number % 256)
    return encode_png(pixels)


def write_tables(folder: Path, names: list[str], reject: bool, classes: bool = False) -> list[tuple[str, str]]:
    """The four tables; every third identity is held out, of classes an image of each and the last class whole.

    Returns image_id and identity of the held-out images.
    """
    with (
        TableWriter(folder / "aligned", "aligned", "align", {}) as aligned,
        TableWriter(folder / "filtered", "filter", "filter", {}) as filtered,
        TableWriter(folder / "split", "split", "split", {"apply_filter": "validation"}) as split,
    ):
        heldout = []
        for number, (name, image) in enumerate((name, image) for image in range(IMAGES) for name in names):
            out = (image == 0 or name == names[-1]) if classes else names.index(name) % 3 == 0
            image_id, source = f"{number:016x}", f"{name}/{image}.png"
            row = {"image_id": image_id, "identity": name, "source": source}
            aligned.add({**row, **HASHES, **DETECTED, "image": colour(number), "width": 8, "height": 8})
            bad = reject and out and image == IMAGES - 1
            reason = "low_score" if bad else None
            filtered.add({"image_id": image_id, "kept": not bad, "reason": reason, **QUALITY})
            if bad:
                filtered.reject(source, "low_score", "score 0.500, face 8 pixels")
            part = "excluded" if bad else "heldout" if out else "val" if image == IMAGES - 1 else "train"
            why = "filter: low_score" if bad else None
            split.add({"image_id": image_id, "identity": name, "split": part, "reason": why})
            if part == "heldout":
                heldout.append((image_id, name))
    write_gathered(folder / "gathered", IMAGES * len(names), len(names), heldout, reject)
    return heldout


def write_gathered(folder: Path, images: int, people: int, heldout: list[tuple[str, str]], reject: bool) -> None:
    """What gather says of the steps before it."""
    folder.mkdir()
    rejected = [
        ("ingest", "somebody/notes.txt", "not_an_image", "<b>none</b> of JPEG, PNG"),
        ("align", "somebody/wall\udce9.png", "no_face", ""),  # a name that is not UTF-8
    ]
    low_score = ("low_score", "score 0.500, face 8 pixels")
    rejected += [("filter", f"{name}/{IMAGES - 1}.png", *low_score) for name in sorted({name for _, name in heldout})]
    rejected = rejected if reject else []
    with open(folder / "rejected.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([("step", "source", "reason", "detail"), *rejected])
    counts = {step: dict(Counter(row[2] for row in rejected if row[0] == step)) for step in SHARD_STEPS}
    shards = {"shards": {"0/1": "f" * 64}, "changed_shards": ["0/1"]}
    data = {"producer": "gather 0.1.0", "images": images, "identities": people, "rejected": counts, **shards}
    DataRecord.parse(data, "made").write(folder / "data.json")
    steps = {step: {"rows_in": 90 + n, "rows_out": n, "seconds": 1.5} for n, step in enumerate(SHARD_STEPS)}
    write_json(folder / "steps.json", steps)


def write_model(folder: Path, split: str, task: str = "recognition", backbone: str = "sface") -> None:
    """model.json and the epochs of a training."""
    (folder / "logs").mkdir(parents=True)
    training = {
        "producer": "finetune 0.1.0", "aligned": "0" * 64, "split": split, "head": "arcface", "lr": 1e-4,
        "pretrained": "", "freeze_batch_norm": True, "best_epoch": 2, "val_loss": 1.25, "val_accuracy": 0.75,
        "versions": {"torch": "2.14.1"},
    }  # fmt: skip
    model = {
        "task": task, "backbone": backbone, "embedding_size": 128, "start": "wheel#sha256=1", "start_license": "MIT",
        "weights_sha256": "1" * 64, "alignment": {"template": "arcface_112", "size": 112},
        "preprocessing": {"size": 112, "color_order": "rgb", "mean": 127.5, "std": 128.0}, "training": training,
    }  # fmt: skip
    ModelRecord.parse(model, "made").write(folder / "model.json")
    losses = {
        "train_loss": 3.0, "val_loss": 4.0, "train_accuracy": 0.5, "val_accuracy": 0.25, "seconds": 2.5,
        "val_auc": 0.75 if task == "attributes" else None,
    }  # fmt: skip
    write_json(folder / "logs" / "history.json", [{"epoch": n, "stage": min(n, 2), **losses} for n in (1, 2, 3)])


def write_evaluation(folder: Path, names: list[str], heldout: list[tuple[str, str]], split: str, made: Made) -> None:
    """The folder of evaluate, with its pictures; `heldout` are image_id and identity of the held-out images."""
    if made.task == "recognition":
        evaluation = recognition(heldout, split, made.degradation, made.lfw)
        evaluation = complete(evaluation) if made.full else evaluation
        pictures = {f"pairs/{image_id}": number for number, (image_id, _) in enumerate(heldout[:2])}
        pictures |= {f"samples/{image_id}": number for number, (image_id, _) in enumerate(heldout[:2])}
        further = ("cfp_fp__7", "Ann_Lee__Ann_Lee_0001", "Ann_Lee__Ann_Lee_0002")
        pictures |= {f"pairs/{name}": 1 for name in further if made.full}
        write_pictures(folder, pictures)
        write_json(folder / "roc.json", curves(evaluation))
    else:
        classes = made.task == "classes"
        labels = names[:-1] if classes else [HOSTILE, *(f"Label_{number}" for number in range(1, made.labels))]
        others = ({"champion": 0.9} | ({"scratch": 0.7} if classes else {})) if made.full else {}
        base = shared_fields(made.task, split, made.degradation, ("baseline", "finetuned", *others))
        evaluation = labelled(made.task, labels, heldout, base, others)
        pictures = {f"{name}/{number:03}": number for name in ("grid", "mistakes") for number in range(8)}
        pictures |= {f"samples/{heldout[number % len(heldout)][0]}": number for number in range(8)}
        write_pictures(folder, pictures, 64)
    EVALUATIONS[made.task].parse(evaluation, "made").write(folder / "evaluation.json")
    if made.full and made.task == "recognition":
        write_sweep(folder / "thresholds.csv", list(evaluation["finetuned"]))


def write_pictures(folder: Path, pictures: Mapping[str, int], size: int = 8) -> None:
    """Pictures by name without suffix, each of its own colour."""
    for name, number in pictures.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(colour(number, size))


def write_sweep(path: Path, sets: list[str]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "model", "threshold", "fmr", "fnmr", "accuracy"])
        for name in sets:
            for model in ("baseline", "finetuned"):
                writer.writerows([name, model, at / 10, 1 - at / 10, at / 10, 0.5] for at in range(11))


def make_run(folder: Path, **about: Any) -> MadeRun:
    """A run's outputs below `folder`; `about` are fields of `Made`."""
    made = Made(**about)
    names = [HOSTILE, *(f"person {number}" for number in range(1, made.identities))]
    if made.full:
        names[3] = LONG
    heldout = write_tables(folder, names, made.reject, made.task == "classes")
    split = Table(folder / "split", "split").sha256
    write_evaluation(folder / "evaluation", names, heldout, split, made)
    write_model(folder / "model", split, made.task)
    scratch = made.full and made.task == "classes"
    if scratch:
        write_model(folder / "scratch", split, made.task, backbone="small_cnn")
        write_json(folder / "scratch.json", {"rows_in": 9, "rows_out": 9, "seconds": 61.5})
    for name in ("audited", "promotion"):
        (folder / name).mkdir()
    FINDINGS.write(folder / "audited" / "data.json")
    made.promotion.write(folder / "promotion" / "promotion.json")
    if made.full:
        PASSPORT.write(folder / "promotion" / "passport.json")
    for number, step in enumerate(STEPS):
        write_json(folder / f"{step}.json", {"rows_in": 100 + number, "rows_out": number, "seconds": 1.5, "more": 1})
    outputs = RunOutputs(
        **{name: folder / name for name in FOLDERS},
        metrics={step: folder / f"{step}.json" for step in (*STEPS, *(["scratch"] if scratch else []))},
        scratch_model=folder / "scratch" if scratch else None,
    )
    return MadeRun(outputs, folder / "out" / "report.html", folder / "out" / "summary.json")


def add_resolutions(run: MadeRun, paired: bool = False, network: bool = True) -> None:
    """Adds what was measured at low resolution, its set, pictures and LFW by size too; arguments are as in
    `resolutions`.
    """
    folder = run.outputs.evaluation
    evaluation = run.evaluation() | resolutions(paired, network)
    for model, level in (("baseline", 0.7), ("finetuned", 0.8)):
        evaluation[model]["heldout_cross"] = verification(level)
    evaluation["gain"]["heldout_cross"] = {"auc": gain(0.71, 0.81), "tar": gain(0.5, 0.6)}
    evaluation |= {"hardest_cross": evaluation["hardest"], "calibrated_on": "heldout_cross"}
    if "lfw" in evaluation:
        evaluation["lfw"]["sizes"] = [
            {"size": size, "baseline": verification(level), "finetuned": verification(level + 0.05)}
            for size, level in (("10", 0.7), ("14", 0.8), ("20", 0.9))
        ]
    if paired:
        evaluation["degradation"] = "none"
    parts = 3 if network and not paired else 2
    for number, size in enumerate(("10", "14", "20")):
        (folder / "sizes" / size).mkdir(parents=True)
        greys = [60 + 30 * number + 40 * part for part in range(parts)]
        strip = np.concatenate([np.full((112, 112, 3), grey, np.uint8) for grey in greys], 1)
        for face in range(4):
            (folder / "sizes" / size / f"{face}.png").write_bytes(encode_png(strip))
    run.change_evaluation(**evaluation)
    write_json(folder / "roc.json", read_json(folder / "roc.json") | {"heldout_cross": curves(evaluation)["heldout"]})
    if network:
        enlarger = {"name": "edsr.onnx@12ab34cd56ef", "scale": 8, "sha256": "5" * 64, "identities": []}
        edit(run.outputs.model / "model.json", lambda model: model.update(superresolution=enlarger))
