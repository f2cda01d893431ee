"""Align: photographs to face crops."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kubeface import __version__
from kubeface.align.options import AlignOptions
from kubeface.faces.detection import Detector, Faces, make_detector
from kubeface.faces.geometry import NO_DETECTOR, TEMPLATES, Points
from kubeface.faces.images import RGB, decode_rgb, encode_crop
from kubeface.records.record import StepResult
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.runtime.workers import Row, by_pixels, in_order
from kubeface.tables.resolution_pairs import enlarged_of, partners
from kubeface.tables.table import Table, TableWriter

BATCH_PIXELS = 1_000_000  # photographs that a worker takes at once: 16 of LFW's, or one of a telephone's
STRETCH = 0.02  # the two photographs of a pair have the same shape up to this share, or to a pixel of the low one
Outcome = Row | tuple[str, str]  # the row of a crop, or why there is none: reason, detail


@dataclass(frozen=True, slots=True)
class Place:
    """Where a photograph shows its face.

    Args:
        landmarks: 5×2, in pixels of the photograph.
        box: x1, y1, x2, y2 in pixels of the photograph.
        score: of the detector, 0 to 1.
        width: of the photograph.
        height: of the photograph.
    """

    landmarks: Points
    box: Points
    score: float
    width: int
    height: int

    def on(self, image: RGB, enlarged: float = 1.0) -> "Place | None":
        """The same place on a smaller or larger copy of the photograph, None where that has another shape.

        Landmarks count from the middle of the first pixel, boxes from its corner: without that, landmarks on a copy an
        eighth as large would lie 0.44 of its pixels, 3.5 pixels of the crop, too far to the right and too low.

        Args:
            image: the copy.
            enlarged: how many times the copy was enlarged; its sides were whole numbers of pixels before.
        """
        height, width = image.shape[:2]
        ratio = np.array([width / self.width, height / self.height])
        if abs(ratio[0] / ratio[1] - 1) > max(STRETCH, enlarged / min(width, height)):
            return None
        landmarks = (self.landmarks + 0.5) * ratio - 0.5
        return Place(landmarks, self.box * np.tile(ratio, 2), self.score, width, height)


# By image_id of the sharp images of pairs: where the face is, None for nowhere; without those that are unreadable.
Known = Mapping[str, Place | None]


class AlignResult(StepResult):
    """What align did: photographs in, crops out."""

    identities: int
    """People with a crop."""
    rejected: int
    """Photographs without a face, or that cannot be decoded."""


def align(faces: Path, out: Path, options: AlignOptions = AlignOptions()) -> AlignResult:
    """Finds the largest face nearest the centre and makes a crop of it.

    Images without a face, and those that cannot be decoded, are listed in rejected.csv. Crops are stored as PPM;
    landmarks, detector score and box are kept in pixels of the photograph. Without a detector the middle square of
    every photograph is its crop and its box, with score 1 and zeros for landmarks.

    Of a pair of a low and a high resolution (group `resolution`, see `partners`) the detector sees the sharp image
    alone: the low one is cropped at the same place, scaled by the ratio of the two photographs' sizes, with the same
    score, and rejected where there is no face on the sharp one. The detector looks for itself in low images without a
    sharp one that can be decoded, and where width and height are not scaled alike (by more than 2 % and more than
    rounding to whole pixels explains).

    Args:
        faces: Face table of ingest.
        out: Folder to write the aligned table to.
        options: How faces are found and cropped.

    Raises:
        KubefaceError: a corrupt table.
    """
    table = Table(faces, "faces")
    detect = make_detector(options.detector, options.min_face_size, threads=1)
    settings = {"faces": table.sha256} | options.model_dump(mode="json")
    sharp_of = {} if options.detector == NO_DETECTOR else partners(table)
    known = _sharp(table, detect, options.min_confidence, set(sharp_of.values())) if sharp_of else {}
    work = _aligner(detect, options, sharp_of, known)
    with (
        TableWriter(out, "aligned", f"align {__version__}", settings) as aligned,
        Progress("align", table.rows) as progress,
    ):
        for rows, outcomes in in_order(work, _batches(table), cpu_limit()):
            for row, outcome in zip(rows, outcomes, strict=True):
                if isinstance(outcome, tuple):
                    aligned.reject(row["source"], *outcome)
                else:
                    aligned.add(outcome)
            progress.advance(len(rows))
    if not aligned.rows:  # of a shard; gather stops where it is so of all
        found = (
            "no image can be decoded of"
            if options.detector == NO_DETECTOR
            else f"{options.detector} found no face in any of"
        )
        print(f"warning: {found} the {table.rows} images of {faces}", file=sys.stderr)
    return AlignResult(
        rows_in=table.rows,
        rows_out=aligned.rows,
        identities=aligned.identities,
        rejected=table.rows - aligned.rows,
    )


def _batches(table: Table, wanted: set[str] | None = None) -> Iterator[list[Row]]:
    """The rows with these image_ids, None for all, in lists for the workers; of tiny images one row group at most."""
    for rows in table.row_groups():
        yield from by_pixels((row for row in rows if wanted is None or row["image_id"] in wanted), BATCH_PIXELS)


def _sharp(table: Table, detect: Detector, min_confidence: float, wanted: set[str]) -> dict[str, Place | None]:
    """Where the sharp images of pairs show their face: the low ones may come before them."""
    known: dict[str, Place | None] = {}

    def work(rows: Sequence[Row]) -> tuple[int, dict[str, Place | None]]:
        images, _ = _decoded(rows)
        places = _places(detect, min_confidence, list(images.values()))
        return len(rows), {rows[index]["image_id"]: place for index, place in zip(images, places, strict=True)}

    with Progress("align: sharp images of pairs", len(wanted)) as progress:
        for count, places in in_order(work, _batches(table, wanted), cpu_limit()):
            known |= places
            progress.advance(count)
    return known


def _decoded(rows: Sequence[Row]) -> tuple[dict[int, RGB], dict[int, Outcome]]:
    """The photographs of rows by their index, and what is said of those that cannot be decoded."""
    images: dict[int, RGB] = {}
    outcomes: dict[int, Outcome] = {}
    for index, row in enumerate(rows):
        try:
            images[index] = decode_rgb(row["image"])
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, others
            outcomes[index] = "unreadable", f"{type(error).__name__}: {error}"
    return images, outcomes


def _places(detect: Detector, min_confidence: float, images: Sequence[RGB]) -> list[Place | None]:
    """Where each photograph shows its face, None for nowhere."""

    def place(image: RGB, found: Faces) -> Place | None:
        height, width = image.shape[:2]
        sure = found.confident(min_confidence)
        if not len(sure):
            return None
        best = sure.prominent(width, height)
        # Copies, so that of a crowd no more than one face is kept.
        return Place(sure.landmarks[best].copy(), sure.boxes[best].copy(), float(sure.scores[best]), width, height)

    return [place(image, found) for image, found in zip(images, detect.several(images), strict=True)]


def _aligner(
    detect: Detector, options: AlignOptions, sharp_of: Mapping[str, str], known: Known
) -> Callable[[Sequence[Row]], tuple[Sequence[Row], list[Outcome]]]:
    """What is done with a batch of rows, in a thread of its own.

    Args:
        sharp_of: image_id of the sharp image by that of the low one, of pairs.
        known: where the sharp images show their face.
    """
    nowhere = f"{detect.name} found none at score {options.min_confidence:g}"

    def settled(row: Row, image: RGB) -> Place | str | None:
        """Where the face is, or why there is none, of a pair; None where the detector has to look."""
        sharp = sharp_of.get(row["image_id"], row["image_id"])
        if sharp not in known:
            return None
        place = known[sharp]
        if sharp == row["image_id"]:
            return place or nowhere
        return place.on(image, enlarged_of(row["groups"])) if place else f"{nowhere} on the sharp image of the pair"

    def work(rows: Sequence[Row]) -> tuple[Sequence[Row], list[Outcome]]:
        images, outcomes = _decoded(rows)
        places = {index: settled(rows[index], image) for index, image in images.items()}
        unseen = [index for index, place in places.items() if place is None]
        looked = _places(detect, options.min_confidence, [images[index] for index in unseen])
        places |= {index: place or nowhere for index, place in zip(unseen, looked, strict=True)}
        for index, place in places.items():
            outcomes[index] = (
                _row(rows[index], images[index], place, options.template)
                if isinstance(place, Place)
                else ("no_face", str(place))
            )
        return rows, [outcomes[index] for index in range(len(rows))]

    return work


def _row(row: Row, image: RGB, place: Place, template: str) -> Row:
    """The row of a crop, of a photograph's row."""
    crop = TEMPLATES[template](image, place.landmarks, place.box)
    return row | {
        "image": encode_crop(crop),
        "width": crop.shape[1],
        "height": crop.shape[0],
        "photo_width": place.width,
        "photo_height": place.height,
        "landmarks": place.landmarks.ravel().tolist(),
        "det_score": place.score,
        "det_box": place.box.tolist(),
    }
