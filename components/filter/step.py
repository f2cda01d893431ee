"""Filter: a second opinion on every aligned image, from RetinaFace."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.faces.detection import Faces, make_detector
from components.faces.errors import require
from components.faces.images import RGB, decode_rgb
from components.faces.progress import Progress
from components.faces.runtime import VERSION
from components.faces.table import Table, TableWriter

# RetinaFace mobilenet0.25 scores large faces lower than small ones: on photographs shrunk to at most this
# many pixels it missed 11 faces of 6,300 where it missed 206 at full size.
LONGEST_SIDE = 400


def filter_faces(
    faces: Path, aligned: Path, out: Path, min_score: float = 0.9, min_face_size: float = 20.0
) -> dict[str, Any]:
    """Scores every aligned image with RetinaFace on its photograph and says which to keep.

    No image is copied: the result is a table of image_id, kept, reason, score and face size. Reasons:
    no_face (RetinaFace sees none at all), low_score, small_face.

    Args:
        faces: Face table of ingest, the photographs.
        aligned: Aligned table, the images to judge.
        out: Folder to write the filter table to.
        min_score: Least RetinaFace score, 0 to 1.
        min_face_size: Least size of the face, shorter side of its box in pixels of the photograph.

    Returns:
        rows_in, rows_out (kept), rejected.

    Raises:
        KubefaceError: wrong settings or a corrupt table.
    """
    require(0 <= min_score <= 1, f"min_score is {min_score}: it must lie between 0 and 1")
    require(min_face_size >= 0, f"min_face_size is {min_face_size}: it must not be negative")
    photographs, judged = Table(faces, "faces"), Table(aligned, "aligned")
    wanted = set(judged.columns(["image_id"])["image_id"].to_pylist())
    detect = make_detector("retinaface", 1)
    settings = {
        "faces": photographs.sha256,
        "aligned": judged.sha256,
        "min_score": min_score,
        "min_face_size": min_face_size,
    }
    kept = 0
    with (
        TableWriter(out, "filter", f"filter {VERSION}", settings) as table,
        Progress("filter", len(wanted)) as progress,
    ):
        for rows in photographs.row_groups(["image_id", "source", "image"]):
            for row in rows:
                if row["image_id"] not in wanted:
                    continue
                score, size = _best_face(decode_rgb(row["image"]), detect)
                reason = _reason(score, size, min_score, min_face_size)
                kept += reason is None
                table.add(
                    {
                        "image_id": row["image_id"],
                        "kept": reason is None,
                        "reason": reason,
                        "score": score,
                        "face_size": size,
                    }
                )
                if reason:
                    table.reject(row["source"], reason, f"score {score:.3f}, face {size:.0f} pixels")
                progress.advance()
        require(
            table.rows == len(wanted),
            f"{faces} lacks {len(wanted) - table.rows} images of {aligned}: give the face table that was aligned",
        )
    return {"rows_in": len(wanted), "rows_out": kept, "rejected": len(wanted) - kept}


def _best_face(image: RGB, detect: Any) -> tuple[float, float]:
    """Score and size (pixels of the photograph) of the photograph's face, 0 and 0 where there is none."""
    height, width = image.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    found: Faces = detect(image)
    if not len(found):
        return 0.0, 0.0
    best = found.subject(image.shape[1], image.shape[0])
    x1, y1, x2, y2 = found.boxes[best]
    return float(found.scores[best]), float(min(x2 - x1, y2 - y1) / scale)


def _reason(score: float, size: float, min_score: float, min_face_size: float) -> str | None:
    """Why an image is rejected, None where it is kept."""
    if size == 0:
        return "no_face"
    if score < min_score:
        return "low_score"
    return "small_face" if size < min_face_size else None
