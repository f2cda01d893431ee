"""What bad cameras do to a face crop: the target domain of a fine-tuning, and the probes of an evaluation.

`noise:60`   Gaussian sensor noise, independent for each pixel and channel, σ in grey levels of 255
`lowres:14`  down to 14×14 pixels (area average) and up again (bicubic)
`blur:4`     Gaussian blur, σ in pixels of the crop
`jpeg:5`     JPEG at this quality
`dark`       a fifth of the light, then shot noise of a sensor that holds 255 electrons a pixel
`none`       as it is
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from components.faces.errors import KubefaceError
from components.faces.images import RGB
from components.faces.seeded import seeded

DARK_LIGHT = 0.2


def _noise(image: RGB, sigma: float, random: np.random.Generator) -> RGB:
    noisy = random.standard_normal(image.shape, dtype=np.float32)
    noisy *= sigma
    noisy += image
    return np.clip(np.rint(noisy, out=noisy), 0, 255, out=noisy).astype(np.uint8)


def _lowres(image: RGB, side: float, random: np.random.Generator) -> RGB:
    height, width = image.shape[:2]
    small = cv2.resize(image, (int(side), int(side)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _blur(image: RGB, sigma: float, random: np.random.Generator) -> RGB:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def _jpeg(image: RGB, quality: float, random: np.random.Generator) -> RGB:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(decoded, np.uint8)[..., ::-1])


def _dark(image: RGB, light: float, random: np.random.Generator) -> RGB:
    return np.clip(random.poisson(image * light), 0, 255).astype(np.uint8)


# kind → (function, least and greatest value, default value or None where one must be given)
_KINDS: dict[str, tuple[Callable[[RGB, float, np.random.Generator], RGB], float, float, float | None]] = {
    "noise": (_noise, 0, 255, None),
    "lowres": (_lowres, 2, 1000, None),
    "blur": (_blur, 0.1, 100, None),
    "jpeg": (_jpeg, 1, 100, None),
    "dark": (_dark, 0.01, 1, DARK_LIGHT),
}


@dataclass(frozen=True)
class Degradation:
    """A degradation with its strength; `Degradation.parse("noise:60")` makes one."""

    kind: str = "none"
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Degradation":
        """Reads `kind:value`.

        Raises:
            KubefaceError: unknown kind, or a value that is missing, no number or out of range.
        """
        kind, colon, number = text.strip().partition(":")
        if kind == "none" and not colon:
            return cls()
        if kind not in _KINDS:
            raise KubefaceError(f"degradation '{text}' is unknown: use none, {', '.join(_KINDS)} (as noise:60)")
        _, least, most, default = _KINDS[kind]
        try:
            value = float(number) if colon or default is None else default
        except ValueError:
            raise KubefaceError(
                f"degradation '{text}' needs a number behind the colon, as in {kind}:{most:g}"
            ) from None
        if not least <= value <= most:
            raise KubefaceError(f"degradation '{text}': the value must lie between {least:g} and {most:g}")
        return cls(kind, value)

    def __bool__(self) -> bool:
        return self.kind != "none"

    def __str__(self) -> str:
        return f"{self.kind}:{np.format_float_positional(self.value, trim='-')}" if self else "none"

    def __call__(self, image: RGB, *key: object) -> RGB:
        """The degraded copy of an RGB crop (uint8, H×W×3).

        The random part depends on `key` alone (seed, image id, epoch …), so an image is degraded
        alike whatever was degraded before it and in whichever process.
        """
        if not self:
            return image
        return _KINDS[self.kind][0](image, self.value, seeded(*key))
