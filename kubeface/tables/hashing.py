"""Perceptual hashes of photographs."""

import imagehash
from PIL import Image


def perceptual_hash(photograph: Image.Image) -> str:
    """The 64-bit DCT hash of what is to be seen, as 16 hex digits: few bits differ where a photograph was re-encoded,
    resized or made brighter."""
    return str(imagehash.phash(photograph))
