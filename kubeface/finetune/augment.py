"""Augmentations of training crops: those that teacher and student see, and those of the student alone.

A crop is RGB, uint8, H×W×3. All random numbers come from the generator that is given, so that a crop is changed alike
in whichever process, and the crop that is given is never written to. Blur, JPEG and low resolution are the
degradations of kubeface/faces/degradation.py; the others do what torchvision.transforms.v2.functional does, to a grey
level, in a third of the time.
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB
from kubeface.runtime.errors import require

# The changes of a single crop in the order in which they are made.
KINDS = ("flip", "crop", "warp", "jitter", "cutout", "blur", "low_resolution", "greyscale", "jpeg")
# How far a warp goes, as standard deviations: degrees, log size, log stretch, shear, and shifts as shares of width and
# height.
WARP = np.array([5.0, 0.06, 0.04, 0.05, 0.027, 0.027])
# Weights of red, green and blue in grey (ITU-R BT.601), with torchvision's four digits.
GREY = np.array([[0.2989, 0.587, 0.114]], np.float32)
# The aspect ratios of cut-outs, as torchvision's RandomErasing has them.
CUTOUT_ASPECT = (0.3, 3.3)
MOST_BLENDED = 0.5  # share of the other face


@dataclass(frozen=True)
class Augmentation:
    """Which changes are made, how often, and how strong; a strength is drawn uniformly from its range, ends included.

    Args:
        flip: probability of mirroring.
        crop: probability of cutting a part out and enlarging it to the old size.
        warp: probability of turning, enlarging, stretching and shifting the crop a little, its edges mirrored outwards.
        jitter: strength of colour jitter, 0 to less than 1: brightness, contrast and saturation of every crop are each
            multiplied by a factor drawn from 1 ± jitter.
        mix: probability of blending in another crop, by a half at most. Teacher and student see the same blend, so that
            distillation has faces without end to teach on (Beyer et al., "A good teacher is patient and consistent",
            arXiv 2106.05237); the label stays that of the larger part.
        greyscale: probability of taking the colours away (0.2 in SimCLR, arXiv 2002.05709).
        blur: probability of Gaussian blur (0.5 in SimCLR).
        jpeg: probability of JPEG compression.
        low_resolution: probability of shrinking and enlarging again (0.2 in AdaFace, arXiv 2204.00964).
        cutout: probability of a grey rectangle over a part (Cutout, arXiv 1708.04552; Random Erasing, 1708.04896:
            0.5).
        crop_area: the part's share of the area, its aspect kept. An aligned model counts on where the eyes are: on
            120 ORL crops, SFace's embeddings keep a cosine of 0.93 (at least 0.72) with those of the whole at 0.8–1,
            0.77 (0.15) at 0.6–1.
        blur_sigma: σ in pixels of the crop; SimCLR's.
        jpeg_quality: from that of ImageNet-C's severity 4 (arXiv 1903.12261) to Pillow's default.
        low_resolution_side: side in pixels. Half of a 112×112 crop at most; AdaFace's is 22–112, faces far from a
            camera are smaller (20×16 on average in TinyFace, arXiv 1811.08965).
        cutout_area: share of the area, as torchvision's RandomErasing has it.

    Raises:
        KubefaceError: a value out of range, by name.
    """

    flip: float = 0.5
    crop: float = 0.0
    warp: float = 0.0
    jitter: float = 0.0
    mix: float = 0.0
    greyscale: float = 0.0
    blur: float = 0.0
    jpeg: float = 0.0
    low_resolution: float = 0.0
    cutout: float = 0.0
    crop_area: tuple[float, float] = (0.8, 1.0)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    jpeg_quality: tuple[int, int] = (10, 75)
    low_resolution_side: tuple[int, int] = (8, 56)
    cutout_area: tuple[float, float] = (0.02, 0.33)

    def __post_init__(self) -> None:
        for name in (*KINDS, "mix"):
            require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}: it must lie between 0 and 1")
        require(self.jitter < 1, f"jitter is {self.jitter}: it must lie in 0 to less than 1")
        limits = {
            "crop_area": (0.01, 1),
            "blur_sigma": (0.1, 100),
            "jpeg_quality": (1, 100),
            "low_resolution_side": (2, 1000),
            "cutout_area": (0, 1),
        }
        for name, (least, most) in limits.items():
            low, high = getattr(self, name)
            require(
                least <= low <= high <= most,
                f"{name} is {low}–{high}: it must lie between {least} and {most}, the lower end first",
            )

    def both(self, image: RGB, random: np.random.Generator) -> RGB:
        """Changes that teacher and student both see: mirroring, cropping, warping, colour jitter."""
        if _happens(self.flip, random):
            image = np.asarray(cv2.flip(image, 1), np.uint8)
        if _happens(self.crop, random):
            image = _crop(image, random.uniform(*self.crop_area), random)
        if _happens(self.warp, random):
            image = _warp(image, random)
        if self.jitter > 0:
            image = _jitter(image, self.jitter, random)
        return image

    def mixes(self, random: np.random.Generator) -> bool:
        """Whether another crop is blended into this one."""
        return _happens(self.mix, random)

    def student(self, image: RGB, random: np.random.Generator) -> RGB:
        """Changes that only the student sees, in the order in which a camera makes them: occlusion, blur, low
        resolution, no colour, compression."""
        if _happens(self.cutout, random):
            image = _cutout(image, random.uniform(*self.cutout_area), random)
        if _happens(self.blur, random):
            image = Degradation("blur", random.uniform(*self.blur_sigma))(image)
        if _happens(self.low_resolution, random):
            image = Degradation("lowres", int(random.integers(*self.low_resolution_side, endpoint=True)))(image)
        if _happens(self.greyscale, random):
            image = np.repeat(_grey(image).astype(np.uint8)[..., None], 3, axis=2)
        if _happens(self.jpeg, random):
            image = Degradation("jpeg", int(random.integers(*self.jpeg_quality, endpoint=True)))(image)
        return image

    def alone(self) -> dict[str, "Augmentation"]:
        """The changes that are switched on, by name and in their order, each alone and on every crop."""
        switched_on = [name for name in KINDS if getattr(self, name) > 0]
        sure: dict[str, Any] = {name: self.jitter if name == "jitter" else 1.0 for name in switched_on}
        off: dict[str, Any] = dict.fromkeys(KINDS, 0.0)
        return {name: replace(self, **off | {name: sure[name]}) for name in switched_on}


def _happens(probability: float, random: np.random.Generator) -> bool:
    """Whether a change is made; one that is switched off draws no number and so alters no other."""
    return probability > 0 and random.random() < probability


def _place(random: np.random.Generator, shape: tuple[int, int], part: tuple[float, float]) -> tuple[slice, slice]:
    """Rows and columns of a rectangle of this height and width somewhere in an image; cut to fit, a pixel at least."""
    sizes = [min(max(1, round(size)), whole) for size, whole in zip(part, shape, strict=True)]
    starts = [random.integers(0, whole - size, endpoint=True) for size, whole in zip(sizes, shape, strict=True)]
    rows, columns = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    return rows, columns


def _crop(image: RGB, area: float, random: np.random.Generator) -> RGB:
    """A part with this share of the area, enlarged to the size of the whole (bilinear)."""
    height, width = image.shape[:2]
    part = image[_place(random, (height, width), (height * area**0.5, width * area**0.5))]
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _warp(image: RGB, random: np.random.Generator) -> RGB:
    """Turned, enlarged, stretched in its width against its height, sheared and shifted about the centre (bilinear)."""
    height, width = image.shape[:2]
    angle, size, stretch, shear, right, down = random.standard_normal(6) * WARP
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    moved = np.array([[np.exp(stretch) * cosine, shear - sine], [sine, np.exp(-stretch) * cosine]]) * np.exp(size)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.column_stack([moved, centre - moved @ centre + [right * width, down * height]])
    mirrored = cv2.BORDER_REFLECT_101
    warped = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=mirrored)
    return np.asarray(warped, np.uint8)


def blend(image: RGB, other: RGB, share: float) -> RGB:
    """The two faces over each other; share is the other's, 0 to 1."""
    return np.asarray(cv2.addWeighted(image, 1 - share, other, share, 0), np.uint8)


def _jitter(image: RGB, strength: float, random: np.random.Generator) -> RGB:
    """Brightness, contrast and saturation, each multiplied by a factor from 1 ± strength.

    As torchvision's adjust_brightness, adjust_contrast and adjust_saturation one after the other: contrast about the
    mean grey of the crop, saturation about the grey of each pixel, fractions cut off. The first two depend on a single
    value and go through a table.
    """
    brightness, contrast, saturation = random.uniform(1 - strength, 1 + strength, 3)
    image = _look_up(image, brightness, 0.0)
    image = _look_up(image, contrast, (1 - contrast) * float(_grey(image).mean()))
    colours = cv2.addWeighted(image.astype(np.float32), saturation, cv2.merge([_grey(image)] * 3), 1 - saturation, 0)
    return np.clip(colours, 0, 255).astype(np.uint8)


def _look_up(image: RGB, factor: float, offset: float) -> RGB:
    """The grey levels multiplied and shifted."""
    levels = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return np.asarray(cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8)), np.uint8)


def _grey(image: RGB) -> NDArray[np.float32]:
    """Grey levels, whole numbers, H×W."""
    return np.floor(np.asarray(cv2.transform(image.astype(np.float32), GREY), np.float32))


def _cutout(image: RGB, area: float, random: np.random.Generator) -> RGB:
    """A rectangle with this share of the area, or what of it fits, in the middle grey that is 0 to a model."""
    height, width = image.shape[:2]
    aspect = np.exp(random.uniform(*np.log(CUTOUT_ASPECT)))
    part = (area * height * width * aspect) ** 0.5, (area * height * width / aspect) ** 0.5
    image = image.copy()
    image[_place(random, (height, width), part)] = 127
    return image
