"""Aligned and filter tables out of real photographs, made by the audit's own way to find a face."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from kubeface.audit.evaluation_sets import crop_face
from kubeface.faces.detection import make_detector
from kubeface.faces.detector import Detector
from kubeface.faces.images import decode_rgb, encode_png
from kubeface.tables.hashing import perceptual_hash
from kubeface.tables.table import TableWriter


@dataclass(frozen=True)
class Photo:
    """A photograph of a data source; `crop` stands in for the aligned crop where it is given."""

    identity: str
    name: str
    data: bytes
    groups: dict[str, str] | None = None
    reason: str | None = None
    crop: bytes | None = None


@cache
def detector() -> Detector:
    return make_detector("retinaface", 1)


@cache
def crop_of(data: bytes) -> bytes:
    crop = crop_face(decode_rgb(data), detector(), 0.1)
    assert crop is not None
    return encode_png(crop)


def write_tables(root: Path, photos: Iterable[Photo], sharpness: float = 100.0) -> tuple[Path, Path]:
    """An aligned and a filter table; image ids rise with the order of the photographs."""
    with (
        TableWriter(root / "aligned", "aligned", "test 1", {}) as aligned,
        TableWriter(root / "filtered", "filter", "test 1", {}) as judged,
    ):
        for number, photo in enumerate(photos):
            pixels = decode_rgb(photo.data)
            side = float(min(pixels.shape[:2])) / 2
            aligned.add(
                {
                    "image_id": f"{number:016x}",
                    "identity": photo.identity,
                    "source": f"{photo.identity}/{photo.name}",
                    "groups": json.dumps(photo.groups) if photo.groups else None,
                    "image": crop_of(photo.data) if photo.crop is None else photo.crop,
                    "width": 112,
                    "height": 112,
                    "content": hashlib.sha256(photo.data).hexdigest()[:16],
                    "phash": perceptual_hash(Image.fromarray(pixels)),
                    "landmarks": [0.0] * 10,
                    "det_score": 0.999,
                    "det_box": [0.0, 0.0, side, side],
                }
            )
            judged.add(
                {
                    "image_id": f"{number:016x}",
                    "kept": photo.reason is None,
                    "reason": photo.reason,
                    "score": 0.99,
                    "face_size": side,
                    "faces": 1,
                    "sharpness": sharpness,
                    "turn": 0.1,
                    "agreement": 0.9,
                }
            )
    return root / "aligned", root / "filtered"


def changed(data: bytes, change: Callable[[Image.Image], Image.Image], quality: int = 0) -> bytes:
    """A photograph after a change, as PNG, or as JPEG where a quality is given."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        pixels = change(image.convert("RGB"))
    if quality:
        pixels.save(buffer, "JPEG", quality=quality)
    else:
        pixels.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def people(orl: dict[str, bytes]) -> dict[str, list[bytes]]:
    """Ten photographs of each of ORL's forty people."""
    return {
        f"s{person}": [orl[f"s{person}/{number}.pgm"] for number in range(1, 11)] for person in range(1, 41)
    }  # fmt: skip
