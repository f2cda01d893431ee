"""Augmentations of training crops: those that teacher and student see, those of the student alone, and by label.

A crop is RGB, uint8, H×W×3, and never written to. All random numbers come from the generator that is given. Blur, JPEG
and low resolution are the degradations of kubeface/faces/degradation.py; the others do what
torchvision.transforms.v2.functional does, to a grey level, in a third of the time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB
from kubeface.tables.labels import UNKNOWN

# The changes of a single crop in the order in which they are made.
KINDS = ("flip", "crop", "warp", "jitter", "cutout", "blur", "low_resolution", "greyscale", "jpeg")
# How far a warp goes, as standard deviations: degrees, log size, log stretch, shear, and shifts as shares of width and
# height.
WARP = np.array([5.0, 0.06, 0.04, 0.05, 0.027, 0.027])
# Weights of red, green and blue in grey (ITU-R BT.601), with torchvision's four digits.
GREY = np.array([[0.2989, 0.587, 0.114]], np.float32)
MOST_BLENDED = 0.5  # share of the other face
# Strengths, drawn uniformly, ends included.
# A part's share of the area, its aspect kept. An aligned model counts on where the eyes are: on 120 ORL crops, SFace's
# embeddings keep a cosine of 0.93 (at least 0.72) with those of the whole at 0.8–1, 0.77 (0.15) at 0.6–1.
CROP_AREA = (0.8, 1.0)
BLUR_SIGMA = (0.1, 2.0)  # pixels of the crop, as in SimCLR
JPEG_QUALITY = (10, 75)  # from that of ImageNet-C's severity 4 (arXiv 1903.12261) to Pillow's default
# Side in pixels. Half of a 112×112 crop at most; AdaFace's is 22–112, faces far from a camera are smaller (20×16 on
# average in TinyFace, arXiv 1811.08965).
LOW_RESOLUTION_SIDE = (8, 56)
# Share of the area and aspect ratio, as torchvision's RandomErasing has them.
CUTOUT_AREA, CUTOUT_ASPECT = (0.02, 0.33), (0.3, 3.3)


@dataclass(frozen=True)
class Augmentation:
    """Which changes are made, and how often.

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

    def both(self, image: RGB, random: np.random.Generator) -> RGB:
        """Changes that teacher and student both see: mirroring, cropping, warping, colour jitter."""
        if _happens(self.flip, random):
            image = np.asarray(cv2.flip(image, 1), np.uint8)
        if _happens(self.crop, random):
            image = _crop(image, random.uniform(*CROP_AREA), random)
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
            image = _cutout(image, random.uniform(*CUTOUT_AREA), random)
        if _happens(self.blur, random):
            image = Degradation("blur", random.uniform(*BLUR_SIGMA))(image)
        if _happens(self.low_resolution, random):
            image = Degradation("lowres", int(random.integers(*LOW_RESOLUTION_SIDE, endpoint=True)))(image)
        if _happens(self.greyscale, random):
            image = np.repeat(_grey(image).astype(np.uint8)[..., None], 3, axis=2)
        if _happens(self.jpeg, random):
            image = Degradation("jpeg", int(random.integers(*JPEG_QUALITY, endpoint=True)))(image)
        return image

    def alone(self) -> dict[str, "Augmentation"]:
        """The changes that are switched on, by name and in their order, each alone and on every crop."""
        kinds = {kind: self.jitter if kind == "jitter" else 1.0 for kind in KINDS if getattr(self, kind) > 0}
        return {kind: Augmentation(**{"flip": 0.0, kind: strength}) for kind, strength in kinds.items()}


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


# --- by label -------------------------------------------------------------------------------------------------------

COLOURS, EDGES = ("jitter", "greyscale"), ("cutout", "crop")
# CelebA's names (and other tables' that are alike) without the labels that survive everything. A change can hide
# what an image shows, so that a positive becomes wrong …
HIDES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"), COLOURS),
    **dict.fromkeys(("Heavy_Makeup", "Pale_Skin", "Rosy_Cheeks", "Wearing_Lipstick"), COLOURS),
    **dict.fromkeys(("Eyeglasses", "Goatee", "Mustache", "Sideburns", "Bangs"), EDGES),
    **dict.fromkeys(("Bald", "Receding_Hairline", "Wearing_Hat"), EDGES),
    **dict.fromkeys(("Wearing_Earrings", "Wearing_Necklace", "Wearing_Necktie"), EDGES),
}
# … or show what it did not, so that a negative becomes wrong.
FAKES: dict[str, tuple[str, ...]] = {
    "Blurry": ("blur", "low_resolution", "jpeg"),
    **dict.fromkeys(("Black_Hair", "Gray_Hair", "Pale_Skin"), ("greyscale",)),
}
SIDED = re.compile(r"(?:^|[\W_])(left|right)(?:$|[\W_])", re.IGNORECASE)  # a mirror image has them the other way round
STRONGER = 1.5  # of probabilities and of jitter, for images of rare labels
STRONG = ("crop", "warp", "jitter", "cutout", "blur", "low_resolution", "greyscale", "jpeg")


class LabelAwareAugmentation:
    """The augmentation of each image by its labels.

    Args:
        targets: of the labels with these names, R×L: 1, 0, −1 where not known.
        rare: R, which of the rows show a rare label: their changes are half as likely and strong again.
    """

    def __init__(
        self, augmentation: Augmentation, names: Sequence[str], targets: NDArray[np.int8], rare: NDArray[np.bool_]
    ) -> None:
        self._augmentation, self._names, self._targets, self._rare = augmentation, tuple(names), targets, rare

    def of(self, row: int) -> Augmentation:
        """The augmentation of the image whose labels stand in this row."""
        change = self._augmentation
        if self._rare[row]:
            # Jitter must stay under 1; what happens to all crops anyway goes on doing so.
            strong = {name: max(getattr(change, name), min(0.99, STRONGER * getattr(change, name))) for name in STRONG}
            change = replace(change, **strong)
        wrong = {
            kind
            for name, value in zip(self._names, self._targets[row], strict=True)
            if value != UNKNOWN
            for kind in harmful_changes(name, bool(value))
        }
        return replace(change, **dict.fromkeys(wrong, 0.0)) if wrong else change


def harmful_changes(name: str, shown: bool) -> tuple[str, ...]:
    """The changes that would make this label wrong; one that is not in the tables survives all, but for a side."""
    sided = ("flip",) if SIDED.search(name) else ()
    return (*sided, *(HIDES.get(name, ()) if shown else FAKES.get(name, ())))
