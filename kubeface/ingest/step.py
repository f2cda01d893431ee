"""Ingest: images of any source to a face table."""

import hashlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kubeface import __version__
from kubeface.faces.images import encode_png
from kubeface.faces.photographs import FORMATS, eight_bits
from kubeface.ingest.catalogue import Catalogue, Shard, open_catalogue
from kubeface.ingest.naming import Label
from kubeface.ingest.options import IngestOptions
from kubeface.records.record import StepResult
from kubeface.runtime.errors import require
from kubeface.runtime.keyed_rng import by_rank
from kubeface.runtime.progress import Progress
from kubeface.runtime.workers import in_order
from kubeface.tables.erasure import read_erasure_list
from kubeface.tables.hashing import perceptual_hash
from kubeface.tables.manifest import Settings
from kubeface.tables.table import Rejection, Row, TableWriter

MOST_SHARDS = 10_000
THREADS = 16  # an object store answers many requests at once, and decoding releases the interpreter lock


@dataclass(frozen=True)
class ShardPlan:
    """How a source is divided into shards."""

    # Text of each shard that holds a file, as `ingest` takes it. It carries the digests of those in it who are to be
    # forgotten, so that ingest needs no option `forget` and a changed list runs only the shards that it concerns again.
    shards: list[str]
    files: int  # files to read
    forgotten: int  # files left out because of `forget`


class IngestResult(StepResult):
    """Files in, images out."""

    identities: int
    """People with an image."""
    rejected: int
    """Files that cannot be used."""
    forgotten: int
    """Files left out because of `forget`."""


def plan_shards(source: str, num_shards: int = 1, options: IngestOptions = IngestOptions()) -> ShardPlan:
    """Divides a source into shards by name, without reading an image.

    A person's images share a shard, which depends on nobody else. A shard's fingerprint changes when a file in it is
    added, removed, replaced, renamed or forgotten, or when its label changes.

    Args:
        source: Folder, s3:// prefix or archive; or a listing of images that lie beside it.
        num_shards: Number of shards, 1 to 10,000.
        options: Only listing, identity_pattern and forget matter.

    Raises:
        KubefaceError: the source is not there, cannot be reached or holds no image, or the options do not fit it.
    """
    require(1 <= num_shards <= MOST_SHARDS, f"num_shards is {num_shards}: it must lie between 1 and {MOST_SHARDS}")
    with open_catalogue(source, options, read_erasure_list(options.forget)) as catalogue:
        shards = catalogue.shards(num_shards)
        files, forgotten = len(catalogue.files), len(catalogue.forgotten)
    print(f"plan: {files} files in {len(shards)} shards, {forgotten} to be forgotten", file=sys.stderr)
    return ShardPlan([str(shard) for shard in shards], files, forgotten)


def ingest(source: str, out: Path, options: IngestOptions = IngestOptions(), *, shard: str = "0/1") -> IngestResult:
    """Reads the images of a source, or of a shard of it, into a face table.

    The folder that an image lies in names its identity, or its file name or a listing does; folders `train/`, `val/`
    and `test/` above those keep the given division. Unusable images are listed in rejected.csv and counted by reason.
    Pixels are kept: upright JPEG and PNG files stay as they are, all others become PNG.

    Args:
        source: Folder, s3://bucket/prefix, or a .tar, .tgz or .zip (path, s3:// or https:// with #sha256=…); or a
            listing of images that lie beside it.
        out: Folder to write the face table to.
        options: How identities are read, and which images are left out.
        shard: Part of the source to read, <number>/<count>; or the text of `plan_shards`, with which the step fails if
            that part has changed since.

    Raises:
        KubefaceError: no usable image, a single identity, two folders of the same name, a listing or pattern that
            cannot be used, or a source that cannot be reached or has changed. One shard of several may be empty or
            hold one identity.
    """
    part = Shard.parse(shard)
    with open_catalogue(source, options, part.erased | read_erasure_list(options.forget)) as whole:
        catalogue = whole.part(part)
        if part.fingerprint:
            now = {other.number: other.fingerprint for other in whole.shards(part.count)}
            require(
                now.get(part.number) == part.fingerprint,
                f"{source} changed while the run began (shard {part.number}/{part.count}): start it again",
            )
        return _write_table(source, catalogue, out, options, complete=part.count == 1)


def _write_table(source: str, catalogue: Catalogue, out: Path, options: IngestOptions, complete: bool) -> IngestResult:
    """Reads the files of a catalogue into a table; one of a complete source must show several people."""
    files, forgotten = catalogue.files, len(catalogue.forgotten)
    names = map(files.name, by_rank(options.seed, catalogue.stored_names()))
    # Without the shard's number: equal content gives an equal table, whichever shard of however many it is.
    settings: Settings = {"source": source, "forgotten": forgotten, **options.model_dump(exclude={"forget"})}

    def load(name: str) -> tuple[Label, Row] | Rejection:
        label = catalogue.naming(name)
        if label is None:
            return Rejection(name, "no_identity", "neither its folder nor its name says who it is")
        row = _read_image(name, label, catalogue.source.read(name), options.max_pixels)
        return row if isinstance(row, Rejection) else (label, row)

    with (
        TableWriter(out, "faces", f"ingest {__version__}", settings) as table,
        Progress("ingest", len(files)) as progress,
    ):
        for name in catalogue.missing:
            table.reject(name, "missing_file", f"{options.listing or source} lists it")
        folders: dict[str, str] = {}  # by identity
        for image in in_order(load, names, THREADS):
            if isinstance(image, Rejection):
                table.reject(*image)
            else:
                label, row = image
                folder = folders.setdefault(label.identity, label.folder)
                require(  # they may be two people
                    folder == label.folder,
                    f"identity '{label.identity}' stands in two folders, '{folder}' and '{label.folder}': merge or "
                    "rename them",
                )
                table.add(row)
            progress.advance()
        if complete:
            require(table.rows > 0, f"{source}: none of the {len(files)} files is a usable image ({table.rejected})")
            require(
                table.identities > 1,
                f"{source} holds one identity only ('{next(iter(folders), '')}'): put the images of each person into a "
                "folder of their own, or give identity_pattern or listing",
            )
    return IngestResult(
        rows_in=len(files) + len(catalogue.missing),
        rows_out=table.rows,
        identities=table.identities,
        rejected=sum(table.rejected.values()),
        forgotten=forgotten,
    )


def _read_image(name: str, label: Label, data: bytes, max_pixels: int) -> Row | Rejection:
    """Decodes a file in full, so that a truncated one is found here and not in training."""
    if not data:
        return Rejection(name, "empty_file")
    if name.encode("utf-8", "replace").decode() != name:
        return Rejection(name, "bad_name", "the name is not UTF-8: rename the file or folder")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                return Rejection(name, "too_large", f"{image.width}×{image.height} pixels, {max_pixels} allowed")
            kept = (
                image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L") and image.getexif().get(0x0112, 1) == 1
            )
            image.load()
            upright: Image.Image = image
            if not kept:
                upright = eight_bits(ImageOps.exif_transpose(image))
                upright = upright.convert("L" if upright.mode in ("L", "1") else "RGB")
                data = encode_png(np.array(upright))
            width, height = upright.size
            phash = perceptual_hash(upright)
    except UnidentifiedImageError:
        return Rejection(name, "not_an_image", f"none of {', '.join(FORMATS)}")
    except Image.DecompressionBombError as error:
        return Rejection(name, "too_large", str(error))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        return Rejection(name, "unreadable", f"{type(error).__name__}: {error}")
    name_bytes = name.encode("utf-8", "surrogateescape")
    return {
        "image_id": hashlib.sha256(name_bytes + b"\0" + data).hexdigest()[:16],
        "identity": label.identity,
        "source": name,
        "given_split": label.given_split,
        "groups": json.dumps(label.groups, sort_keys=True, ensure_ascii=False) if label.groups else None,
        "image": data,
        "width": width,
        "height": height,
        "content": hashlib.sha256(data).hexdigest()[:16],
        "phash": phash,
    }
