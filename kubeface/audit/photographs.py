"""Photographs of an evaluation set: the face that is found, as an aligned crop."""

import cv2
import numpy as np

from kubeface.faces.detection import Detector
from kubeface.faces.geometry import align_crop
from kubeface.faces.images import RGB

# RetinaFace mobilenet0.25 scores large faces lower than small ones: photographs are shrunk to this many pixels.
LONGEST_SIDE = 400


def face_crop(photograph: RGB, detect: Detector, min_score: float) -> RGB | None:
    """The aligned crop of the photograph's face, None where RetinaFace is not sure of any."""
    height, width = photograph.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        photograph = np.asarray(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA), np.uint8)
    found = detect(photograph).confident(min_score)
    if not len(found):
        return None
    return align_crop(photograph, found.landmarks[found.subject(photograph.shape[1], photograph.shape[0])])
