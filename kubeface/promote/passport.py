"""Writing the passport of a version, and comparing a version with it."""

import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path

from kubeface import __version__
from kubeface.records.data import Erasure
from kubeface.records.evaluation import Evaluation, SetFigures
from kubeface.records.model import ModelRecord, SuperresolutionNetwork
from kubeface.records.passport import (
    FileEntry,
    Passport,
    PassportMetrics,
    StartingModel,
)
from kubeface.records.record import Record
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from kubeface.storage.folders import sha256_file

PASSPORT_FILE = "passport.json"
# Of all tasks; a model has those of its own.
MAIN_FIGURES = (
    "accuracy", "accuracy_standard_error", "auc", "eer", "tar_at_far", "genuine_pairs", "impostor_pairs",
    "average_precision", "f1", "macro_f1", "balanced_accuracy", "log_loss", "calibration_error", "measured_labels",
    "images",
)  # fmt: skip
MODELS = ("baseline", "finetuned", "champion", "scratch")
LIBRARIES = ("minio", "pydantic", "urllib3")  # of promote; the other steps record their own


def make_passport(
    name: str,
    model: ModelRecord,
    evaluation: Evaluation,
    erasure: Erasure | None,
    sources: Mapping[str, Path],
    files: Sequence[Path],
) -> Passport:
    """The passport of a version.

    Args:
        erasure: what gather left out to be forgotten; None where it was not asked.
        sources: files whose SHA-256 identifies the data of the run, by name.
        files: every file of the version but the passport.
    """
    training, network = model.training, model.superresolution
    return Passport(
        producer=f"promote {__version__}",
        name=name,
        images={
            "finetune": training.image,
            "evaluate": evaluation.image,
            "promote": os.environ.get("KUBEFACE_IMAGE") or None,
        },
        data={
            "aligned": training.aligned,
            "split": training.split,
            **{source: sha256_file(path) for source, path in sources.items()},
        },
        seed=training.seed,
        settings={
            "training": dict(training.entries(leave_out=("versions", "image"))),
            "evaluation": evaluation.settings.model_dump(mode="json"),
        },
        versions={
            "finetune": dict(training.versions),
            "evaluate": evaluation.versions,
            "promote": {"python": platform.python_version()} | {library: installed(library) for library in LIBRARIES},
        },
        start=StartingModel(name=model.start, license=model.start_license, sha256=training.start_sha256),
        superresolution=SuperresolutionNetwork(name=network.name, scale=network.scale, sha256=network.sha256)
        if network
        else None,
        metrics=_metrics(evaluation),
        erasure_marks=len(erasure.marks) if erasure else 0,
        files={file.name: FileEntry(sha256=sha256_file(file), bytes=file.stat().st_size) for file in files},
    )


def _metrics(evaluation: Evaluation) -> PassportMetrics:
    def main_figures(model: str) -> SetFigures | None:
        return {
            name: figures.model_dump(mode="json", include=set(MAIN_FIGURES))
            for name, figures in evaluation.figures_of(model).items()
        } or None

    return PassportMetrics(
        gate=evaluation.gate, gain=evaluation.gain, **{model: main_figures(model) for model in MODELS}
    )


class Verification(Record):
    """The outcome of verify."""

    uri: str
    whole: bool
    """Every file is the one that was promoted."""


def differences(uri: str) -> list[str]:
    """How the files of a version, a folder or prefix, differ from its passport, one sentence each; empty where they do
    not.

    Files are downloaded and hashed one at a time.

    Raises:
        KubefaceError: the passport cannot be read, or the store refuses or does not answer.
    """
    address = objects.join(uri, PASSPORT_FILE)
    if not objects.exists(address):
        return [f"{PASSPORT_FILE} is missing"]
    # Only the files are read, so that a version of any release can be checked.
    try:
        entries = json.loads(objects.read_bytes(address))["files"]
        files = {name: str(entry["sha256"]) for name, entry in entries.items()}
        if any("/" in name for name in files):
            raise ValueError("a file of a version lies beside its passport")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise KubefaceError(f"{address} is no passport: promote the model again") from None
    return [wrong for name, sha256 in sorted(files.items()) if (wrong := _difference(uri, name, sha256))]


def _difference(uri: str, name: str, sha256: str) -> str:
    """How a file differs from its passport; empty where it does not."""
    if not objects.exists(objects.join(uri, name)):
        return f"{name} is missing"
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "file")
        objects.download(objects.join(uri, name), copy)
        found = sha256_file(copy)
    return "" if found == sha256 else f"{name} has SHA-256 {found[:12]}…, its passport says {sha256[:12]}…"


def verify(uri: str, /) -> Verification:
    """Compares every file of a version with the SHA-256 in its passport.

    Args:
        uri: Folder or s3:// prefix of the version.

    Raises:
        KubefaceError: a file is missing or has changed; each is named.
    """
    found = differences(uri)
    require(not found, f"{uri} is not as it was promoted: {'; '.join(found)}")
    print(f"promote: {uri} is as it was promoted", flush=True)
    return Verification(uri=uri, whole=True)
