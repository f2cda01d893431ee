"""Superresolve: images of few pixels enlarged, before their faces are looked for or after."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kubeface import __version__
from kubeface.faces.degradation import reduced
from kubeface.faces.images import RGB, decode_rgb, encode_crop, encode_png
from kubeface.faces.photographs import MAX_PIXELS
from kubeface.models.superresolution import BICUBIC, Enlarger, open_enlarger
from kubeface.runtime.errors import require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.runtime.workers import Row, by_pixels, in_order
from kubeface.storage.folders import read_json
from kubeface.tables.resolution_pairs import ENLARGED, LOW, enlarged_of, resolution_of
from kubeface.tables.table import Table, TableWriter

BICUBIC_SCALE = 4
WHICH = ("low", "small", "all")
BATCH_PIXELS = 4_000_000  # of what a worker takes at once, when it is enlarged
Outcome = Row | tuple[str, str]  # a row, or why there is none: reason, detail


def superresolve(
    faces: Path,
    out: Path,
    model: str = BICUBIC,
    scale: int = 0,
    which: str = "low",
    max_side: int = 0,
) -> dict[str, Any]:
    """Enlarges images of few pixels, by a super-resolution network or bicubic interpolation; others stay as they are.

    In front of align whole photographs become `scale` times larger, so that a face of a few pixels can be found and
    cropped; their group `enlarged` says so. Behind align crops keep their size: they are reduced to 1 / `scale` of it,
    which is all that a face of few pixels has, and enlarged back. Images that cannot be decoded, or would have more
    than 50 million pixels, are listed in rejected.csv, with what it was already.

    Args:
        faces: Face table of ingest, or the aligned table of align.
        out: Folder to write the table of the same kind to.
        model: What enlarges: bicubic, or a network (.onnx, .safetensors, TorchScript, or a folder of
            train_superresolution; path, s3:// or https:// with #sha256=…).
        scale: How many times, 2 to 16; 0 for as many as the network does, and for 4 times where it is bicubic.
        which: Which images: low (those whose group `resolution` says so, as of folders vlr_images), small (see
            max_side), or all.
        max_side: For small, the longest side of such a photograph, in pixels.

    Returns:
        rows_in, rows_out, identities, rejected, enlarged.

    Raises:
        KubefaceError: wrong settings, a corrupt table, or a network that cannot be had or has another scale.
    """
    require(scale == 0 or 2 <= scale <= 16, f"scale is {scale}: it must lie between 2 and 16, or be 0")
    require(which in WHICH, f"which is '{which}': use one of {', '.join(WHICH)}")
    require((max_side > 0) == (which == "small"), f"max_side is {max_side} and which is {which}: small needs one")
    manifest = read_json(Path(faces) / "manifest.json")
    kind = "aligned" if isinstance(manifest, dict) and manifest.get("kind") == "aligned" else "faces"
    table = Table(faces, kind)
    enlarger = open_enlarger(model)
    require(
        0 in (enlarger.scale, scale) or enlarger.scale == scale,
        f"scale is {scale}: {enlarger.name} enlarges {enlarger.scale} times, set scale to it",
    )
    scale = scale or enlarger.scale or BICUBIC_SCALE
    # What follows goes by how the table was made, whatever became of its images since.
    settings = table.manifest["settings"] | {
        kind: table.sha256,
        "superresolved": {"name": enlarger.name, "scale": scale, "which": which, "max_side": max_side},
    }

    of = "photo_" if kind == "aligned" else ""  # crops are all of one size

    def wanted(row: Row) -> bool:
        if which == "low":
            return resolution_of(row["groups"]) == LOW
        return which == "all" or max(row[f"{of}width"], row[f"{of}height"]) <= max_side

    enlarged = 0
    batches = by_pixels((row for rows in table.row_groups() for row in rows), BATCH_PIXELS // scale**2)
    with (
        TableWriter(out, kind, f"superresolve {__version__}", settings) as result,
        Progress("superresolve", table.rows) as progress,
    ):
        for left_out in table.rejected():
            result.reject(left_out["source"], left_out["reason"], left_out["detail"])
        for rows, outcomes in in_order(_worker(kind, enlarger, scale, wanted), batches, cpu_limit()):
            for row, outcome in zip(rows, outcomes, strict=True):
                if isinstance(outcome, tuple):
                    result.reject(row["source"], *outcome)
                else:
                    result.add(outcome)
                    enlarged += outcome is not row
            progress.advance(len(rows))
    return {
        "rows_in": table.rows,
        "rows_out": result.rows,
        "identities": result.identities,
        "rejected": table.rows - result.rows,
        "enlarged": enlarged,
    }


def _worker(
    kind: str, enlarger: Enlarger, scale: int, wanted: Callable[[Row], bool]
) -> Callable[[Sequence[Row]], tuple[Sequence[Row], list[Outcome]]]:
    """What is done with a batch of rows, in a thread of its own; rows that are not wanted come out as they are."""

    def images(rows: Sequence[Row], outcomes: list[Outcome]) -> Iterator[tuple[int, RGB]]:
        for place, row in enumerate(rows):
            if not wanted(row):
                continue
            if kind == "faces" and row["width"] * row["height"] * scale**2 > MAX_PIXELS:
                size = f"{scale * row['width']}×{scale * row['height']}"
                outcomes[place] = "too_large", f"enlarged it has {size} pixels, {MAX_PIXELS} allowed"
                continue
            try:
                yield place, decode_rgb(row["image"])
            except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and others
                outcomes[place] = "unreadable", f"{type(error).__name__}: {error}"

    def work(rows: Sequence[Row]) -> tuple[Sequence[Row], list[Outcome]]:
        outcomes: list[Outcome] = list(rows)
        found = dict(images(rows, outcomes))
        if kind == "aligned":
            small = [reduced(image, max(1, round(image.shape[0] / scale))) for image in found.values()]
            for (place, image), few in zip(found.items(), small, strict=True):
                crop = enlarger.to(few, image.shape[1], image.shape[0])
                outcomes[place] = rows[place] | {"image": encode_crop(crop)}
        else:
            for place, image in zip(found, enlarger.several(list(found.values()), scale), strict=True):
                outcomes[place] = rows[place] | _photograph(rows[place], image, scale)
        return rows, outcomes

    return work


def _photograph(row: Row, image: RGB, scale: int) -> Row:
    """What changes of an enlarged photograph's row."""
    groups = json.loads(row["groups"] or "{}") | {ENLARGED: f"{scale * enlarged_of(row['groups']):g}"}
    return {
        "image": encode_png(image),
        "width": image.shape[1],
        "height": image.shape[0],
        "groups": json.dumps(groups, sort_keys=True, ensure_ascii=False),
    }
