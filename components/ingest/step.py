"""Ingest: images of any source to a face table."""

import hashlib
import io
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import imagehash
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

from components.faces.errors import require
from components.faces.fetch import fetch, split_checksum
from components.faces.folders import sha256_file
from components.faces.images import encode_png
from components.faces.progress import Progress
from components.faces.runtime import VERSION
from components.faces.sources import Source, open_source
from components.faces.table import TableWriter
from components.ingest.naming import LISTINGS, Label, Naming, by_folder, by_listing, by_pattern

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "TIFF", "GIF", "AVIF", "HEIF")
register_heif_opener()
THREADS = 16  # an object store answers many requests at once, and decoding leaves the interpreter lock


def fingerprint(source: str, listing: str = "") -> str:
    """A hash of what is in a source: names, sizes and version marks (ETags in S3), without reading the images.

    Args:
        source: folder, s3:// prefix, or archive; or a listing of images that lie beside it.
        listing: who is in which image, as CSV or Parquet; empty where folders or names say it.

    Returns:
        64 hex digits that change when a file or the listing changes, and when a file is added or removed.

    Raises:
        KubefaceError: the source is not there, cannot be reached or holds no file.
    """
    source, listing = _apart(source, listing)
    with open_source(source) as opened:
        require(bool(opened.files), _empty(source))
        return _fingerprint(opened, listing)


def ingest(
    source: str,
    out: Path,
    listing: str = "",
    identity_pattern: str = "",
    expected_fingerprint: str = "",
    max_pixels: int = 50_000_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Reads the images of a source into a face table.

    The folder that an image lies in names its identity, or its name does, or a listing; where `train/` and `val/` lie
    above those folders, the division is kept. Images that cannot be used are listed in rejected.csv and counted by
    reason. Pixels are kept: JPEG and PNG files that need no turning stay as they are, others become PNG.

    Args:
        source: Folder, s3://bucket/prefix, or a .tar, .tgz or .zip (path, s3:// or https:// with #sha256=…); or a
            listing of images that lie beside it.
        out: Folder to write the face table to.
        listing: CSV or Parquet file (path, s3:// or https:// with #sha256=…) with columns path, identity and perhaps
            split (train, val); other columns are kept as groups. Only images that it lists are read.
        identity_pattern: Regular expression whose first group, found in a file's name, is the identity, as ^(\\d+)_;
            empty for the folder's name.
        expected_fingerprint: Stop if the source no longer has this fingerprint; empty for no check.
        max_pixels: Largest width × height in pixels; larger images are rejected.
        seed: Seed of the order in which rows are stored.

    Returns:
        rows_in (files), rows_out (images), identities, rejected.

    Raises:
        KubefaceError: no image at all, one identity only, two folders of the same name, a listing or pattern that
            cannot be used, or a source that cannot be reached or has changed.
    """
    source, listing = _apart(source, listing)
    require(not (listing and identity_pattern), "listing and identity_pattern both name people: give one of them")
    naming: Naming = by_pattern(identity_pattern) if identity_pattern else by_folder
    with open_source(source) as opened:
        require(
            expected_fingerprint in ("", _fingerprint(opened, listing)),
            f"{source} changed while the run began: start it again",
        )
        there = {file.name for file in opened.files}
        missing: set[str] = set()
        names = [name for name in there if not _hidden(name)]
        if listing:
            labels = by_listing(listing)
            naming, names, missing = labels.get, sorted(labels.keys() & there), labels.keys() - there
        names.sort(key=lambda name: _rank(seed, name))
        require(
            bool(names), _empty(source) if not missing else f"{source} holds none of the images that {listing} lists"
        )
        settings = {"source": source, "listing": listing, "identity_pattern": identity_pattern,
                    "max_pixels": max_pixels, "seed": seed}  # fmt: skip
        with (
            TableWriter(out, "faces", f"ingest {VERSION}", settings) as table,
            Progress("ingest", len(names)) as progress,
        ):
            for name in missing:
                table.reject(name, "missing_file", f"{listing} lists it")
            places: dict[str, str] = {}
            for image in _read_all(opened, names, naming, max_pixels):
                if isinstance(image, Reject):
                    table.reject(image.source, image.reason, image.detail)
                else:
                    _one_place(places, image.label)
                    table.add(image.row())
                progress.advance()
            require(table.rows > 0, f"{source}: none of the {len(names)} files is a usable image ({table.rejected})")
            require(
                table.identities > 1,
                f"{source} holds one identity only ('{next(iter(places))}'): put the images of each person into a "
                "folder of their own, or give identity_pattern or listing",
            )
    return {
        "rows_in": len(names) + len(missing),
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
    label: Label
    image: bytes
    width: int
    height: int
    phash: str

    def row(self) -> dict[str, Any]:
        """The table row. image_id: 16 hex digits of the SHA-256 of name and content."""
        digest = hashlib.sha256(self.source.encode("utf-8", "surrogateescape") + b"\0" + self.image)
        return {
            "image_id": digest.hexdigest()[:16],
            "identity": self.label.identity,
            "source": self.source,
            "given_split": self.label.given_split,
            "groups": json.dumps(self.label.groups, sort_keys=True, ensure_ascii=False) if self.label.groups else None,
            "image": self.image,
            "width": self.width,
            "height": self.height,
            "content": hashlib.sha256(self.image).hexdigest()[:16],
            "phash": self.phash,
        }


def _apart(source: str, listing: str) -> tuple[str, str]:
    """Source and listing, where the source is a listing of what lies beside it."""
    if listing or not split_checksum(source)[0].lower().endswith(LISTINGS):
        return source, listing
    folder, slash, _ = split_checksum(source)[0].rpartition("/")
    return (folder if slash else ".") or "/", source


def _fingerprint(opened: Source, listing: str) -> str:
    digest = hashlib.sha256(sha256_file(fetch(listing)).encode() if listing else b"")
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


def _read_all(opened: Source, names: list[str], naming: Naming, max_pixels: int) -> Iterator[Ingested | Reject]:
    """Reads and decodes in threads, a bounded number ahead, and yields in the order of `names`."""

    def load(name: str) -> Ingested | Reject:
        label = naming(name)
        if label is None:
            return Reject(name, "no_identity", "neither its folder nor its name says who it is")
        return _load(name, label, opened.read(name), max_pixels)

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


def _load(name: str, label: Label, data: bytes, max_pixels: int) -> Ingested | Reject:
    """Decodes one file in full, so that a truncated one is found here and not in training."""
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
            upright: Image.Image = image
            if not kept:
                upright = _eight_bits(ImageOps.exif_transpose(image))
                upright = upright.convert("L" if upright.mode in ("L", "1") else "RGB")
                data = encode_png(np.array(upright))
            width, height = upright.size
            seen = str(imagehash.phash(upright))
    except UnidentifiedImageError:
        return Reject(name, "not_an_image", f"none of {', '.join(FORMATS)}")
    except Image.DecompressionBombError as error:
        return Reject(name, "too_large", str(error))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        return Reject(name, "unreadable", f"{type(error).__name__}: {error}")
    return Ingested(name, label, data, width, height, seen)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scales grey levels of 16 bits to 8; Pillow's own conversion makes everything above 255 white."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    levels = np.asarray(image)
    if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
        raise ValueError("neither 8 nor 16 bits a channel, so that black and white are unknown")
    return Image.fromarray((levels // 257).astype(np.uint8))


def _one_place(places: dict[str, str], label: Label) -> None:
    """Two folders of one name may be two people: they are not merged silently."""
    known = places.setdefault(label.identity, label.place)
    require(
        known == label.place,
        f"identity '{label.identity}' stands in two folders, '{known}' and '{label.place}': merge or rename them",
    )
