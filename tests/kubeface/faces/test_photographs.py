"""Decoding photographs of every format gives the pixels that ingest stores."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kubeface.faces.images import decode_rgb
from kubeface.faces.photographs import FORMATS, decode_photograph
from kubeface.ingest.step import ingest
from tests.support.images import encoded, write_files
from tests.support.tables import rows_of

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain.jpg": ("RGB", "JPEG", {"quality": 90}),
    "grey.jpg": ("L", "JPEG", {"quality": 90}),
    "print.jpg": ("CMYK", "JPEG", {"quality": 90}),
    "plain.png": ("RGB", "PNG", {}),
    "clear.png": ("RGBA", "PNG", {}),
    "clear-grey.png": ("LA", "PNG", {}),
    "line.png": ("1", "PNG", {}),
    "palette.png": ("P", "PNG", {}),
    "plain.webp": ("RGB", "WEBP", {"lossless": True}),
    "plain.gif": ("P", "GIF", {}),
    "plain.tif": ("RGB", "TIFF", {}),
    "telephone.heic": ("RGB", "HEIF", {"quality": 90}),
    "plain.avif": ("RGB", "AVIF", {"quality": 90}),
}


@pytest.fixture(scope="module")
def face(orl: dict[str, bytes]) -> Image.Image:
    with Image.open(io.BytesIO(orl["s1/1.pgm"])) as image:
        return Image.merge("RGB", (image, image.rotate(5), image.rotate(-5)))


@pytest.fixture(scope="module")
def photographs(face: Image.Image, orl: dict[str, bytes]) -> dict[str, bytes]:
    files = {name: encoded(face.convert(mode), kind, **options) for name, (mode, kind, options) in KINDS.items()}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"turned-{orientation}.jpg"] = encoded(face, "JPEG", exif=exif)
    deep = Image.fromarray(np.asarray(face.convert("L")).astype(np.uint16) * 257)
    return files | {"deep.png": encoded(deep), "scan.pgm": orl["s2/1.pgm"]}


def test_every_format_is_as_in_ingest(photographs: dict[str, bytes], orl: dict[str, bytes], tmp_path: Path) -> None:
    files = {f"one/{name}": data for name, data in photographs.items()} | {"other/1.pgm": orl["s3/1.pgm"]}
    ingest(write_files(tmp_path / "source", files), tmp_path / "faces")
    rows = rows_of(tmp_path / "faces")
    assert len(rows) == len(photographs) + 1
    for row in rows:
        ours = decode_photograph((tmp_path / "source" / row["source"]).read_bytes())
        assert ours.dtype == np.uint8
        assert np.array_equal(ours, decode_rgb(row["image"])), row["source"]


def test_photographs_become_upright(photographs: dict[str, bytes]) -> None:
    upright = decode_photograph(photographs["turned-1.jpg"]).astype(int)
    assert np.abs(decode_photograph(photographs["turned-3.jpg"]).astype(int)[::-1, ::-1] - upright).mean() < 2
    assert decode_photograph(photographs["turned-6.jpg"]).shape == (92, 112, 3)


def test_a_file_that_is_no_photograph_is_refused_with_a_reason(photographs: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"^the file is empty$"):
        decode_photograph(b"")
    with pytest.raises(ValueError, match=f"^none of {', '.join(FORMATS)}$"):
        decode_photograph(b"%PDF-1.7")
    for name in ("plain.jpg", "plain.png", "plain.tif", "telephone.heic"):
        data = photographs[name]
        with pytest.raises(ValueError, match=r"^(OSError|SyntaxError|ValueError|EOFError|RuntimeError): |^none of "):
            decode_photograph(data[: len(data) // 2])


def test_large_photographs_are_refused_before_they_are_decoded(photographs: dict[str, bytes]) -> None:
    assert decode_photograph(photographs["plain.png"], max_pixels=92 * 112).shape == (112, 92, 3)
    with pytest.raises(ValueError, match=r"^92×112 pixels, 10303 allowed$"):
        decode_photograph(photographs["plain.png"], max_pixels=92 * 112 - 1)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    end = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(ValueError, match=r"^60000×60000 pixels, 50000000 allowed$"):
        decode_photograph(bomb + end)
