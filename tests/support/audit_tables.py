"""Tables of real photographs to audit, and what the audit wrote."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from kubeface.audit.evaluation_sets import crop_face
from kubeface.audit.options import AuditOptions
from kubeface.audit.step import AuditResult, audit
from kubeface.faces.detection import make_detector
from kubeface.faces.detector import Detector
from kubeface.faces.images import decode_rgb, encode_png
from kubeface.tables.hashing import perceptual_hash
from kubeface.tables.table import TableWriter
from tests.support.images import encoded
from tests.support.tables import DETECTED, JUDGED, rows_of


@dataclass(frozen=True)
class Photo:
    """A photograph of a data source; `crop` stands in for the aligned crop where it is given."""

    identity: str
    name: str
    data: bytes
    groups: dict[str, str] | None = None
    reason: str | None = None
    crop: bytes | None = None


def photos(people: Mapping[str, list[bytes]], *names: str, count: int = 5) -> list[Photo]:
    """The first photographs of some people."""
    return [Photo(name, f"{number}.pgm", data) for name in names for number, data in enumerate(people[name][:count])]


@cache
def _detector() -> Detector:
    return make_detector("retinaface", 1)


@cache
def crop_of(data: bytes) -> bytes:
    """The aligned crop of a photograph, as PNG."""
    crop = crop_face(decode_rgb(data), _detector(), 0.1)
    assert crop is not None
    return encode_png(crop)


def write_tables(root: Path, photos: Iterable[Photo], sharpness: float = 100.0) -> tuple[Path, Path]:
    """An aligned and a filter table; image ids rise with the order of the photographs."""
    with (
        TableWriter(root / "aligned", "aligned", "test 1", {}) as aligned,
        TableWriter(root / "filtered", "filter", "test 1", {}) as filtered,
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
                    **DETECTED,
                    "det_box": [0.0, 0.0, side, side],
                }
            )
            verdict = {"kept": photo.reason is None, "reason": photo.reason, "face_size": side, "sharpness": sharpness}
            filtered.add({"image_id": f"{number:016x}", **JUDGED, **verdict})
    return root / "aligned", root / "filtered"


def changed(data: bytes, change: Callable[[Image.Image], Image.Image], quality: int = 0) -> bytes:
    """A photograph after a change, as PNG, or as JPEG where a quality is given."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = change(image.convert("RGB"))
    return encoded(pixels, "JPEG", quality=quality) if quality else encoded(pixels)


def read_findings(root: Path, name: str) -> list[dict[str, str]]:
    """The rows of a CSV file of the audit in root/out."""
    with open(root / "out" / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def audited(root: Path, photos: Sequence[Photo], **options: Any) -> tuple[AuditResult, dict[str, dict[str, Any]]]:
    """The result of an audit of photographs into root/out and root/page.html, and the rows of its table by source."""
    result = audit(*write_tables(root, photos), root / "out", root / "page.html", AuditOptions(**options))
    rows = rows_of(root / "out")
    assert [row["identity"] for row in rows] == [photo.identity for photo in photos]
    assert all(row["kept"] == (row["reason"] is None) for row in rows)
    return result, {f"{photo.identity}/{photo.name}": row for photo, row in zip(photos, rows, strict=True)}


def dropped(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The reason by source of the images that are left out."""
    return {source: row["reason"] for source, row in rows.items() if not row["kept"]}
