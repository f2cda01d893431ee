"""What bad cameras do to a face crop: the target domain of a fine-tuning, and the probes of an evaluation.

`noise:60`   Gaussian sensor noise, independent for each pixel and channel, σ in grey levels of 255
`lowres:14`  down to 14×14 pixels (area average) and up again (bicubic, or by a super-resolution network)
`blur:4`     Gaussian blur, σ in pixels of the crop
`jpeg:5`     JPEG at this quality
`dark`       a fifth of the light, then shot noise of a sensor that holds 255 electrons a pixel
`grey`       luminance alone, in all three channels
`masked`     a light-blue surgical mask over nose, mouth and chin, drawn where the template arcface_112 has them
`rotated:15` turned about the crop's middle by so many degrees, counter-clockwise
`none`       as it is

A span in the place of a number, as `lowres:10-20`, draws it for each image.
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
# The mask's colour (red, green, blue), and its outline from the bridge of the nose to below the chin, the image's right
# half: across and down from the point between the eyes, in distances between the eyes. The mouth lies 1.15 down, the
# chin about 1.7, and the jaw stands 1 aside.
MASK_COLOUR = (164, 205, 226)
MASK_OUTLINE = (
    (0.0, 0.28),
    (0.22, 0.36),
    (0.6, 0.55),
    (1.0, 0.62),
    (1.0, 1.1),
    (0.82, 1.55),
    (0.45, 1.85),
    (0.0, 1.95),
)
FRACTION_BITS = 4  # of the outline's coordinates, which OpenCV takes as integers


def _noise(image: RGB, sigma: float, random: np.random.Generator) -> RGB:
    noisy = random.standard_normal(image.shape, dtype=np.float32)
    noisy *= sigma
    noisy += image
    return np.clip(np.rint(noisy, out=noisy), 0, 255, out=noisy).astype(np.uint8)


def _lowres(image: RGB, side: float, random: np.random.Generator) -> RGB:
    small = reduced(image, int(side))
    return np.asarray(cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def reduced(image: RGB, side: int) -> RGB:
    """The image in side×side pixels, each the mean of those that it covers."""
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
    """What a surgical mask hides, as a probe of what is left.

    Drawn masks are how NIST measured it (Ngan, Grother and Hanaoka, NIST IR 8311, 2020). This one lies alike on every
    face, where real ones differ in form, colour and fit: figures with real masks may differ too.
    """
    cover, cloth = _mask(*image.shape[:2])
    return np.rint(image * (1 - cover) + cloth * cover).astype(np.uint8)


@lru_cache(maxsize=4)
def _mask(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Share of each pixel that the mask covers (H×W×1, 0…1), and the cloth's colours (H×W×3, 0…255)."""
    left, right = ARCFACE_112[:2]
    middle, distance = (left + right) / 2, float(np.linalg.norm(right - left))
    half = np.array(MASK_OUTLINE)
    outline = middle + distance * np.concatenate([half, half[-2:0:-1] * [-1, 1]])
    scale = np.array([width, height]) / CROP_SIZE
    corners = (outline + 0.5) * scale - 0.5  # a pixel's centre stands at its whole number
    cover = np.zeros((height, width), np.uint8)
    fixed = np.rint(corners * 2**FRACTION_BITS).astype(np.int32)
    cv2.fillPoly(cover, [fixed], 255, lineType=cv2.LINE_AA, shift=FRACTION_BITS)
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    across, down = np.moveaxis(((places + 0.5) / scale - 0.5 - middle) / distance, -1, 0)
    # The cloth turns away from the light at the cheeks, and is pleated.
    light = 1 - 0.22 * across**2 + 0.03 * np.sin(6 * np.pi * down)
    cloth = np.clip(light, 0, 1)[..., None] * np.array(MASK_COLOUR)
    return (cover[..., None] / 255).astype(np.float32), cloth.astype(np.float32)


def _rotated(image: RGB, degrees: float, random: np.random.Generator) -> RGB:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(turned, np.uint8)


# kind → (function, least and greatest value or None where there is no value, default or None where one must be given)
_KINDS: dict[str, tuple[Callable[[RGB, float, np.random.Generator], RGB], tuple[float, float] | None, float | None]] = {
    "noise": (_noise, (0, 255), None),
    "lowres": (_lowres, (2, 1000), None),
    "blur": (_blur, (0.1, 100), None),
    "jpeg": (_jpeg, (1, 100), None),
    "dark": (_dark, (0.01, 1), DARK_LIGHT),
    "grey": (_grey, None, None),
    "masked": (_masked, None, None),
    "rotated": (_rotated, (-180, 180), None),
}


class Enlarger(Protocol):
    """What enlarges an image; see kubeface/models/superresolution.py."""

    def to(self, image: RGB, width: int, height: int) -> RGB:
        """The image (h×w×3) in that size."""
        ...


WHOLE_NUMBERS = ("lowres", "jpeg")  # kinds whose values are drawn as whole numbers out of a span
_SPAN = re.compile(r"(.*\d\.?)-(-?[\d.].*)")


@dataclass(frozen=True)
class Degradation:
    """A degradation with its strength; `Degradation.parse("noise:60")` makes one.

    Args:
        kind: as the list above has it.
        value: the strength.
        highest: with it, the strength is drawn for each image, from value to highest.
        enlarger: for lowres, what brings the few pixels back to the crop's size; None for bicubic.
    """

    kind: str = "none"
    value: float = 0.0
    highest: float | None = None
    enlarger: Enlarger | None = None

    @classmethod
    def parse(cls, text: str, enlarger: Enlarger | None = None) -> "Degradation":
        """Reads `kind:value` or `kind:value-highest`.

        Args:
            text: the degradation.
            enlarger: for lowres; of no use to the other kinds.

        Raises:
            KubefaceError: unknown kind, or a value that is missing, too much, no number or out of range.
        """
        kind, colon, number = text.strip().partition(":")
        if kind == "none" and not colon:
            return cls()
        if kind not in _KINDS:
            raise KubefaceError(f"degradation '{text}' is unknown: use none, {', '.join(_KINDS)} (as noise:60)")
        _, span, default = _KINDS[kind]
        if span is None:
            if colon:
                raise KubefaceError(f"degradation '{text}': {kind} takes no number, write {kind}")
            return cls(kind)
        least, most = span
        ends = _SPAN.fullmatch(number)
        try:
            values = [float(end) for end in ends.groups()] if ends else [float(number) if colon else _need(default)]
        except ValueError:
            raise KubefaceError(
                f"degradation '{text}' needs a number behind the colon, as in {kind}:{most:g}"
            ) from None
        for value in values:
            if not least <= value <= most:
                raise KubefaceError(f"degradation '{text}': the value must lie between {least:g} and {most:g}")
        if sorted(set(values)) != values:
            raise KubefaceError(f"degradation '{text}': write the lower end of the span first")
        return cls(kind, values[0], values[1] if ends else None, enlarger if kind == "lowres" else None)

    def __bool__(self) -> bool:
        return self.kind != "none"

    def __str__(self) -> str:
        if not self or _KINDS[self.kind][1] is None:
            return self.kind
        numbers = [np.format_float_positional(end, trim="-") for end in (self.value, self.highest) if end is not None]
        return f"{self.kind}:{'-'.join(numbers)}"

    def __call__(self, image: RGB, *key: object) -> RGB:
        """The degraded copy of an RGB crop (uint8, H×W×3).

        The random part depends on `key` alone (seed, image id, epoch …), so an image is degraded
        alike whatever was degraded before it and in whichever process.
        """
        if not self:
            return image
        random = keyed_rng(*key)
        value = self.value if self.highest is None else self._drawn(self.value, self.highest, random)
        if self.enlarger is not None:
            return self.enlarger.to(reduced(image, int(value)), image.shape[1], image.shape[0])
        return _KINDS[self.kind][0](image, value, random)

    def _drawn(self, lowest: float, highest: float, random: np.random.Generator) -> float:
        if self.kind in WHOLE_NUMBERS:
            return float(random.integers(int(lowest), int(highest), endpoint=True))
        return float(random.uniform(lowest, highest))


def _need(default: float | None) -> float:
    """Raises ValueError where a kind has no default."""
    if default is None:
        raise ValueError
    return default
