"""Degradations of face crops: the target domain of a fine-tuning, and the probes of an evaluation.

`noise:60`   Gaussian sensor noise, independent for each pixel and channel, σ in grey levels of 255
`lowres:14`  downsampled to 14×14 pixels (area average) and enlarged again (bicubic, or by a super-resolution network)
`blur:4`     Gaussian blur, σ in pixels of the crop
`jpeg:5`     JPEG compression of this quality
`dark`       a fifth of the light, with the shot noise of a sensor that holds 255 electrons per pixel
`grey`       luminance in all three channels
`masked`     a light-blue surgical mask over nose, mouth and chin of the template arcface_112
`rotated:15` rotation about the crop's centre in degrees, counter-clockwise
`none`       unchanged

A range instead of a number, as in `lowres:10-20`, draws a value for each image.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from kubeface.faces.geometry import ARCFACE_112, CROP_SIZE
from kubeface.faces.images import RGB
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.keyed_rng import keyed_rng

DARK_LIGHT = 0.2
# The mask's colour (red, green, blue), and the right half of its outline from the bridge of the nose to below the chin:
# x and y from the point between the eyes, in distances between the eyes. The mouth is at y = 1.15, the chin at about
# y = 1.7, the jaw at x = 1.
MASK_COLOUR = (164, 205, 226)
MASK_OUTLINE = ((0, 0.28), (0.22, 0.36), (0.6, 0.55), (1, 0.62), (1, 1.1), (0.82, 1.55), (0.45, 1.85), (0, 1.95))
FRACTION_BITS = 4  # of the outline's coordinates, which OpenCV takes as fixed-point numbers


def _noise(image: RGB, sigma: float, random: np.random.Generator) -> RGB:
    noisy = random.standard_normal(image.shape, dtype=np.float32)
    noisy *= sigma
    noisy += image
    return np.clip(np.rint(noisy, out=noisy), 0, 255, out=noisy).astype(np.uint8)


def _lowres(image: RGB, side: float, random: np.random.Generator) -> RGB:
    small = downsample(image, int(side))
    return np.asarray(cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def downsample(image: RGB, side: int) -> RGB:
    """The image in side×side pixels, each the mean of the pixels that it covers."""
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _blur(image: RGB, sigma: float, random: np.random.Generator) -> RGB:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def _jpeg(image: RGB, quality: float, random: np.random.Generator) -> RGB:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(decoded, np.uint8)[..., ::-1])


def _dark(image: RGB, light: float, random: np.random.Generator) -> RGB:
    return np.clip(random.poisson(image * light), 0, 255).astype(np.uint8)


def _grey(image: RGB, value: float, random: np.random.Generator) -> RGB:
    """ITU-R BT.601's luma, 0.299 R + 0.587 G + 0.114 B, as OpenCV rounds it."""
    return np.repeat(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)[..., None], 3, axis=2)


def _masked(image: RGB, value: float, random: np.random.Generator) -> RGB:
    """A drawn surgical mask, as NIST used to measure its effect (Ngan, Grother and Hanaoka, NIST IR 8311, 2020).

    It is the same on every face, while real masks differ in shape, colour and fit: figures with those may differ too.
    """
    cover, cloth = _mask(*image.shape[:2])
    return np.rint(image * (1 - cover) + cloth * cover).astype(np.uint8)


@lru_cache(maxsize=4)
def _mask(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The share of each pixel that the mask covers (H×W×1, 0…1), and the cloth's colours (H×W×3, 0…255)."""
    left, right = ARCFACE_112[:2]
    middle, distance = (left + right) / 2, float(np.linalg.norm(right - left))
    half = np.array(MASK_OUTLINE)
    outline = middle + distance * np.concatenate([half, half[-2:0:-1] * [-1, 1]])
    scale = np.array([width, height]) / CROP_SIZE
    corners = (outline + 0.5) * scale - 0.5  # a pixel's centre is at whole coordinates
    cover = np.zeros((height, width), np.uint8)
    fixed = np.rint(corners * 2**FRACTION_BITS).astype(np.int32)
    cv2.fillPoly(cover, [fixed], 255, lineType=cv2.LINE_AA, shift=FRACTION_BITS)
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    across, down = np.moveaxis(((pixels + 0.5) / scale - 0.5 - middle) / distance, -1, 0)
    # The cloth is darker at the cheeks, and is pleated.
    light = 1 - 0.22 * across**2 + 0.03 * np.sin(6 * np.pi * down)
    cloth = np.clip(light, 0, 1)[..., None] * np.array(MASK_COLOUR)
    return (cover[..., None] / 255).astype(np.float32), cloth.astype(np.float32)


def _rotated(image: RGB, degrees: float, random: np.random.Generator) -> RGB:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(turned, np.uint8)


@dataclass(frozen=True, slots=True)
class _Kind:
    apply: Callable[[RGB, float, np.random.Generator], RGB]
    limits: tuple[float, float] | None = None  # least and greatest value; None where the kind takes no value
    default: float | None = None  # value where none is given; None where one must be given
    whole: bool = False  # values drawn from a range are whole numbers


_KINDS = {
    "noise": _Kind(_noise, (0, 255)),
    "lowres": _Kind(_lowres, (2, 1000), whole=True),
    "blur": _Kind(_blur, (0.1, 100)),
    "jpeg": _Kind(_jpeg, (1, 100), whole=True),
    "dark": _Kind(_dark, (0.01, 1), DARK_LIGHT),
    "grey": _Kind(_grey),
    "masked": _Kind(_masked),
    "rotated": _Kind(_rotated, (-180, 180)),
}


class Enlarger(Protocol):
    """Enlarges an image; see kubeface/models/superresolution.py."""

    def to(self, image: RGB, width: int, height: int) -> RGB:
        """The image (h×w×3) in that size."""
        ...


_RANGE = re.compile(r"(.*\d\.?)-(-?[\d.].*)")


@dataclass(frozen=True)
class Degradation:
    """A degradation with its strength; `Degradation.parse("noise:60")` makes one."""

    kind: str = "none"  # of the list at the top of this file
    value: float = 0.0  # the strength; unit and range depend on the kind
    highest: float | None = None  # where it is given, the strength is drawn for each image, from value to highest
    enlarger: Enlarger | None = None  # for lowres, of the downsampled crop; None for bicubic interpolation

    @classmethod
    def parse(cls, text: str, enlarger: Enlarger | None = None) -> "Degradation":
        """Reads `kind`, `kind:value` or `kind:value-highest`; the enlarger is for lowres, other kinds ignore it.

        Raises:
            KubefaceError: the kind is unknown, or the value is missing, superfluous, not a number or out of range.
        """
        name, colon, number = text.strip().partition(":")
        if name == "none" and not colon:
            return cls()
        if name not in _KINDS:
            raise KubefaceError(f"degradation '{text}' is unknown: use none, {', '.join(_KINDS)} (as noise:60)")
        kind = _KINDS[name]
        if kind.limits is None:
            if colon:
                raise KubefaceError(f"degradation '{text}': {name} takes no number, write {name}")
            return cls(name)
        least, greatest = kind.limits
        if not colon and kind.default is not None:
            return cls(name, kind.default)
        ends = _RANGE.fullmatch(number)
        try:
            values = [float(end) for end in (ends.groups() if ends else (number,))]
        except ValueError:
            needed = f"needs a number behind the colon, as in {name}:{greatest:g}"
            raise KubefaceError(f"degradation '{text}' {needed}") from None
        for value in values:
            if not least <= value <= greatest:
                raise KubefaceError(f"degradation '{text}': the value must lie between {least:g} and {greatest:g}")
        if sorted(set(values)) != values:
            raise KubefaceError(f"degradation '{text}': write the lower end of the range first")
        return cls(name, values[0], values[1] if ends else None, enlarger if name == "lowres" else None)

    def __bool__(self) -> bool:
        return self.kind != "none"

    def __str__(self) -> str:
        if not self or _KINDS[self.kind].limits is None:
            return self.kind
        numbers = [np.format_float_positional(end, trim="-") for end in (self.value, self.highest) if end is not None]
        return f"{self.kind}:{'-'.join(numbers)}"

    def __call__(self, image: RGB, *key: object) -> RGB:
        """The degraded copy of a crop (uint8, H×W×3).

        The random numbers depend on the key alone (seed, image id, epoch …), so that an image is degraded the same in
        any order and any process.
        """
        if not self:
            return image
        random = keyed_rng(*key)
        value = self._draw(random)
        if self.enlarger is not None:
            return self.enlarger.to(downsample(image, int(value)), image.shape[1], image.shape[0])
        return _KINDS[self.kind].apply(image, value, random)

    def _draw(self, random: np.random.Generator) -> float:
        if self.highest is None:
            return self.value
        if _KINDS[self.kind].whole:
            return float(random.integers(int(self.value), int(self.highest), endpoint=True))
        return float(random.uniform(self.value, self.highest))
