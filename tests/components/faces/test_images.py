"""Encoding and decoding of images."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.faces.images import decode_rgb, encode_png


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), grey=st.booleans())
def test_png_keeps_every_pixel(height: int, width: int, seed: int, grey: bool) -> None:
    shape = (height, width) if grey else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    data = encode_png(pixels)
    decoded = decode_rgb(data)
    assert decoded.shape == (height, width, 3)
    assert decoded.dtype == np.uint8
    assert (decoded == (np.dstack([pixels] * 3) if grey else pixels)).all()
    assert encode_png(decode_rgb(data)[..., 0] if grey else decoded) == data


def test_channels_are_red_green_blue() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (250, 120, 10)).save(buffer, "JPEG", quality=95)
    assert decode_rgb(buffer.getvalue()).mean((0, 1)) == pytest.approx([250, 120, 10], abs=3)


def test_the_result_may_be_written_to() -> None:
    pixels = decode_rgb(encode_png(np.zeros((4, 4), np.uint8)))
    pixels += 1
    assert pixels.all()


def test_faces_take_about_as_much_room_as_with_a_longer_search(orl: dict[str, bytes]) -> None:
    ours, searched = 0, 0
    for number in range(1, 11):
        pixels = decode_rgb(orl[f"s{number}/1.pgm"])
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
        ours, searched = ours + len(encode_png(pixels)), searched + len(buffer.getvalue())
    assert ours < 1.15 * searched
