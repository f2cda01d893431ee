"""What a model of labels or classes is for: saying of photographs what is to be seen on them, without torch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from kubeface.evaluate.inference import UNKNOWN, WORDS, read_photograph
from kubeface.faces.detector import Detector
from kubeface.models.embeddings import Vectors
from kubeface.models.onnx_model import OnnxModel, file_of, open_model, read_model_record
from kubeface.models.recogniser import LeftOut, find_crop, open_detector
from kubeface.records.tasks import ATTRIBUTES, CLASSES
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.workers import in_order
from kubeface.storage import objects
from kubeface.storage.folders import read_json
from kubeface.storage.sources import ARCHIVES, open_source

BEST = 5  # classes that are told of a photograph

Told = dict[str, Any]


def attributes(photographs: Sequence[str], /, model: str) -> dict[str, Any]:
    """Says which labels photographs have.

    A photograph that cannot be used is told with its reason and does not stop the others.

    Args:
        photographs: Photographs, or folders or archives of them, as paths or s3:// addresses.
        model: Model folder of finetune or promoted version, as path or s3:// address.

    Returns:
        rows_in (photographs), rows_out (that could be labelled), photographs: by name labels (of each score, 0 to 1,
        threshold, and there: whether the photograph has it), faces and det_score; or reason and detail, why it could
        not be labelled.

    Raises:
        KubefaceError: the model cannot be read, is for another task or has no thresholds, or no photograph can be used.
    """
    network, detector, chosen = _open(model, ATTRIBUTES)
    thresholds = chosen.get("labels") or {}
    lacking = sorted(set(network.labels) - set(thresholds))
    require(
        not lacking,
        f"{objects.join(model, 'threshold.json')} has no threshold of {', '.join(lacking[:3])}: evaluate the model "
        "again",
    )

    def told(scores: Sequence[float]) -> Told:
        labels = {
            name: {"score": score, "threshold": thresholds[name], "there": score >= thresholds[name]}
            for name, score in zip(network.labels, scores, strict=True)
        }
        return {"labels": labels}

    def said(entry: Told) -> str:
        there = [name for name, label in entry["labels"].items() if label["there"]]
        return ", ".join(there) or "none of the labels"

    return _label(photographs, network, detector, told, said)


def classify(photographs: Sequence[str], /, model: str) -> dict[str, Any]:
    """Says which class photographs are of, or that it is none that is known.

    A photograph that cannot be used is told with its reason and does not stop the others.

    Args:
        photographs: Photographs, or folders or archives of them, as paths or s3:// addresses.
        model: Model folder of finetune or promoted version, as path or s3:// address.

    Returns:
        rows_in (photographs), rows_out (that could be classified), photographs: by name class (the likeliest), score
        (0 to 1), threshold, refused (whether the score lies under the threshold, so that it is none of the known
        classes; both null where none was chosen), best (scores of the five likeliest classes, best first), faces and
        det_score; or reason and detail, why it could not be classified.

    Raises:
        KubefaceError: the model cannot be read, is for another task or has no threshold.json, or no photograph can be
            used.
    """
    network, detector, chosen = _open(model, CLASSES)
    threshold = (chosen.get("unknown") or {}).get("threshold")

    def told(scores: Sequence[float]) -> Told:
        best = np.argsort(-np.array(scores), kind="stable")[:BEST].tolist()
        score = scores[best[0]]
        return {
            "class": network.labels[best[0]],
            "score": score,
            "threshold": threshold,
            "refused": None if threshold is None else score < threshold,
            "best": [{"class": network.labels[place], "score": scores[place]} for place in best],
        }

    def said(entry: Told) -> str:
        nearest = f"{entry['class']}, score {entry['score']:.3f}"
        return f"{UNKNOWN} (nearest {nearest})" if entry["refused"] else nearest

    return _label(photographs, network, detector, told, said)


def _open(uri: str, task: str) -> tuple[OnnxModel, Detector, dict[str, Any]]:
    """The model, the detector of its crops, and threshold.json."""
    record = read_model_record(uri)
    require(record.task == task, f"{uri} is a model of {record.task}: give one of {task}")
    network = open_model(uri, device="cpu", threads=1)
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
    return network, open_detector(uri, record), chosen


def _label(
    photographs: Sequence[str],
    network: OnnxModel,
    detector: Detector,
    told: Callable[[Sequence[float]], Told],
    said: Callable[[Told], str],
) -> dict[str, Any]:
    """What is told of each photograph, and a line of it printed.

    Args:
        told: what the scores of one mean.
        said: that in words.
    """

    def work(given: tuple[str, bytes | LeftOut]) -> tuple[str, Told]:
        name, data = given
        crop = data if isinstance(data, LeftOut) else find_crop(data, detector, network.template)
        if isinstance(crop, LeftOut):
            return name, {"reason": crop.reason, "detail": crop.detail}
        scores: Vectors = network.scores(crop.pixels[None])[0]
        return name, told(scores.tolist()) | {"faces": crop.faces, "det_score": crop.score}

    found: dict[str, Told] = {}
    for name, entry in in_order(work, _read(photographs), cpu_limit()):
        found[name] = entry
        words = f"{WORDS[entry['reason']]} ({entry['detail']})" if "reason" in entry else said(entry)
        print(f"{name}: {words}".encode("utf-8", "replace").decode(), flush=True)
    used = sum("reason" not in entry for entry in found.values())
    require(used > 0, f"none of {len(found)} photographs can be used: see the reason of each above, and give others")
    return {"rows_in": len(found), "rows_out": used, "photographs": found}


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
