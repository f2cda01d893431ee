"""The quality of a face on a photograph: RetinaFace's score, size, sharpness, turn of the head, other faces."""

from dataclasses import dataclass

import cv2
import numpy as np

from kubeface.faces.detector import LIKELY, Detector, Faces
from kubeface.faces.geometry import Points, align_crop, head_turn, overlap
from kubeface.faces.images import RGB

# RetinaFace mobilenet0.25 scores large faces lower than small ones: on photographs shrunk to at most this
# many pixels it missed 11 faces of 6,300 where it missed 206 at full size.
LONGEST_SIDE = 400
# The aligner's face need not be larger than this either, and the network's work falls with the square: of 700
# photographs of LFW and 700 of CelebA in the wild the decision at a score of 0.9 was the same at 48 and 56 pixels for
# all, at 44 for 99.6 %.
FACE_SIDE = 48
FACE_SQUARE = np.s_[34:104, 21:91]  # of a crop on the ArcFace template: from brows to chin
SIDE_STEP = 16  # photographs are shrunk to multiples of it: few different sizes, few plans of the network


@dataclass(frozen=True, slots=True)
class FaceQuality:
    """Measurements of one face, with the columns of the filter table for fields."""

    score: float = 0.0  # RetinaFace's, 0 to 1; 0 where it finds no face
    face_size: float = 0.0  # shorter side of the face's box in pixels of the photograph; 0 where there is no face
    faces: int = 0  # at least half as large as the subject, itself included
    sharpness: float = 0.0  # variance of the Laplacian of the crop's grey levels, at least 0
    turn: float = 0.0  # of the head, 0 (frontal) to 1 (profile)
    agreement: float = 0.0  # intersection over union of RetinaFace's box and the aligner's, 0 to 1

    def __str__(self) -> str:
        return (
            f"score {self.score:.3f}, face {self.face_size:.0f} pixels, {self.faces} faces, "
            f"sharpness {self.sharpness:.0f}, turn {self.turn:.2f}, agreement {self.agreement:.2f}"
        )


def measure_face(image: RGB, landmarks: Points, box: Points, detect: Detector, crop: RGB | None = None) -> FaceQuality:
    """Measures the face that the aligner found on a photograph, at its landmarks (5×2) and box (x1, y1, x2, y2).

    `detect` is RetinaFace, `crop` the face on the ArcFace template, which is made from the photograph where it is None.
    """
    crop_sharpness, turn = sharpness(align_crop(image, landmarks) if crop is None else crop), head_turn(landmarks)
    small, scale = _shrink(image, shorter_side(box))
    faces: Faces = detect(small)
    if not len(faces):
        return FaceQuality(sharpness=crop_sharpness, turn=turn)
    subject = faces.subject(small.shape[1], small.shape[0])
    sizes = (faces.boxes[:, 2:] - faces.boxes[:, :2]).min(1)
    return FaceQuality(
        score=float(faces.scores[subject]),
        face_size=float(sizes[subject] / scale),
        faces=int(((faces.scores >= LIKELY) & (sizes >= sizes[subject] / 2)).sum()),
        sharpness=crop_sharpness,
        turn=turn,
        agreement=overlap(faces.boxes[subject] / scale, box),
    )


def shorter_side(box: Points) -> float:
    """The shorter side of a box (x1, y1, x2, y2), in its unit."""
    return float(min(box[2:] - box[:2]))


def sharpness(crop: RGB) -> float:
    """Variance of the Laplacian of the grey levels of a crop's face, 0 where all pixels are equal.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000. Of a crop on
    the ArcFace template only the square from brows to chin counts: nearer to its edge the photograph may have ended,
    which would pass for a sharp edge.
    """
    return laplacian_variance(crop[FACE_SQUARE])


def laplacian_variance(image: RGB) -> float:
    """Variance of the Laplacian of an image's grey levels."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var(dtype=np.float64))


def _shrink(image: RGB, face_size: float) -> tuple[RGB, float]:
    """The photograph as small as RetinaFace may see it without another decision, and the scale, at most 1."""
    longest = max(image.shape[:2])
    side = min(LONGEST_SIDE, longest * FACE_SIDE / max(face_size, 1.0))
    side = int(-(-side // SIDE_STEP) * SIDE_STEP)
    if side >= longest:
        return image, 1.0
    scale = side / longest
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    # Area averages down to less than twice the size, then bilinear: a quarter of the time of area averages alone.
    if (factor := min(image.shape[1] // size[0], image.shape[0] // size[1])) > 1:
        reduced = (image.shape[1] // factor, image.shape[0] // factor)
        image = np.asarray(cv2.resize(image, reduced, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8), scale
