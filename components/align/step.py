"""Align: photographs to 112×112 face crops."""

from pathlib import Path
from typing import Any

from components.faces.detection import make_detector
from components.faces.errors import require
from components.faces.geometry import align_crop
from components.faces.images import decode_rgb, encode_png
from components.faces.progress import Progress
from components.faces.runtime import VERSION
from components.faces.table import Table, TableWriter


def align(
    faces: Path, out: Path, detector: str = "mtcnn", min_face_size: int = 20, min_confidence: float = 0.9
) -> dict[str, Any]:
    """Finds the largest face nearest the centre and moves its five landmarks onto the ArcFace template.

    Images without a face are listed in rejected.csv. Crops are stored as PNG; landmarks, detector score
    and box are kept in pixels of the photograph.

    Args:
        faces: Face table of ingest.
        out: Folder to write the aligned table to.
        detector: mtcnn or retinaface.
        min_face_size: Smallest face that is looked for, shorter side of its box in pixels.
        min_confidence: Least detector score of a face, 0 to 1.

    Returns:
        rows_in, rows_out, identities, rejected.

    Raises:
        KubefaceError: wrong settings, a corrupt table, or no face in any image.
    """
    require(min_face_size >= 1, f"min_face_size is {min_face_size}: it must be at least 1 pixel")
    require(0 <= min_confidence <= 1, f"min_confidence is {min_confidence}: it must lie between 0 and 1")
    table = Table(faces, "faces")
    detect = make_detector(detector, min_face_size)
    settings = {
        "faces": table.sha256,
        "detector": detector,
        "min_face_size": min_face_size,
        "min_confidence": min_confidence,
    }
    with (
        TableWriter(out, "aligned", f"align {VERSION}", settings) as aligned,
        Progress("align", table.rows) as progress,
    ):
        for rows in table.row_groups():
            for row in rows:
                image = decode_rgb(row["image"])
                found = detect(image).confident(min_confidence)
                if len(found):
                    best = found.prominent(row["width"], row["height"])
                    crop = align_crop(image, found.landmarks[best])
                    aligned.add(
                        row
                        | {
                            "image": encode_png(crop),
                            "width": crop.shape[1],
                            "height": crop.shape[0],
                            "landmarks": found.landmarks[best].ravel().tolist(),
                            "det_score": float(found.scores[best]),
                            "det_box": found.boxes[best].tolist(),
                        }
                    )
                else:
                    aligned.reject(row["source"], "no_face", f"{detector} found none at score {min_confidence:g}")
                progress.advance()
        require(aligned.rows > 0, f"{detector} found no face in any of the {table.rows} images of {faces}")
    return {
        "rows_in": table.rows,
        "rows_out": aligned.rows,
        "identities": aligned.identities,
        "rejected": table.rows - aligned.rows,
    }
