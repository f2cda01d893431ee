"""Align: find the face on each photograph and crop it."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kubeface import __version__
from kubeface.align.options import AlignOptions
from kubeface.faces.detection import make_detector
from kubeface.faces.detector import Detector
from kubeface.faces.geometry import NO_DETECTOR, TEMPLATES, Points
from kubeface.faces.images import RGB, decode_rgb, encode_crop
from kubeface.records.record import StepResult
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.runtime.workers import in_order
from kubeface.tables.resolution_pairs import enlarged_of, partners
from kubeface.tables.table import Rejection, Row, Table, TableWriter, by_pixels

BATCH_PIXELS = 1_000_000  # photographs that a worker takes at once: 16 of LFW's, or one of a phone's
NO_FACE = "no_face"  # reason of a rejection
STRETCH = 0.02  # tolerated difference between the aspect ratios of the two photographs of a pair


@dataclass(frozen=True, slots=True)
class DetectedFace:
    """The face that is cropped from a photograph."""

    landmarks: Points  # 5×2, in pixels of the photograph
    box: Points  # x1, y1, x2, y2 in pixels of the photograph
    score: float  # the detector's, 0 to 1
    width: int  # of the photograph, in pixels
    height: int

    def on_copy(self, image: RGB, enlarged: float = 1.0) -> "DetectedFace | None":
        """The same face on a smaller or larger copy of the photograph, None where the copy has another aspect ratio.

        Landmarks count from the middle of the first pixel, boxes from its corner: otherwise landmarks on a copy an
        eighth as large would be 0.44 of its pixels, 3.5 pixels of the crop, too far to the right and too low.

        Args:
            enlarged: how many times the copy was enlarged; its sides were whole numbers of pixels before.
        """
        height, width = image.shape[:2]
        ratio = np.array([width / self.width, height / self.height])
        if abs(ratio[0] / ratio[1] - 1) > max(STRETCH, enlarged / min(width, height)):
            return None
        landmarks = (self.landmarks + 0.5) * ratio - 0.5
        return DetectedFace(landmarks, self.box * np.tile(ratio, 2), self.score, width, height)


# By image_id of the sharp images of pairs: the face, None where there is none; without those that cannot be decoded.
SharpFaces = Mapping[str, DetectedFace | None]


class AlignResult(StepResult):
    """What align did: photographs in, crops out."""

    identities: int
    """People with a crop."""
    faces: int
    """Crops that were made."""
    without_face: int
    """Photographs without a face."""
    rejected: int
    """Photographs without a face, or that cannot be decoded."""


def align(faces: Path, out: Path, options: AlignOptions = AlignOptions()) -> AlignResult:
    """Finds the largest face nearest the centre and makes a crop of it.

    Images without a face, and those that cannot be decoded, are listed in rejected.csv. Crops are stored as PPM;
    landmarks, detector score and box are in pixels of the photograph. Without a detector the middle square of every
    photograph is its crop and its box, with score 1 and zeros for landmarks.

    In a pair of a low and a high resolution (group `resolution`) the detector sees the sharp image alone. The low one
    is cropped around the same face, scaled by the ratio of the two photographs' sizes, with the same score, and is
    rejected where the sharp one has no face. Low images whose sharp one is missing or cannot be decoded, or has another
    aspect ratio (by more than 2 % and more than rounding to whole pixels explains), get a detection of their own.

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
    sharp_faces = _find_sharp(table, detect, options.min_confidence, set(sharp_of.values())) if sharp_of else {}
    worker = _Worker(detect, options, sharp_of, sharp_faces)
    with (
        TableWriter(out, "aligned", f"align {__version__}", settings) as aligned,
        Progress("align", table.rows) as progress,
    ):
        without_face = 0
        for outcomes in in_order(worker, _batches(table), cpu_limit()):
            for outcome in outcomes:
                if isinstance(outcome, Rejection):
                    aligned.reject(*outcome)
                    without_face += outcome.reason == NO_FACE
                else:
                    aligned.add(outcome)
            progress.advance(len(outcomes))
    if not aligned.rows:  # of one shard; gather ends the run where no shard has any
        whole = options.detector == NO_DETECTOR
        reason = "no image can be decoded of" if whole else f"{detect.name} found no face in any of"
        print(f"warning: {reason} the {table.rows} images of {faces}", file=sys.stderr)
    return AlignResult(
        rows_in=table.rows,
        rows_out=aligned.rows,
        identities=aligned.identities,
        faces=aligned.rows,
        without_face=without_face,
        rejected=table.rows - aligned.rows,
    )


def _batches(table: Table, wanted: set[str] | None = None) -> Iterator[list[Row]]:
    """The rows with these image_ids, None for all, in lists for the workers; of tiny images at most a row group."""
    for rows in table.row_groups():
        yield from by_pixels((row for row in rows if wanted is None or row["image_id"] in wanted), BATCH_PIXELS)


def _find_sharp(table: Table, detect: Detector, min_confidence: float, wanted: set[str]) -> SharpFaces:
    """The faces of the sharp images of pairs, before all others: low images may precede them in the table."""
    sharp_faces: dict[str, DetectedFace | None] = {}

    def work(rows: Sequence[Row]) -> tuple[int, dict[str, DetectedFace | None]]:
        images = {row["image_id"]: _decode(row) for row in rows}
        return len(rows), {
            image_id: _find_face(detect, min_confidence, image)
            for image_id, image in images.items()
            if not isinstance(image, Rejection)
        }

    with Progress("align: sharp images of pairs", len(wanted)) as progress:
        for count, faces in in_order(work, _batches(table, wanted), cpu_limit()):
            sharp_faces |= faces
            progress.advance(count)
    return sharp_faces


def _decode(row: Row) -> RGB | Rejection:
    """The photograph of a row, or why there is none."""
    try:
        return decode_rgb(row["image"])
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        return Rejection(row["source"], "unreadable", f"{type(error).__name__}: {error}")


def _find_face(detect: Detector, min_confidence: float, image: RGB) -> DetectedFace | None:
    """The most prominent face of a photograph, None where there is none."""
    height, width = image.shape[:2]
    faces = detect(image).confident(min_confidence)
    if not len(faces):
        return None
    best = faces.prominent(width, height)
    # Copies, so that of a crowd no more than one face is kept in memory.
    return DetectedFace(
        faces.landmarks[best].copy(), faces.boxes[best].copy(), float(faces.scores[best]), width, height
    )


@dataclass(frozen=True, slots=True)
class _Worker:
    """Crops a batch of rows, in a thread of its own."""

    detect: Detector
    options: AlignOptions
    sharp_of: Mapping[str, str]  # image_id of the sharp image by that of the low one, of pairs
    sharp_faces: SharpFaces

    def __call__(self, rows: Sequence[Row]) -> list[Row | Rejection]:
        return [self._crop(row) for row in rows]

    def _crop(self, row: Row) -> Row | Rejection:
        """The row of a photograph's crop, or why there is none."""
        image = _decode(row)
        if isinstance(image, Rejection):
            return image
        face = self._face(row, image)
        if isinstance(face, str):
            return Rejection(row["source"], NO_FACE, face)
        crop = TEMPLATES[self.options.template](image, face.landmarks, face.box)
        return row | {
            "image": encode_crop(crop),
            "width": crop.shape[1],
            "height": crop.shape[0],
            "photo_width": face.width,
            "photo_height": face.height,
            "landmarks": face.landmarks.ravel().tolist(),
            "det_score": face.score,
            "det_box": face.box.tolist(),
        }

    def _face(self, row: Row, image: RGB) -> DetectedFace | str:
        """The face of a photograph, or why there is none."""
        none_found = f"{self.detect.name} found none at score {self.options.min_confidence:g}"
        sharp = self.sharp_of.get(row["image_id"], row["image_id"])
        if sharp in self.sharp_faces:
            face = self.sharp_faces[sharp]
            if sharp == row["image_id"]:
                return face or none_found
            if face is None:
                return f"{none_found} on the sharp image of the pair"
            if copy := face.on_copy(image, enlarged_of(row["groups"])):
                return copy
        return _find_face(self.detect, self.options.min_confidence, image) or none_found
