"""Alignment to templates by five landmarks, crops, and the choice of one face among several."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kubeface.faces.images import RGB
from kubeface.faces.templates import WHOLE
from kubeface.runtime.errors import require

CROP_SIZE, FACENET_SIZE, LARGE_SIZE = 112, 160, 224
# Eyes, nose and mouth corners (x, y) in a 112×112 crop, image's left first: the template of ArcFace
# (insightface, recognition/arcface_torch and python-package/insightface/utils/face_align.py).
ARCFACE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float64
)

# Upper left corner (x, y) of ArcFace's crop in a portrait of 224×224, which adds hair and shoulders, about as CelebA's
# aligned images (178×218) do: there the eyes are some 38 pixels apart at y = 111 and the mouth is at y = 152
# (list_landmarks_align_celeba.txt), here 35 pixels, at y = 112 and 152.
PORTRAIT_CORNER = (56, 60)

Points = NDArray[np.float64]


def similarity_transform(points: Points, target: Points = ARCFACE_112) -> Points:
    """The rotation, scale and translation that map points onto a target with the least squared error.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", IEEE PAMI 13(4), 1991;
    reflections are excluded. Points are N×2, the result is a matrix 2×3.
    """
    points, target = np.asarray(points, np.float64), np.asarray(target, np.float64)
    mean, target_mean = points.mean(0), target.mean(0)
    centred, target_centred = points - mean, target - target_mean
    u, singular, vt = np.linalg.svd(target_centred.T @ centred / len(points))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = u @ np.diag(sign) @ vt
    scale = float((singular * sign).sum() / max(centred.var(0).sum(), 1e-12))
    return np.hstack([scale * rotation, (target_mean - scale * rotation @ mean)[:, None]])


def align_crop(image: RGB, landmarks: Points, corner: tuple[int, int] = (0, 0), size: int = CROP_SIZE) -> RGB:
    """The crop, `size` pixels a side, of a photograph with its five landmarks (5×2) moved onto the ArcFace template.

    The template's upper left corner stands at `corner` (x, y) in the crop.
    """
    matrix = similarity_transform(landmarks)
    matrix[:, 2] += corner
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR), np.uint8)


def face_part(crop: RGB, template: str) -> RGB:
    """The face on a crop: of a portrait ArcFace's crop (up to one grey level of rounding), of other templates all."""
    if template != PORTRAIT:
        return crop
    left, top = PORTRAIT_CORNER
    return crop[top : top + CROP_SIZE, left : left + CROP_SIZE]


def middle_square(width: int, height: int) -> Points:
    """The largest square in the middle of a photograph: x1, y1, x2, y2 in whole pixels."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return np.array([left, top, left + side, top + side], np.float64)


def whole_crop(image: RGB) -> RGB:
    """The middle square of a photograph, scaled to 224×224."""
    left, top, right, bottom = middle_square(image.shape[1], image.shape[0]).astype(int)
    square = Image.fromarray(image[top:bottom, left:right])
    # When shrinking, Pillow's filter widens as that of torchvision's Resize does.
    return np.array(square.resize((LARGE_SIZE, LARGE_SIZE), Image.Resampling.BILINEAR))


def box_crop(image: RGB, box: Points) -> RGB:
    """The face's box (x1, y1, x2, y2), clipped to the photograph, stretched to 160×160, as facenet-pytorch's
    MTCNN(image_size=160, margin=0) saves it."""
    height, width = image.shape[:2]
    left, top = min(int(max(box[0], 0)), width - 1), min(int(max(box[1], 0)), height - 1)
    right, bottom = max(int(min(box[2], width)), left + 1), max(int(min(box[3], height)), top + 1)
    face = Image.fromarray(image[top:bottom, left:right])
    return np.array(face.resize((FACENET_SIZE, FACENET_SIZE), Image.Resampling.BILINEAR))


PORTRAIT = "portrait_224"
NO_DETECTOR = "none"  # goes with WHOLE
# Makes a crop from photograph, landmarks (5×2) and box, by the template's name.
TEMPLATES: dict[str, Callable[[RGB, Points, Points], RGB]] = {
    "arcface_112": lambda image, landmarks, box: align_crop(image, landmarks),
    "facenet_160": lambda image, landmarks, box: box_crop(image, box),
    PORTRAIT: lambda image, landmarks, box: align_crop(image, landmarks, PORTRAIT_CORNER, LARGE_SIZE),
    WHOLE: lambda image, landmarks, box: whole_crop(image),
}
TEMPLATE_SIZES = {"arcface_112": CROP_SIZE, "facenet_160": FACENET_SIZE, PORTRAIT: LARGE_SIZE, WHOLE: LARGE_SIZE}


def require_template(name: str) -> None:
    """Checks the name of a template.

    Raises:
        KubefaceError: no template of this name.
    """
    require(name in TEMPLATES, f"template '{name}' is unknown: use {' or '.join(TEMPLATES)}")


def head_turn(landmarks: Points) -> float:
    """How far a head is turned aside, 0 (frontal) to 1 (the tip of the nose is over an eye or beyond it).

    The difference of the nose's distances from the two eyes, along the line through them, over their sum; it is
    invariant to rotation, scale and translation. Landmarks are 5×2, eyes first, then the nose.
    """
    left, right, nose = np.asarray(landmarks, np.float64)[:3]
    axis = right - left
    to_left, to_right = float((nose - left) @ axis), float((right - nose) @ axis)
    return abs(to_left - to_right) / max(abs(to_left) + abs(to_right), 1e-12)


def overlap(box: Points, other: Points) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2), 0 to 1."""
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    covered = float(np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])) - shared
    return shared / max(covered, 1e-12)


def centre_crop(image: RGB, size: int = CROP_SIZE) -> RGB:
    """The middle of a photograph as a square crop, for a photograph in which no face was found.

    The square's side is half the photograph's shorter side, about the size of a face in LFW's photographs of 250×250.
    """
    height, width = image.shape[:2]
    side = max(min(height, width) // 2, 1)
    top, left = (height - side) // 2, (width - side) // 2
    crop = image[top : top + side, left : left + side]
    return np.asarray(cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def most_prominent(boxes: Points, width: int, height: int) -> int:
    """Index of the largest face nearest the centre, the one with the greatest score as insightface's and
    facenet-pytorch's aligners have it: area of the box less twice the squared distance of its centre from the image's.
    Boxes are N×4, N ≥ 1, in pixels."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    centre = np.stack([boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]], 1) / 2
    offset = ((centre - [width / 2, height / 2]) ** 2).sum(1)
    return int(np.argmax(area - 2.0 * offset))
