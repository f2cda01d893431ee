"""Superresolve: enlarge images of low resolution, before their faces are looked for or after."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kubeface import __version__
from kubeface.faces.degradation import downsample
from kubeface.faces.images import RGB, decode_rgb, encode_crop, encode_png
from kubeface.faces.photographs import MAX_PIXELS
from kubeface.models.superresolution import Enlarger, open_enlarger
from kubeface.records.record import StepResult
from kubeface.runtime.errors import require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.runtime.workers import in_order
from kubeface.storage.folders import read_json
from kubeface.superresolve.options import SuperresolveOptions
from kubeface.tables.resolution_pairs import ENLARGED, LOW, enlarged_of, resolution_of
from kubeface.tables.table import Row, Table, TableWriter, by_pixels

BICUBIC_SCALE = 4
BATCH_PIXELS = 4_000_000  # of the enlarged images that a worker makes at once
Outcome = Row | tuple[str, str]  # a row, or why there is none: reason, detail
Kind = Literal["faces", "aligned"]


class SuperresolveResult(StepResult):
    """What superresolve did: images in, images out, enlarged or not."""

    identities: int
    """People with an image."""
    rejected: int
    """Images that cannot be decoded, or would be too large."""
    enlarged: int
    """Images that were enlarged."""


def superresolve(faces: Path, out: Path, options: SuperresolveOptions = SuperresolveOptions()) -> SuperresolveResult:
    """Enlarges images of low resolution, by a super-resolution network or bicubic interpolation.

    Before align, whole photographs become `scale` times larger, so that a low-resolution face can be found and
    cropped; their group `enlarged` says so. After align, crops keep their size: they are reduced to 1 / `scale` of it,
    the resolution that such a face has, and enlarged again. Other images stay as they are. Images that cannot be
    decoded, or would have more than 50 million pixels, are added to those that rejected.csv lists already.

    Args:
        faces: Face table of ingest, or the aligned table of align.
        out: Folder to write the table of the same kind to.
        options: Which images are enlarged, by what, and how much.

    Raises:
        KubefaceError: a corrupt table, or a network that cannot be had or has another scale.
    """
    kind = _kind(faces)
    table = Table(faces, kind)
    enlarger = open_enlarger(options.model)
    require(
        0 in (enlarger.scale, options.scale) or enlarger.scale == options.scale,
        f"scale is {options.scale}: {enlarger.name} enlarges {enlarger.scale} times, set scale to it",
    )
    scale = options.scale or enlarger.scale or BICUBIC_SCALE
    # Later steps go by how the table was made, whatever became of its images since.
    superresolved = options.model_dump(exclude={"model"}) | {"name": enlarger.name, "scale": scale}
    settings = table.manifest.settings | {kind: table.sha256, "superresolved": superresolved}
    batches = by_pixels((row for rows in table.row_groups() for row in rows), BATCH_PIXELS // scale**2)
    enlarged = 0
    with (
        TableWriter(out, kind, f"superresolve {__version__}", settings) as result,
        Progress("superresolve", table.rows) as progress,
    ):
        for earlier in table.rejected():
            result.reject(*earlier)
        for rows, outcomes in in_order(_Worker(kind, enlarger, scale, options), batches, cpu_limit()):
            for row, outcome in zip(rows, outcomes, strict=True):
                if isinstance(outcome, tuple):
                    result.reject(row["source"], *outcome)
                else:
                    result.add(outcome)
                    enlarged += outcome is not row
            progress.advance(len(rows))
    counts = {"rows_in": table.rows, "rows_out": result.rows, "identities": result.identities}
    return SuperresolveResult(**counts, rejected=table.rows - result.rows, enlarged=enlarged)


def _kind(folder: Path) -> Kind:
    """Whether a folder has an aligned table; anything else is read as a face table, and refused if it is none."""
    manifest = read_json(Path(folder) / "manifest.json")
    return "aligned" if isinstance(manifest, dict) and manifest.get("kind") == "aligned" else "faces"


@dataclass(frozen=True, slots=True)
class _Worker:
    """Enlarges a batch of rows, in a thread of its own; rows that are not to be enlarged come out as they are."""

    kind: Kind
    enlarger: Enlarger
    scale: int
    options: SuperresolveOptions

    def __call__(self, rows: Sequence[Row]) -> tuple[Sequence[Row], list[Outcome]]:
        outcomes: list[Outcome] = list(rows)
        images: dict[int, RGB] = {}
        for index, row in enumerate(rows):
            if not self._is_wanted(row):
                continue
            if self.kind == "faces" and row["width"] * row["height"] * self.scale**2 > MAX_PIXELS:
                size = f"{self.scale * row['width']}×{self.scale * row['height']}"
                outcomes[index] = "too_large", f"enlarged it has {size} pixels, {MAX_PIXELS} allowed"
                continue
            try:
                images[index] = decode_rgb(row["image"])
            except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and others
                outcomes[index] = "unreadable", f"{type(error).__name__}: {error}"
        if self.kind == "aligned":
            for index, image in images.items():
                small = downsample(image, max(1, round(image.shape[0] / self.scale)))
                crop = self.enlarger.to(small, image.shape[1], image.shape[0])
                outcomes[index] = rows[index] | {"image": encode_crop(crop)}
        else:
            for index, image in zip(images, self.enlarger.several(list(images.values()), self.scale), strict=True):
                outcomes[index] = rows[index] | _photograph(rows[index], image, self.scale)
        return rows, outcomes

    def _is_wanted(self, row: Row) -> bool:
        if self.options.which == "low":
            return resolution_of(row["groups"]) == LOW
        if self.options.which == "all":
            return True
        prefix = "photo_" if self.kind == "aligned" else ""  # crops are all of one size
        longest: int = max(row[f"{prefix}width"], row[f"{prefix}height"])
        return longest <= self.options.max_side


def _photograph(row: Row, image: RGB, scale: int) -> Row:
    """The fields of an enlarged photograph's row that change."""
    groups = json.loads(row["groups"] or "{}") | {ENLARGED: f"{scale * enlarged_of(row['groups']):g}"}
    return {
        "image": encode_png(image),
        "width": image.shape[1],
        "height": image.shape[0],
        "groups": json.dumps(groups, sort_keys=True, ensure_ascii=False),
    }
