"""Image files and sources of them, made in tests."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from kubeface.faces.images import RGB


def smooth_image(seed: int, height: int = 24, width: int = 20) -> RGB:
    """A picture of soft colours whose corners, sides and channels differ."""
    small = np.random.default_rng(seed).integers(30, 226, (4, 4, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def scaled(image: RGB, factor: float) -> RGB:
    """An image so many times as large, by areas where it shrinks and cubic where it grows."""
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)


def encoded(image: RGB | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file in a format, as Pillow calls it, with options of its encoder."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def write_files(root: Path, files: Mapping[str, bytes]) -> str:
    """Writes files below a folder, which may exist; returns the folder."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def read_files(root: Path) -> dict[str, bytes]:
    """All files below a folder by their names in it."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def write_archive(path: Path, files: Mapping[str, bytes]) -> str:
    """Writes files into a .zip, .tar or .tgz; returns its path."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, data in files.items():
                packed.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return str(path)
