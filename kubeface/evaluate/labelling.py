"""What a model of labels or classes is for: saying of photographs what is to be seen on them, without torch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

import numpy as np
from pydantic import ConfigDict, Field

from kubeface.evaluate.inference import UNKNOWN, WORDS, DetectedFace, read_photograph
from kubeface.faces.detector import Detector
from kubeface.models.embeddings import Vectors
from kubeface.models.onnx_model import OnnxModel, file_of, open_model, read_model_record
from kubeface.models.recogniser import Crop, LeftOut, find_crop, open_detector
from kubeface.records.evaluation import AttributesThreshold, ClassesThreshold
from kubeface.records.record import Record, StepResult
from kubeface.records.tasks import ATTRIBUTES, CLASSES
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.workers import in_order
from kubeface.storage import objects
from kubeface.storage.folders import read_json
from kubeface.storage.sources import ARCHIVES, open_source

BEST = 5  # classes that are named of a photograph


class UnusedPhotograph(Record):
    """A photograph that cannot be used."""

    reason: str
    """unreadable, no_face or low_confidence."""
    detail: str
    """A line on it."""

    def summary(self) -> str:
        """In words."""
        return f"{WORDS[self.reason]} ({self.detail})"


class LabelScore(Record):
    """Whether a photograph has a label."""

    score: float
    """0 to 1."""
    threshold: float
    """Score from which on the photograph has it."""
    there: bool
    """Whether it has."""


class PhotographLabels(DetectedFace):
    """The labels of a photograph."""

    labels: dict[str, LabelScore]
    """By name."""

    def summary(self) -> str:
        """The labels that it has."""
        return ", ".join(name for name, label in self.labels.items() if label.there) or "none of the labels"


class ClassScore(Record):
    """A class that a photograph may be of."""

    model_config = ConfigDict(serialize_by_alias=True)

    name: str = Field(serialization_alias="class")
    """Name of the class."""
    score: float
    """0 to 1."""


class PhotographClass(DetectedFace, ClassScore):
    """The likeliest class of a photograph."""

    threshold: float | None
    """Score under which it is of none of the known classes; None where none was chosen."""
    refused: bool | None
    """Whether the score lies under the threshold; None without one."""
    best: list[ClassScore]
    """The likeliest classes, best first."""

    def summary(self) -> str:
        """The class, or the nearest one."""
        nearest = f"{self.name}, score {self.score:.3f}"
        return f"{UNKNOWN} (nearest {nearest})" if self.refused else nearest


Seen = TypeVar("Seen", PhotographLabels, PhotographClass)


class LabelledPhotographs(StepResult, Generic[Seen]):
    """Photographs in, those that could be used out."""

    photographs: dict[str, Seen | UnusedPhotograph]
    """By name."""


def attributes(photographs: Sequence[str], /, model: str) -> LabelledPhotographs[PhotographLabels]:
    """Says which labels photographs have.

    A photograph that cannot be used is named with its reason and does not stop the others.

    Args:
        photographs: Photographs, or folders or archives of them, as paths or s3:// addresses.
        model: Model folder of finetune or promoted version, as path or s3:// address.

    Raises:
        KubefaceError: the model cannot be read, is for another task or has no thresholds, or no photograph can be used.
    """
    network, detector = _open(model, ATTRIBUTES)
    thresholds = AttributesThreshold.parse(*_read_threshold(model, ATTRIBUTES, network)).labels
    lacking = sorted(set(network.labels) - set(thresholds))
    require(
        not lacking,
        f"{objects.join(model, 'threshold.json')} has no threshold of {', '.join(lacking[:3])}: evaluate the model "
        "again",
    )

    def describe(crop: Crop, scores: Sequence[float]) -> PhotographLabels:
        labels = {
            name: LabelScore(score=score, threshold=thresholds[name], there=score >= thresholds[name])
            for name, score in zip(network.labels, scores, strict=True)
        }
        return PhotographLabels(labels=labels, faces=crop.faces, det_score=crop.score)

    return _label(photographs, network, detector, describe)


def classify(photographs: Sequence[str], /, model: str) -> LabelledPhotographs[PhotographClass]:
    """Says which class photographs are of, or that it is none that is known.

    A photograph that cannot be used is named with its reason and does not stop the others.

    Args:
        photographs: Photographs, or folders or archives of them, as paths or s3:// addresses.
        model: Model folder of finetune or promoted version, as path or s3:// address.

    Raises:
        KubefaceError: the model cannot be read, is for another task or has no threshold.json, or no photograph can be
            used.
    """
    network, detector = _open(model, CLASSES)
    unknown = ClassesThreshold.parse(*_read_threshold(model, CLASSES, network)).unknown
    threshold = unknown.threshold if unknown else None

    def describe(crop: Crop, scores: Sequence[float]) -> PhotographClass:
        order = np.argsort(-np.array(scores), kind="stable")[:BEST].tolist()
        best = [ClassScore(name=network.labels[number], score=scores[number]) for number in order]
        return PhotographClass(
            name=best[0].name,
            score=best[0].score,
            threshold=threshold,
            refused=None if threshold is None else best[0].score < threshold,
            best=best,
            faces=crop.faces,
            det_score=crop.score,
        )

    return _label(photographs, network, detector, describe)


def _open(uri: str, task: str) -> tuple[OnnxModel, Detector]:
    """The model and the detector of its crops."""
    record = read_model_record(uri)
    require(record.task == task, f"{uri} is a model of {record.task}: give one of {task}")
    return open_model(uri, device="cpu", threads=1), open_detector(uri, record)


def _read_threshold(uri: str, task: str, network: OnnxModel) -> tuple[Any, str]:
    """What the model's threshold.json holds, and its address."""
    address = objects.join(uri, "threshold.json")
    require(
        objects.exists(address),
        f"{uri} has no threshold.json: use a promoted version, or copy threshold.json of the model's evaluation beside "
        "it",
    )
    chosen: Any = read_json(file_of(uri, "threshold.json"))
    require(
        isinstance(chosen, dict) and chosen.get("onnx_sha256") == network.sha256 and chosen.get("task") == task,
        f"{address} is of another model: evaluate this one to get its own",
    )
    return chosen, address


def _label(
    photographs: Sequence[str],
    network: OnnxModel,
    detector: Detector,
    describe: Callable[[Crop, Sequence[float]], Seen],
) -> LabelledPhotographs[Seen]:
    """What `describe` makes of each photograph's crop and scores; a line of each is printed."""

    def work(given: tuple[str, bytes | LeftOut]) -> tuple[str, Seen | UnusedPhotograph]:
        name, data = given
        crop = data if isinstance(data, LeftOut) else find_crop(data, detector, network.template)
        if isinstance(crop, LeftOut):
            return name, UnusedPhotograph(reason=crop.reason, detail=crop.detail)
        scores: Vectors = network.scores(crop.pixels[None])[0]
        return name, describe(crop, scores.tolist())

    found: dict[str, Seen | UnusedPhotograph] = {}
    for name, entry in in_order(work, _read(photographs), cpu_limit()):
        found[name] = entry
        print(f"{name}: {entry.summary()}".encode("utf-8", "replace").decode(), flush=True)
    used = sum(not isinstance(entry, UnusedPhotograph) for entry in found.values())
    require(used > 0, f"none of {len(found)} photographs can be used: see the reason of each above, and give others")
    return LabelledPhotographs(rows_in=len(found), rows_out=used, photographs=found)


def _read(photographs: Sequence[str]) -> Iterator[tuple[str, bytes | LeftOut]]:
    """Each photograph's name with its bytes, or why it cannot be read; those of a folder in the order of names."""
    for address in photographs:
        with ExitStack() as stack:
            try:
                if not _holds_several(address):
                    yield address, objects.read_bytes(address)
                    continue
                source = stack.enter_context(open_source(address))
            except KubefaceError as error:
                yield address, LeftOut("unreadable", str(error))
                continue
            if not len(source.files):
                yield address, LeftOut("unreadable", "it holds no file")
            for name in source.files.names():
                yield objects.join(address, name), read_photograph(address, source, name)


def _holds_several(address: str) -> bool:
    """Whether it is a folder, an s3:// prefix or an archive."""
    if address.lower().endswith(ARCHIVES):
        return True
    return not objects.exists(address) if objects.is_s3(address) else objects.local_path(address).is_dir()
