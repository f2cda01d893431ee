"""Perceptual hashes of photographs."""

import imagehash
from PIL import Image


def perceptual_hash(photograph: Image.Image) -> str:
    """The 64-bit DCT hash of a photograph as 16 hex digits; re-encoding, resizing or brightening changes few bits."""
    return str(imagehash.phash(photograph))
