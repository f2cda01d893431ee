"""Encoding and decoding of images."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kubeface.faces.images import data_uri, decode_rgb, encode_crop, encode_png


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), grey=st.booleans())
def test_png_keeps_every_pixel(height: int, width: int, seed: int, grey: bool) -> None:
    shape = (height, width) if grey else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    data = encode_png(pixels)
    decoded = decode_rgb(data)
    assert decoded.shape == (height, width, 3)
    assert decoded.dtype == np.uint8 and decoded.flags.writeable
    assert (decoded == (np.dstack([pixels] * 3) if grey else pixels)).all()
    assert encode_png(decode_rgb(data)[..., 0] if grey else decoded) == data


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_a_crop_keeps_every_pixel(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = encode_crop(pixels)
    decoded = decode_rgb(data)
    np.testing.assert_array_equal(decoded, pixels)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(data))), pixels)  # a file that others read alike
    assert decoded.flags.c_contiguous and decoded.flags.writeable and encode_crop(decoded) == data


@pytest.mark.parametrize(
    "data",
    [b"P5\n2 1\n255\nab", b"P6 2 1 255\nabcdef", b"P6\n# made by hand\n2 1\n255\nabcdef", b"P3\n1 1\n255\n9 8 7"],
)
def test_other_netpbm_files_are_decoded_by_pillow(data: bytes) -> None:
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_rgb(data), expected)


@given(st.binary(max_size=200), st.integers(0, 100))
def test_other_data_is_an_error_and_no_crash(noise: bytes, cut: int) -> None:
    whole = encode_crop(np.zeros((9, 9, 3), np.uint8))
    for data in (noise, b"P6\n9 9\n255\n" + noise, whole[: len(whole) - 1 - cut]):
        with pytest.raises((OSError, ValueError)):
            decode_rgb(data)


def test_a_data_uri_is_png_or_jpeg() -> None:
    pixels = np.full((8, 8, 3), 120, np.uint8)
    assert data_uri(encode_png(pixels)).startswith("data:image/png;base64,iVBORw0KGgo")
    shown = data_uri(encode_crop(pixels))
    assert shown.startswith("data:image/jpeg;base64,")
    decoded = decode_rgb(base64.b64decode(shown.partition(",")[2]))
    assert np.abs(decoded.astype(int) - 120).max() <= 3


def test_channels_are_red_green_blue() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (250, 120, 10)).save(buffer, "JPEG", quality=95)
    assert decode_rgb(buffer.getvalue()).mean((0, 1)) == pytest.approx([250, 120, 10], abs=3)
