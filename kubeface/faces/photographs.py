"""Decoding photographs of any format and orientation to upright RGB."""

import io
from contextlib import suppress

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kubeface.faces.images import RGB

FORMATS = ["JPEG", "PNG", "PPM", "BMP", "WEBP", "TIFF", "GIF", "AVIF"]
with suppress(ImportError):  # optional: without it HEIC cannot be read
    from pillow_heif import register_heif_opener

    register_heif_opener()
    FORMATS.append("HEIF")
Image.MAX_IMAGE_PIXELS = None  # max_pixels is the limit; Pillow's own would warn and refuse
MAX_PIXELS = 50_000_000  # ingest's


def decode_photograph(data: bytes, max_pixels: int = MAX_PIXELS) -> RGB:
    """Decodes a photograph to RGB (H×W×3, uint8), oriented by its EXIF: the pixels that ingest stores.

    An image of more than `max_pixels` is not decoded.

    Raises:
        ValueError: it is not an image, damaged, truncated or too large; the text says which.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height <= max_pixels:
                image.load()
                return np.array(eight_bits(ImageOps.exif_transpose(image)).convert("RGB"))
            reason = f"{image.width}×{image.height} pixels, {max_pixels} allowed"
    except UnidentifiedImageError:
        reason = f"none of {', '.join(FORMATS)}" if data else "the file is empty"
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        reason = f"{type(error).__name__}: {error}"
    raise ValueError(reason)


def eight_bits(image: Image.Image) -> Image.Image:
    """Scales grey levels of 16 bits to 8; Pillow's own conversion clips at 255.

    Raises:
        ValueError: the levels have another range, so that black and white are unknown.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    levels = np.asarray(image)
    if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
        raise ValueError("neither 8 nor 16 bits a channel, so that black and white are unknown")
    return Image.fromarray((levels // 257).astype(np.uint8))
