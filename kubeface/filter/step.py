"""Filter: a second opinion on every aligned image, from RetinaFace."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kubeface import __version__
from kubeface.faces.detection import SURE, Detector, Faces, make_detector
from kubeface.faces.geometry import Points, align_crop, overlap, turn_of
from kubeface.faces.images import RGB, decode_rgb
from kubeface.faces.templates import WHOLE
from kubeface.runtime.errors import require
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.runtime.workers import Row, by_pixels, in_order
from kubeface.tables.resolution_pairs import LOW, partners, resolution_of
from kubeface.tables.table import Table, TableWriter

# RetinaFace mobilenet0.25 scores large faces lower than small ones: on photographs shrunk to at most this
# many pixels it missed 11 faces of 6,300 where it missed 206 at full size.
LONGEST_SIDE = 400
# Nor need the face that the aligner found be larger than this, and the network's work falls with the square: of 700
# photographs of LFW and 700 of CelebA in the wild the decision at a score of 0.9 was the same at 48 and 56 pixels for
# all, at 44 for 99.6 %.
FACE_SIDE = 48
FACE_SQUARE = np.s_[34:104, 21:91]  # of a crop on the ArcFace template: from brows to chin
SIDE_STEP = 16  # sides that photographs are shrunk to are multiples of it: few sizes, few plans of the network
BATCH_PIXELS = 1_000_000  # photographs that a worker takes at once


@dataclass(frozen=True)
class Opinion:
    """What the filter sees in one image, as the filter table has it."""

    score: float = 0.0
    face_size: float = 0.0
    faces: int = 0
    sharpness: float = 0.0
    turn: float = 0.0
    agreement: float = 0.0


# By image_id of the sharp images of pairs: what is seen in them; None is one that cannot be decoded.
Known = Mapping[str, Opinion | None]
# Photograph, landmarks (5×2), box and, where it is stored, the crop in; what is seen out.
See = Callable[[RGB, Points, Points, RGB | None], Opinion]


@dataclass(frozen=True)
class Limits:
    """What an image must hold to; the parameters of `filter_faces`."""

    min_score: float
    min_face_size: float
    max_faces: int
    min_sharpness: float
    max_turn: float
    min_agreement: float

    def reason(self, seen: Opinion) -> str | None:
        """Why an image is rejected, None where it is kept."""
        failed = {
            "no_face": seen.face_size == 0,
            "low_score": seen.score < self.min_score,
            "small_face": seen.face_size < self.min_face_size,
            "disagrees_with_aligner": seen.agreement < self.min_agreement,
            "several_faces": 0 < self.max_faces < seen.faces,
            "turned_away": seen.turn > self.max_turn,
            "blurred": seen.sharpness < self.min_sharpness,
        }
        return next((name for name, fails in failed.items() if fails), None)


def filter_faces(
    faces: Path,
    aligned: Path,
    out: Path,
    min_score: float = 0.9,
    min_face_size: float = 20.0,
    max_faces: int = 0,
    min_sharpness: float = 20.0,
    max_turn: float = 0.97,
    min_agreement: float = 0.5,
) -> dict[str, Any]:
    """Scores every aligned image with RetinaFace on its photograph and says which to keep.

    No image is copied: the result is a table of image_id, kept, reason and what was measured. Reasons, of which the
    first that holds is given: unreadable, no_face (RetinaFace sees none at all), low_score, small_face,
    disagrees_with_aligner, several_faces, turned_away, blurred. What each person loses,
    gather tells. Of whole photographs (template whole_224) nothing is asked: every one that can be decoded is kept,
    with score 1, its square's side for face_size, its sharpness, and 0 for the rest.

    RetinaFace sees nothing in faces of few pixels. Of a pair of a low and a high resolution (group `resolution`, see
    `partners`) the low image therefore gets the verdict, the reason and the measurements of the sharp one, but its own
    sharpness and, by the aligner's box, its own face_size. A low image without a sharp one in the aligned table is
    judged as any other, but neither small_face nor blurred: that it is small is known.

    The defaults were measured on 1,000 photographs of LFW and 4,208 of CelebA in the wild, aligned with MTCNN; shares
    are given in this order.

    Args:
        faces: Face table of ingest, the photographs.
        aligned: Aligned table, the images to judge.
        out: Folder to write the filter table to.
        min_score: Least RetinaFace score, 0 to 1. 0.9 is the package's own default; rejects 0 % and 0.9 %.
        min_face_size: Least size of the face, shorter side of its box in pixels of the photograph. 20 is what MTCNN
            looks for; rejects 0 % and 0.3 %.
        max_faces: Most faces that are at least half as large as the subject, itself included; 0 for any number, the
            default, since 12.5 % and 1.6 % of good portraits have more than one. 1 wherever an image must not be
            taken for that of a bystander.
        min_sharpness: Least sharpness, the variance of the Laplacian of the grey levels of the crop on the ArcFace
            template, from brows to chin. 20 rejects 0.1 % and 0.2 %; once the crops are blurred with a standard
            deviation of 2 pixels 69 % and 53 %, of 3 pixels 99 % and 94 %.
        max_turn: Largest turn of the head as `turn_of` measures it, 0 to 1. At 0.97 the tip of the nose stands over an
            eye, some 55 degrees; rejects 0.9 % and 1.9 %.
        min_agreement: Least overlap (intersection over union) of RetinaFace's box with the aligner's, 0 to 1. 0.5 is
            PASCAL VOC's measure of the same object; the median is 0.9, rejects 0 % and 0.6 %.

    Returns:
        rows_in, rows_out (kept), rejected.

    Raises:
        KubefaceError: wrong settings, a corrupt table, or tables that do not belong together.
    """
    limits = Limits(min_score, min_face_size, max_faces, min_sharpness, max_turn, min_agreement)
    _check(limits)
    photographs, judged = Table(faces, "faces"), Table(aligned, "aligned")
    whole = judged.manifest["settings"].get("template") == WHOLE
    see = _see(whole)
    settings = {"faces": photographs.sha256, "aligned": judged.sha256} | asdict(limits)
    sharp_of = {} if whole else partners(judged)
    known = _sharp(see, photographs, judged, set(sharp_of.values())) if sharp_of else {}
    lenient = replace(limits, min_face_size=0.0, min_sharpness=0.0)
    with (
        TableWriter(out, "filter", f"filter {__version__}", settings) as table,
        Progress("filter", judged.rows) as progress,
    ):
        for rows, opinions in in_order(_judge(see, sharp_of, known), _batches(photographs, judged), cpu_limit()):
            for row, seen in zip(rows, opinions, strict=True):
                # What decides is the sharp image's.
                sharp = sharp_of.get(row["image_id"], "")
                decisive = known[sharp] if seen and sharp in known else seen
                bounds = lenient if resolution_of(row["groups"]) == LOW and sharp not in known else limits
                reason = "unreadable" if decisive is None else None if whole else bounds.reason(decisive)
                measured = asdict(seen or Opinion())
                table.add({"image_id": row["image_id"], "kept": reason is None, "reason": reason} | measured)
                if reason:
                    of_pair = "its sharp image: " if sharp in known else ""
                    table.reject(row["source"], reason, of_pair + _detail(decisive or Opinion()))
            progress.advance(len(rows))
        require(
            table.rows == judged.rows,
            f"{faces} lacks {judged.rows - table.rows} images of {aligned}: give the face table that was aligned",
        )
        rejected = sum(table.rejected.values())
    return {"rows_in": judged.rows, "rows_out": judged.rows - rejected, "rejected": rejected}


def _batches(photographs: Table, judged: Table, wanted: set[str] | None = None) -> Iterator[list[Row]]:
    """The photographs in which the aligner found a face, with landmarks and box; both tables are in one order.

    Args:
        photographs: face table.
        judged: aligned table.
        wanted: image_ids, None for all.

    Returns:
        Lists for the workers; of tiny photographs a row group at most, since each brings its crop.
    """
    # Else the crop is made anew, to be judged.
    stored = judged.manifest["settings"].get("template") in ("arcface_112", WHOLE)
    columns = ["image_id", "landmarks", "det_box", *(["image"] if stored else [])]
    crops = (row for rows in judged.row_groups(columns) for row in rows)
    crop = next(crops, None)
    for rows in photographs.row_groups(["image_id", "source", "groups", "image", "width", "height"]):
        found: list[Row] = []
        for row in rows:
            if crop is not None and row["image_id"] == crop["image_id"]:
                if wanted is None or row["image_id"] in wanted:
                    found.append(row | {name: crop[name] for name in columns[:3]} | {"crop": crop.get("image")})
                crop = next(crops, None)
        yield from by_pixels(found, BATCH_PIXELS)


def _sharp(see: See, photographs: Table, judged: Table, wanted: set[str]) -> dict[str, Opinion | None]:
    """What is seen in the sharp images of pairs: the low ones may come before them."""
    known: dict[str, Opinion | None] = {}
    with Progress("filter: sharp images of pairs", len(wanted)) as progress:
        for rows, opinions in in_order(_judge(see, {}, {}), _batches(photographs, judged, wanted), cpu_limit()):
            known |= {row["image_id"]: seen for row, seen in zip(rows, opinions, strict=True)}
            progress.advance(len(rows))
    return known


def _judge(
    see: See, sharp_of: Mapping[str, str], known: Known
) -> Callable[[Sequence[Row]], tuple[Sequence[Row], list[Opinion | None]]]:
    """What is done with a batch of rows, in a thread of its own; None is an image that cannot be decoded.

    Args:
        see: forms the opinion of an image.
        sharp_of: image_id of the sharp image by that of the low one, of pairs.
        known: what was seen in the sharp images.
    """

    def opinion(row: Row) -> Opinion | None:
        if row["image_id"] in known:
            return known[row["image_id"]]
        try:
            image, crop = _photograph(row["image"]), row["crop"] and decode_rgb(row["crop"])
        except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
            return None
        landmarks, box = np.reshape(row["landmarks"], (5, 2)), np.array(row["det_box"], np.float64)
        sharp = sharp_of.get(row["image_id"], "")
        if sharp in known:
            sharpness = sharpness_of(align_crop(image, landmarks) if crop is None else crop)
            return replace(known[sharp] or Opinion(), face_size=_side(box), sharpness=sharpness)
        return see(image, landmarks, box, crop)

    return lambda rows: (rows, [opinion(row) for row in rows])


def _side(box: Points) -> float:
    """The shorter side of a box."""
    return float(min(box[2:] - box[:2]))


def _see(whole: bool) -> See:
    """What forms the opinion of a face, or of a whole photograph, in which RetinaFace has nothing to look for."""
    if whole:
        return lambda image, landmarks, box, crop: Opinion(
            score=1.0, face_size=float(box[2] - box[0]), sharpness=_variance(image if crop is None else crop)
        )
    detect = make_detector("retinaface", 1, threads=1)
    return lambda image, landmarks, box, crop: look(image, landmarks, box, detect, crop)


def _photograph(data: bytes) -> RGB:
    """As decode_rgb; OpenCV decodes JPEG to the same pixels in half the time, but takes a file that is cut off too."""
    if data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9":
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is not None:
            return np.asarray(image, np.uint8)
    return decode_rgb(data)


def look(image: RGB, landmarks: Points, box: Points, detect: Detector, crop: RGB | None = None) -> Opinion:
    """The filter's opinion of a photograph.

    Args:
        image: the photograph.
        landmarks: that the aligner found, 5×2.
        box: that it found.
        detect: RetinaFace.
        crop: the face on the ArcFace template; made of the photograph where it is not given.
    """
    sharpness, turn = sharpness_of(align_crop(image, landmarks) if crop is None else crop), turn_of(landmarks)
    small, scale = _shrunk(image, _side(box))
    seen: Faces = detect(small)
    if not len(seen):
        return Opinion(sharpness=sharpness, turn=turn)
    best = seen.subject(small.shape[1], small.shape[0])
    sizes = (seen.boxes[:, 2:] - seen.boxes[:, :2]).min(1)
    return Opinion(
        score=float(seen.scores[best]),
        face_size=float(sizes[best] / scale),
        faces=int(((seen.scores >= SURE) & (sizes >= sizes[best] / 2)).sum()),
        sharpness=sharpness,
        turn=turn,
        agreement=overlap(seen.boxes[best] / scale, box),
    )


def sharpness_of(crop: RGB) -> float:
    """Variance of the Laplacian of the grey levels of a crop's face, 0 where all pixels are equal.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000.

    Args:
        crop: on the ArcFace template. Only the square from brows to chin counts: nearer to the crop's edge the
            photograph may have ended, which would pass for a sharp edge.
    """
    return _variance(crop[FACE_SQUARE])


def _variance(image: RGB) -> float:
    """Of the Laplacian of an image's grey levels."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var(dtype=np.float64))


def _shrunk(image: RGB, face: float) -> tuple[RGB, float]:
    """The photograph as small as a second opinion on a face of that many pixels allows, and the scale of it."""
    longest = max(image.shape[:2])
    side = min(LONGEST_SIDE, longest * FACE_SIDE / max(face, 1.0))
    side = int(-(-side // SIDE_STEP) * SIDE_STEP)
    if side >= longest:
        return image, 1.0
    scale = side / longest
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    # Areas of whole pixels down to less than twice the size, then lines: a quarter of the time of areas alone.
    if (whole := min(image.shape[1] // size[0], image.shape[0] // size[1])) > 1:
        halved = (image.shape[1] // whole, image.shape[0] // whole)
        image = np.asarray(cv2.resize(image, halved, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8), scale


def _check(limits: Limits) -> None:
    """Refuses limits that nothing could hold to."""
    for name in ("min_score", "max_turn", "min_agreement"):
        value = getattr(limits, name)
        require(0 <= value <= 1, f"{name} is {value}: it must lie between 0 and 1")
    for name in ("min_face_size", "max_faces", "min_sharpness"):
        value = getattr(limits, name)
        require(value >= 0, f"{name} is {value}: it must not be negative")


def _detail(seen: Opinion) -> str:
    return (
        f"score {seen.score:.3f}, face {seen.face_size:.0f} pixels, {seen.faces} faces, "
        f"sharpness {seen.sharpness:.0f}, turn {seen.turn:.2f}, agreement {seen.agreement:.2f}"
    )
