"""Photographs of an evaluation set: found face, aligned crop, perceptual hash."""

import cv2
import numpy as np
from PIL import Image

from components.faces.detection import Detector
from components.faces.geometry import align_crop
from components.faces.images import RGB

# RetinaFace mobilenet0.25 scores large faces lower than small ones: photographs are shrunk to this many pixels.
LONGEST_SIDE = 400
_SIDE, _LOW = 32, 8  # pixels of the picture that is hashed, and frequencies of it that count
# Discrete cosine transform (type II) as a matrix.
_DCT = np.cos(np.pi * np.outer(np.arange(_LOW), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE))


def perceptual_hash(photograph: RGB) -> int:
    """The 64-bit DCT hash of a photograph, the one that ingest stores (imagehash.phash).

    The 8×8 lowest frequencies of the picture at 32×32 grey pixels, a bit each: above their median or not.
    """
    small = Image.fromarray(photograph).convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    frequencies = _DCT @ np.asarray(small, np.float64) @ _DCT.T
    bits = (frequencies > np.median(frequencies)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


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
