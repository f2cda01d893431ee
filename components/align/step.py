"""Align: photographs to face crops."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.faces.detection import Detector, make_detector
from components.faces.errors import require
from components.faces.geometry import NO_DETECTOR, TEMPLATES, require_alignment
from components.faces.images import RGB, decode_rgb, encode_crop
from components.faces.progress import Progress
from components.faces.runtime import VERSION, cpu_limit
from components.faces.table import Table, TableWriter
from components.faces.workers import Row, by_pixels, in_order

BATCH_PIXELS = 1_000_000  # photographs that a worker takes at once: 16 of LFW's, or one of a telephone's
Outcome = Row | tuple[str, str]  # the row of a crop, or why there is none: reason, detail


def align(
    faces: Path,
    out: Path,
    detector: str = "mtcnn",
    min_face_size: int = 20,
    min_confidence: float = 0.9,
    template: str = "arcface_112",
) -> dict[str, Any]:
    """Finds the largest face nearest the centre and makes a crop of it.

    Images without a face, and those that cannot be decoded, are listed in rejected.csv. Crops are stored as PPM;
    landmarks, detector score and box are kept in pixels of the photograph. Without a detector the middle square of
    every photograph is its crop and its box, with score 1 and zeros for landmarks.

    Args:
        faces: Face table of ingest.
        out: Folder to write the aligned table to.
        detector: mtcnn, retinaface, or none for photographs of anything.
        min_face_size: Smallest face that is looked for, shorter side of its box in pixels.
        min_confidence: Least detector score of a face, 0 to 1.
        template: How the crop is made: arcface_112 moves the five landmarks onto ArcFace's places in 112×112 pixels,
            facenet_160 stretches the face's box to 160×160 as facenet-pytorch does, portrait_224 adds hair and
            shoulders around ArcFace's 112×112; whole_224, for detector none, scales the photograph's middle square to
            224×224.

    Returns:
        rows_in, rows_out, identities, rejected.

    Raises:
        KubefaceError: wrong settings, a corrupt table, or no face in any image.
    """
    require(min_face_size >= 1, f"min_face_size is {min_face_size}: it must be at least 1 pixel")
    require(0 <= min_confidence <= 1, f"min_confidence is {min_confidence}: it must lie between 0 and 1")
    require_alignment(detector, template)
    table = Table(faces, "faces")
    detect = make_detector(detector, min_face_size, threads=1)
    settings = {
        "faces": table.sha256,
        "detector": detector,
        "min_face_size": min_face_size,
        "min_confidence": min_confidence,
        "template": template,
    }
    batches = by_pixels((row for rows in table.row_groups() for row in rows), BATCH_PIXELS)
    with (
        TableWriter(out, "aligned", f"align {VERSION}", settings) as aligned,
        Progress("align", table.rows) as progress,
    ):
        for rows, outcomes in in_order(_aligner(detect, min_confidence, template), batches, cpu_limit()):
            for row, outcome in zip(rows, outcomes, strict=True):
                if isinstance(outcome, tuple):
                    aligned.reject(row["source"], *outcome)
                else:
                    aligned.add(outcome)
            progress.advance(len(rows))
    if not aligned.rows:  # of a shard; gather stops where it is so of all
        found = "no image can be decoded of" if detector == NO_DETECTOR else f"{detector} found no face in any of"
        print(f"warning: {found} the {table.rows} images of {faces}", file=sys.stderr)
    return {
        "rows_in": table.rows,
        "rows_out": aligned.rows,
        "identities": aligned.identities,
        "rejected": table.rows - aligned.rows,
    }


def _aligner(
    detect: Detector, min_confidence: float, template: str
) -> Callable[[Sequence[Row]], tuple[Sequence[Row], list[Outcome]]]:
    """What is done with a batch of rows, in a thread of its own."""

    def work(rows: Sequence[Row]) -> tuple[Sequence[Row], list[Outcome]]:
        outcomes: dict[int, Outcome] = {}
        images: dict[int, RGB] = {}
        for index, row in enumerate(rows):
            try:
                images[index] = decode_rgb(row["image"])
            except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, others
                outcomes[index] = "unreadable", f"{type(error).__name__}: {error}"
        for (index, image), found in zip(images.items(), detect.several(list(images.values())), strict=True):
            sure = found.confident(min_confidence)
            if len(sure):
                best = sure.prominent(image.shape[1], image.shape[0])
                crop = TEMPLATES[template](image, sure.landmarks[best], sure.boxes[best])
                outcomes[index] = rows[index] | {
                    "image": encode_crop(crop),
                    "width": crop.shape[1],
                    "height": crop.shape[0],
                    "photo_width": image.shape[1],
                    "photo_height": image.shape[0],
                    "landmarks": sure.landmarks[best].ravel().tolist(),
                    "det_score": float(sure.scores[best]),
                    "det_box": sure.boxes[best].tolist(),
                }
            else:
                outcomes[index] = "no_face", f"{detect.name} found none at score {min_confidence:g}"
        return rows, [outcomes[index] for index in range(len(rows))]

    return work
