"""Ingest: images of any source to a face table."""

import hashlib
import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from components.faces.errors import require
from components.faces.images import encode_png
from components.faces.progress import Progress
from components.faces.runtime import VERSION
from components.faces.sources import Source, open_source
from components.faces.table import TableWriter

SPLITS = ("train", "val")
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "TIFF", "GIF")
THREADS = 16  # an object store answers many requests at once, and decoding leaves the interpreter lock


def fingerprint(source: str) -> str:
    """A hash of what is in a source: names, sizes and version marks (ETags in S3), without reading the images.

    Args:
        source: folder, s3:// prefix, or archive.

    Returns:
        64 hex digits that change when a file is added, removed or replaced.

    Raises:
        KubefaceError: the source is not there, cannot be reached or holds no file.
    """
    with open_source(source) as opened:
        require(bool(opened.files), _empty(source))
        return _fingerprint(opened)


def ingest(
    source: str, out: Path, expected_fingerprint: str = "", max_pixels: int = 50_000_000, seed: int = 0
) -> dict[str, Any]:
    """Reads one folder of images per identity into a face table.

    The folder that an image lies in names its identity; where `train/` and `val/` lie above those
    folders, the division is kept. Images that cannot be used are listed in rejected.csv and counted by
    reason. Pixels are kept: JPEG and PNG files that need no turning stay as they are, others become PNG.

    Args:
        source: Folder, s3://bucket/prefix, or a .tar, .tgz or .zip (path, s3:// or https:// with #sha256=…).
        out: Folder to write the face table to.
        expected_fingerprint: Stop if the source no longer has this fingerprint; empty for no check.
        max_pixels: Largest width × height in pixels; larger images are rejected.
        seed: Seed of the order in which rows are stored.

    Returns:
        rows_in (files), rows_out (images), identities, rejected.

    Raises:
        KubefaceError: no image at all, one identity only, two folders of the same name, or a source that
            cannot be reached or has changed.
    """
    with open_source(source) as opened:
        require(
            expected_fingerprint in ("", _fingerprint(opened)),
            f"{source} changed while the run began: start it again",
        )
        names = sorted((file.name for file in opened.files if not _hidden(file.name)), key=lambda n: _rank(seed, n))
        require(bool(names), _empty(source))
        settings = {"source": source, "max_pixels": max_pixels, "seed": seed}
        with (
            TableWriter(out, "faces", f"ingest {VERSION}", settings) as table,
            Progress("ingest", len(names)) as progress,
        ):
            folders: dict[str, str] = {}
            for image in _read_all(opened, names, max_pixels):
                if isinstance(image, Reject):
                    table.reject(image.source, image.reason, image.detail)
                else:
                    _one_folder(folders, image.identity, image.folder)
                    table.add(image.row())
                progress.advance()
            require(table.rows > 0, f"{source}: none of the {len(names)} files is a usable image ({table.rejected})")
            require(
                table.identities > 1,
                f"{source} holds one identity only ('{next(iter(folders))}'): put the images of each person into a "
                "folder of their own",
            )
    return {
        "rows_in": len(names),
        "rows_out": table.rows,
        "identities": table.identities,
        "rejected": sum(table.rejected.values()),
    }


@dataclass(frozen=True)
class Reject:
    """An image that is left out, and why."""

    source: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Ingested:
    """A usable image on its way into the table."""

    source: str
    identity: str
    folder: str
    given_split: str | None
    image: bytes
    width: int
    height: int

    def row(self) -> dict[str, Any]:
        """The table row. image_id: 16 hex digits of the SHA-256 of name and content."""
        digest = hashlib.sha256(self.source.encode("utf-8", "surrogateescape") + b"\0" + self.image)
        return {
            "image_id": digest.hexdigest()[:16],
            "identity": self.identity,
            "source": self.source,
            "given_split": self.given_split,
            "image": self.image,
            "width": self.width,
            "height": self.height,
        }


def _fingerprint(opened: Source) -> str:
    digest = hashlib.sha256()
    for file in opened.files:
        digest.update(f"{file.name}\0{file.size}\0{file.version}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _empty(source: str) -> str:
    return f"{source} holds no image: check the folder or prefix"


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _rank(seed: int, name: str) -> bytes:
    """Sort key that shuffles names alike, whatever other names there are."""
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()


def _read_all(opened: Source, names: list[str], max_pixels: int) -> Iterator[Ingested | Reject]:
    """Reads and decodes in threads, a bounded number ahead, and yields in the order of `names`."""

    def load(name: str) -> Ingested | Reject:
        return _load(name, opened.read(name), max_pixels)

    with ThreadPoolExecutor(THREADS) as pool:
        ahead: deque[Future[Ingested | Reject]] = deque()
        try:
            for name in names:
                ahead.append(pool.submit(load, name))
                if len(ahead) >= 4 * THREADS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _load(name: str, data: bytes, max_pixels: int) -> Ingested | Reject:
    """Decodes one file in full, so that a truncated one is found here and not in training."""
    path = PurePosixPath(name)
    if len(path.parts) < 2:
        return Reject(name, "no_identity", "the file lies in no folder that names a person")
    if not data:
        return Reject(name, "empty_file")
    if name.encode("utf-8", "replace").decode() != name:
        return Reject(name, "bad_name", "the name is not UTF-8: rename the file or folder")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                return Reject(name, "too_large", f"{image.width}×{image.height} pixels, {max_pixels} allowed")
            kept = (
                image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L") and image.getexif().get(0x0112, 1) == 1
            )
            image.load()
            if not kept:
                upright = _eight_bits(ImageOps.exif_transpose(image))
                data = encode_png(np.array(upright.convert("L" if upright.mode in ("L", "1") else "RGB")))
                width, height = upright.size
            else:
                width, height = image.size
    except UnidentifiedImageError:
        return Reject(name, "not_an_image", f"none of {', '.join(FORMATS)}")
    except Image.DecompressionBombError as error:
        return Reject(name, "too_large", str(error))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        return Reject(name, "unreadable", f"{type(error).__name__}: {error}")
    given = path.parts[-3] if len(path.parts) > 2 and path.parts[-3] in SPLITS else None
    folder = str(path.parent) if given is None else str(PurePosixPath(*path.parts[:-3], path.parts[-2]))
    return Ingested(name, path.parts[-2], folder, given, data, width, height)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scales grey levels of 16 bits to 8; Pillow's own conversion makes everything above 255 white."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    levels = np.asarray(image)
    if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
        raise ValueError("neither 8 nor 16 bits a channel, so that black and white are unknown")
    return Image.fromarray((levels // 257).astype(np.uint8))


def _one_folder(folders: dict[str, str], identity: str, folder: str) -> None:
    """Two folders of one name may be two people: they are not merged silently."""
    known = folders.setdefault(identity, folder)
    require(
        known == folder,
        f"identity '{identity}' stands in two folders, '{known}' and '{folder}': merge or rename them",
    )
