"""Encoded images to arrays and back."""

import base64
import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RGB = NDArray[np.uint8]
PPM_HEADER = re.compile(rb"P6\n(\d{1,5}) (\d{1,5})\n255\n")


def decode_rgb(data: bytes) -> RGB:
    """JPEG, PNG or PPM bytes of a table's image column to RGB, uint8, H×W×3."""
    if header := PPM_HEADER.match(data):  # a file of encode_crop; Pillow takes ten times as long
        width, height = int(header[1]), int(header[2])
        if len(data) == header.end() + height * width * 3:
            return np.frombuffer(data, np.uint8, offset=header.end()).reshape(height, width, 3).copy()
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))  # convert would copy


def encode_png(image: RGB) -> bytes:
    """RGB (H×W×3) or grey (H×W) uint8 pixels to PNG bytes, the same bytes for the same pixels.

    image_id hashes these bytes, and random numbers depend on it: another compression level would change the noise.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def encode_crop(image: RGB) -> bytes:
    """RGB pixels (H×W×3) of a face crop to PPM bytes (P6 of Netpbm), the pixels after a short header.

    A crop is written once and read in every epoch: at 112×112 JPEG takes 0.23 ms to decode and PNG 0.8 ms, PPM next to
    nothing, for 38 kB instead of PNG's 19 to 25 kB.
    """
    return b"P6\n%d %d\n255\n" % (image.shape[1], image.shape[0]) + image.tobytes()


def data_uri(image: bytes) -> str:
    """A picture as a data: URI for a page: PNG and JPEG as they are, others as JPEG of quality 90."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    if kind == "jpeg" and not image.startswith(b"\xff\xd8"):
        buffer = io.BytesIO()
        Image.fromarray(decode_rgb(image)).save(buffer, "JPEG", quality=90)
        image = buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
