"""Filter: measure every aligned image with RetinaFace and say which to keep."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np

from kubeface import __version__
from kubeface.faces.detection import make_detector
from kubeface.faces.geometry import Points, align_crop
from kubeface.faces.images import RGB, decode_rgb
from kubeface.faces.quality import FaceQuality, laplacian_variance, measure_face, sharpness, shorter_side
from kubeface.faces.templates import WHOLE
from kubeface.filter.options import FilterOptions
from kubeface.records.record import StepResult
from kubeface.runtime.errors import require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.runtime.workers import in_order
from kubeface.tables.resolution_pairs import LOW, partners, resolution_of
from kubeface.tables.table import Row, Table, TableWriter, by_pixels

BATCH_PIXELS = 1_000_000  # photographs that a worker takes at once

# Quality by image_id of the sharp images of pairs; None for one that cannot be decoded.
SharpQualities = Mapping[str, FaceQuality | None]
# Photograph, landmarks (5×2), box and, where it is stored, the crop → quality.
Measure = Callable[[RGB, Points, Points, RGB | None], FaceQuality]


class FilterResult(StepResult):
    """What filter did; rows_out counts the images that are kept."""

    rejected: int
    """Images that are not kept."""


def filter_faces(faces: Path, aligned: Path, out: Path, options: FilterOptions = FilterOptions()) -> FilterResult:
    """Scores every aligned image with RetinaFace on its photograph and says which to keep.

    No image is copied: the result is a table of image_id, kept, reason and measurements. The reason is the first that
    applies of unreadable, no_face (RetinaFace finds none at all), low_score, small_face, disagrees_with_aligner,
    several_faces, turned_away, blurred. Whole photographs (template whole_224) are all kept if they can be decoded,
    with score 1, their square's side as face_size, their sharpness, and 0 for the rest.

    RetinaFace finds no faces of low resolution. In a pair of a low and a high resolution (group `resolution`) the low
    image therefore gets the sharp image's decision, reason and measurements, except for its own sharpness and, from the
    aligner's box, face_size. A low image whose sharp one is not in the aligned table is judged like any other, but not
    for small_face and blurred.

    Args:
        faces: Face table of ingest, with the photographs.
        aligned: Aligned table, with the images to judge.
        out: Folder to write the filter table to.
        options: What an image must fulfil.

    Raises:
        KubefaceError: a corrupt table, or tables that do not belong together.
    """
    photographs, crops = Table(faces, "faces"), Table(aligned, "aligned")
    whole = crops.manifest.setting("template") == WHOLE
    measure = _measure_whole if whole else _face_measure()
    sharp_of = {} if whole else partners(crops)
    of_sharp = _measure_sharp(measure, photographs, crops, set(sharp_of.values())) if sharp_of else {}
    work = _measurer(measure, sharp_of, of_sharp)
    settings = {"faces": photographs.sha256, "aligned": crops.sha256} | options.model_dump(mode="json")
    with (
        TableWriter(out, "filter", f"filter {__version__}", settings) as table,
        Progress("filter", crops.rows) as progress,
    ):
        for rows, qualities in in_order(work, _batches(photographs, crops), cpu_limit()):
            for row, quality in zip(rows, qualities, strict=True):
                reason, detail = _decide(row, quality, None if whole else options, sharp_of, of_sharp)
                kept = {"image_id": row["image_id"], "kept": reason is None, "reason": reason}
                table.add(kept | asdict(quality or FaceQuality()))
                if reason:
                    table.reject(row["source"], reason, detail)
            progress.advance(len(rows))
        require(
            table.rows == crops.rows,
            f"{faces} lacks {crops.rows - table.rows} images of {aligned}: give the face table that was aligned",
        )
        rejected = sum(table.rejected.values())
    return FilterResult(rows_in=crops.rows, rows_out=crops.rows - rejected, rejected=rejected)


def rejection_reason(quality: FaceQuality, options: FilterOptions) -> str | None:
    """The first reason to reject an image, None to keep it."""
    fails = {
        "no_face": quality.face_size == 0,
        "low_score": quality.score < options.min_score,
        "small_face": quality.face_size < options.min_face_size,
        "disagrees_with_aligner": quality.agreement < options.min_agreement,
        "several_faces": 0 < options.max_faces < quality.faces,
        "turned_away": quality.turn > options.max_turn,
        "blurred": quality.sharpness < options.min_sharpness,
    }
    return next((reason for reason, failed in fails.items() if failed), None)


def _decide(
    row: Row,
    quality: FaceQuality | None,
    options: FilterOptions | None,
    sharp_of: Mapping[str, str],
    of_sharp: SharpQualities,
) -> tuple[str | None, str]:
    """The reason to reject an image, None to keep it, and the detail.

    `quality` is None where the image cannot be decoded, `options` where all others are kept; `sharp_of` has the
    image_id of the sharp image by that of the low one.
    """
    sharp = sharp_of.get(row["image_id"], "")
    paired = sharp in of_sharp
    decisive = of_sharp[sharp] if quality and paired else quality
    detail = ("its sharp image: " if paired else "") + str(decisive or FaceQuality())
    if decisive is None:
        return "unreadable", detail
    if options is None:
        return None, detail
    if resolution_of(row["groups"]) == LOW and not paired:
        options = options.model_copy(update={"min_face_size": 0.0, "min_sharpness": 0.0})
    return rejection_reason(decisive, options), detail


def _batches(photographs: Table, crops: Table, wanted: set[str] | None = None) -> Iterator[list[Row]]:
    """The wanted photographs (None for all) in which the aligner found a face, with landmarks and box, for the workers.

    Both tables are in one order. Of tiny photographs a list has at most a row group, since each brings its crop.
    """
    # Crops on other templates are of no use: what is measured is a crop on the ArcFace template, made anew.
    stored = crops.manifest.setting("template") in ("arcface_112", WHOLE)
    columns = ["image_id", "landmarks", "det_box", *(["image"] if stored else [])]
    remaining = (row for rows in crops.row_groups(columns) for row in rows)
    crop = next(remaining, None)
    for rows in photographs.row_groups(["image_id", "source", "groups", "image", "width", "height"]):
        joined: list[Row] = []
        for row in rows:
            if crop is not None and row["image_id"] == crop["image_id"]:
                if wanted is None or row["image_id"] in wanted:
                    joined.append(row | {name: crop[name] for name in columns[:3]} | {"crop": crop.get("image")})
                crop = next(remaining, None)
        yield from by_pixels(joined, BATCH_PIXELS)


def _measure_sharp(
    measure: Measure, photographs: Table, crops: Table, wanted: set[str]
) -> dict[str, FaceQuality | None]:
    """Quality of the sharp images of pairs, before all others: low images may precede them in the table."""
    qualities: dict[str, FaceQuality | None] = {}
    batches = _batches(photographs, crops, wanted)
    with Progress("filter: sharp images of pairs", len(wanted)) as progress:
        for rows, measured in in_order(_measurer(measure, {}, {}), batches, cpu_limit()):
            qualities |= {row["image_id"]: quality for row, quality in zip(rows, measured, strict=True)}
            progress.advance(len(rows))
    return qualities


def _measurer(
    measure: Measure, sharp_of: Mapping[str, str], of_sharp: SharpQualities
) -> Callable[[Sequence[Row]], tuple[Sequence[Row], list[FaceQuality | None]]]:
    """The work on a batch of rows in a worker's thread: their qualities, None for an image that cannot be decoded."""

    def quality(row: Row) -> FaceQuality | None:
        if row["image_id"] in of_sharp:
            return of_sharp[row["image_id"]]
        try:
            image, crop = _decode_photograph(row["image"]), row["crop"] and decode_rgb(row["crop"])
        except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
            return None
        landmarks, box = np.reshape(row["landmarks"], (5, 2)), np.array(row["det_box"], np.float64)
        sharp = sharp_of.get(row["image_id"], "")
        if sharp in of_sharp:
            own_sharpness = sharpness(align_crop(image, landmarks) if crop is None else crop)
            return replace(of_sharp[sharp] or FaceQuality(), face_size=shorter_side(box), sharpness=own_sharpness)
        return measure(image, landmarks, box, crop)

    return lambda rows: (rows, [quality(row) for row in rows])


def _face_measure() -> Measure:
    """Measures faces, with RetinaFace."""
    detect = make_detector("retinaface", 1, threads=1)
    return lambda image, landmarks, box, crop: measure_face(image, landmarks, box, detect, crop)


def _measure_whole(image: RGB, landmarks: Points, box: Points, crop: RGB | None) -> FaceQuality:
    """Measures a whole photograph, which RetinaFace has nothing to look for in."""
    return FaceQuality(
        score=1.0, face_size=float(box[2] - box[0]), sharpness=laplacian_variance(image if crop is None else crop)
    )


def _decode_photograph(data: bytes) -> RGB:
    """As decode_rgb; OpenCV decodes JPEG to the same pixels in half the time, but accepts truncated files too."""
    if data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9":
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is not None:
            return np.asarray(image, np.uint8)
    return decode_rgb(data)
