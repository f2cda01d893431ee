"""Five landmarks, the template they are moved onto, and the choice of one face among several."""

import cv2
import numpy as np
from numpy.typing import NDArray

from components.faces.images import RGB

CROP_SIZE = 112
# Eyes, nose and mouth corners (x, y) in a 112×112 crop, image's left first: the template of ArcFace
# (insightface, recognition/arcface_torch and python-package/insightface/utils/face_align.py).
ARCFACE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float64
)

Points = NDArray[np.float64]


def similarity_transform(points: Points, target: Points = ARCFACE_112) -> Points:
    """The 2×3 matrix of the rotation, scale and shift that best moves `points` (N×2) onto `target` (N×2).

    Least squares after Umeyama, "Least-squares estimation of transformation parameters between two
    point patterns", IEEE PAMI 13(4), 1991; reflections are excluded.
    """
    points, target = np.asarray(points, np.float64), np.asarray(target, np.float64)
    mean, target_mean = points.mean(0), target.mean(0)
    centred, target_centred = points - mean, target - target_mean
    u, singular, vt = np.linalg.svd(target_centred.T @ centred / len(points))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = u @ np.diag(sign) @ vt
    scale = float((singular * sign).sum() / max(centred.var(0).sum(), 1e-12))
    return np.hstack([scale * rotation, (target_mean - scale * rotation @ mean)[:, None]])


def align_crop(image: RGB, landmarks: Points) -> RGB:
    """The 112×112 crop of an RGB photograph with its five landmarks moved onto the ArcFace template."""
    matrix = similarity_transform(landmarks)
    return np.asarray(cv2.warpAffine(image, matrix, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR), np.uint8)


def centre_crop(image: RGB) -> RGB:
    """The middle of a photograph as a 112×112 crop, for an image in which no face was found.

    The square is half the shorter side, about what the face fills in a portrait cut like LFW's 250×250.
    """
    height, width = image.shape[:2]
    side = max(min(height, width) // 2, 1)
    top, left = (height - side) // 2, (width - side) // 2
    crop = image[top : top + side, left : left + side]
    return np.asarray(cv2.resize(crop, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR), np.uint8)


def most_prominent(boxes: Points, width: int, height: int) -> int:
    """Index of the largest face nearest the centre: box area less twice the squared distance of its
    centre from the image's centre (the rule of insightface's and facenet-pytorch's aligners).

    Args:
        boxes: N×4, x1, y1, x2, y2 in pixels, N ≥ 1.
        width: of the image in pixels.
        height: of the image in pixels.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    centre = np.stack([boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]], 1) / 2
    offset = ((centre - [width / 2, height / 2]) ** 2).sum(1)
    return int(np.argmax(area - 2.0 * offset))
