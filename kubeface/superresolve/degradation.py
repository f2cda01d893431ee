"""What a camera far away makes of a face: pairs of few and of many pixels out of sharp photographs.

The first-order model that Wang et al. begin with (Real-ESRGAN, arXiv 2107.10833, section 3.1): a lens blurs, the sensor
has few pixels and noise, the file is small.
"""

import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB, encode_png
from kubeface.faces.photographs import decode_photograph
from kubeface.runtime.errors import require
from kubeface.runtime.keyed_rng import keyed_rng
from kubeface.runtime.packed_lists import parts
from kubeface.runtime.progress import Progress
from kubeface.storage.folders import new_folder
from kubeface.storage.sources import open_source

SHARP, FEW = "hr_images", "vlr_images"
LEAST_SIDE = 2  # pixels of what is left


@dataclass(frozen=True)
class Camera:
    """How poor a camera is; each strength is drawn uniformly from its span, ends included.

    Args:
        blur: σ of the lens, in pixels of the sensor, 0 to 10.
        noise: σ of the sensor's noise, in grey levels of 255, 0 to 100.
        jpeg: quality of the file, 1 to 100; (0, 0) for none.
    """

    blur: tuple[float, float] = (0.0, 0.6)
    noise: tuple[float, float] = (0.0, 4.0)
    jpeg: tuple[int, int] = (70, 95)

    def __post_init__(self) -> None:
        for name, most in (("blur", 10), ("noise", 100), ("jpeg", 100)):
            low, high = getattr(self, name)
            kinds = (int,) if name == "jpeg" else (int, float)
            require(
                isinstance(low, kinds) and isinstance(high, kinds),
                f"{name} is {low}–{high}: both must be {'whole ' * (name == 'jpeg')}numbers",
            )
            require(
                0 <= low <= high <= most,
                f"{name} is {low:g}–{high:g}: it must lie between 0 and {most}, the lower end first",
            )

    def few_pixels(self, image: RGB, width: int, height: int, random: np.random.Generator) -> RGB:
        """What is left of an image (H×W×3) in height×width pixels."""
        sigma = random.uniform(*self.blur) * image.shape[1] / width
        if sigma > 0.1:
            image = Degradation("blur", sigma)(image)
        small = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        noise = random.uniform(*self.noise)
        small = np.clip(np.rint(small + noise * random.standard_normal(small.shape)), 0, 255).astype(np.uint8)
        quality = int(random.integers(*self.jpeg, endpoint=True))
        return Degradation("jpeg", quality)(small) if quality else small


def degrade(
    source: str,
    out: Path,
    scale: int = 8,
    blur: list[float] = [0.0, 0.6],  # noqa: B006 - read only
    noise: list[float] = [0.0, 4.0],  # noqa: B006
    jpeg: list[int] = [70, 95],  # noqa: B006
    seed: int = 0,
) -> dict[str, Any]:
    """Makes a source of pairs out of sharp photographs: hr_images/… as they are, vlr_images/… with few pixels (PNG).

    Args:
        source: Folder, s3://bucket/prefix, or a .tar, .tgz or .zip of sharp photographs.
        out: Folder to write both to.
        scale: How many times fewer pixels across, 2 to 16.
        blur: Least and greatest σ of the lens, in pixels of what is left, as JSON.
        noise: Least and greatest σ of the sensor's noise, in grey levels.
        jpeg: Least and greatest quality of the file; [0, 0] for none.
        seed: Seed of what is drawn.

    Returns:
        rows_in (files), rows_out (pairs), rejected.

    Raises:
        KubefaceError: wrong settings, a source that cannot be read, or no photograph in it.
    """
    require(2 <= scale <= 16, f"scale is {scale}: it must lie between 2 and 16")
    for what, span in (("blur", blur), ("noise", noise), ("jpeg", jpeg)):
        require(len(span) == 2, f"{what} is {span}: give the least and the greatest, as [0, 1]")
    camera = Camera((blur[0], blur[1]), (noise[0], noise[1]), (jpeg[0], jpeg[1]))
    left_out: list[str] = []
    written: dict[PurePosixPath, str] = {}  # the photograph by the name of its pair
    with open_source(source) as opened, new_folder(out) as folder, Progress("degrade", len(opened.files)) as progress:
        for file in opened.files:
            progress.advance()
            name = PurePosixPath(*parts(file.name))
            few_name = name.with_suffix(".png")
            data = opened.read(file.name)
            try:
                if ".." in name.parts:  # of an archive's member
                    raise ValueError("its name leads out of the source")
                if few_name in written:
                    raise ValueError(f"{written[few_name]} has the same name up to its suffix")
                small = _reduced(data, scale, camera, keyed_rng(seed, "few", file.name))
            except ValueError as error:
                left_out.append(f"{file.name}: {' '.join(str(error).split())}")
                continue
            for kind, path, pixels in ((SHARP, name, data), (FEW, few_name, encode_png(small))):
                target = folder / kind / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(pixels)
            written[few_name] = file.name
        require(bool(written), f"{source} holds no photograph that can be used: {next(iter(left_out), 'no file')}")
    for reason in left_out:
        print(f"left out {reason}", file=sys.stderr)
    return {"rows_in": len(opened.files), "rows_out": len(written), "rejected": len(left_out)}


def _reduced(data: bytes, scale: int, camera: Camera, random: np.random.Generator) -> RGB:
    """What the camera leaves of a photograph's file; ValueError where it is none, or has too few pixels already."""
    image = decode_photograph(data)
    width, height = (round(side / scale) for side in image.shape[1::-1])
    if min(width, height) < LEAST_SIDE:
        raise ValueError(f"{image.shape[1]}×{image.shape[0]} pixels are too few to leave 1 of {scale}")
    return camera.few_pixels(image, width, height, random)
