"""Synthetic low-resolution degradations: pairs of low and high resolution made from sharp photographs.

The first-order model of Real-ESRGAN (Wang et al., arXiv 2107.10833, section 3.1): blur of the lens, downsampling, noise
of the sensor, JPEG compression.
"""

import sys
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB, encode_png
from kubeface.faces.photographs import decode_photograph
from kubeface.records.record import StepResult
from kubeface.runtime.errors import require
from kubeface.runtime.keyed_rng import keyed_rng
from kubeface.runtime.packed_lists import parts
from kubeface.runtime.progress import Progress
from kubeface.storage.folders import new_folder
from kubeface.storage.sources import open_source
from kubeface.superresolve.options import CameraOptions, DegradeOptions

HIGH_FOLDER, LOW_FOLDER = "hr_images", "vlr_images"
LEAST_SIDE = 2  # pixels of a low-resolution image
LEAST_BLUR = 0.1  # standard deviation in pixels of the photograph, below which nothing is blurred


class DegradeResult(StepResult):
    """What degrade did: files in, pairs out."""

    rejected: int
    """Files of which no pair was made."""


def degrade(source: str, out: Path, options: DegradeOptions = DegradeOptions()) -> DegradeResult:
    """Makes a source of pairs out of sharp photographs: hr_images/… as they are, vlr_images/… of low resolution (PNG).

    Args:
        source: Folder, s3://bucket/prefix, or a .tar, .tgz or .zip of sharp photographs.
        out: Folder to write both to.
        options: How low-resolution images are made.

    Raises:
        KubefaceError: a source that cannot be read, or no photograph in it.
    """
    written: dict[PurePosixPath, str] = {}  # the photograph's name by its name without suffix
    rejected: list[str] = []
    with open_source(source) as opened, new_folder(out) as folder, Progress("degrade", len(opened.files)) as progress:
        for file in opened.files:
            progress.advance()
            try:
                path = PurePosixPath(*parts(file.name))
                low_path = path.with_suffix(".png")
                if ".." in path.parts:  # of an archive's member
                    raise ValueError("its name leads out of the source")
                if low_path in written:
                    raise ValueError(f"{written[low_path]} has the same name up to its suffix")
                data = opened.read(file.name)
                low = encode_png(_degraded(file.name, data, options))
            except ValueError as error:
                rejected.append(f"{file.name}: {' '.join(str(error).split())}")
                continue
            for target, content in ((HIGH_FOLDER / path, data), (LOW_FOLDER / low_path, low)):
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                (folder / target).write_bytes(content)
            written[low_path] = file.name
        require(bool(written), f"{source} holds no photograph that can be used: {next(iter(rejected), 'no file')}")
    for reason in rejected:
        print(f"left out {reason}", file=sys.stderr)
    return DegradeResult(rows_in=len(opened.files), rows_out=len(written), rejected=len(rejected))


def _degraded(name: str, data: bytes, options: DegradeOptions) -> RGB:
    """The low-resolution copy of a photograph; a ValueError says why there is none."""
    image = decode_photograph(data)
    width, height = (round(side / options.scale) for side in image.shape[1::-1])
    if min(width, height) < LEAST_SIDE:
        size = f"{image.shape[1]}×{image.shape[0]}"
        raise ValueError(f"{size} pixels are too few to leave 1 of {options.scale}")
    return low_resolution(image, width, height, options, keyed_rng(options.seed, "few", name))


def low_resolution(image: RGB, width: int, height: int, camera: CameraOptions, random: np.random.Generator) -> RGB:
    """An image (H×W×3, uint8) as a poor camera takes it, height×width×3; `random` draws from the camera's ranges."""
    sigma = random.uniform(*camera.blur) * image.shape[1] / width
    if sigma > LEAST_BLUR:
        image = Degradation("blur", sigma)(image)
    low = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    noise = random.uniform(*camera.noise)
    low = np.clip(np.rint(low + noise * random.standard_normal(low.shape)), 0, 255).astype(np.uint8)
    quality = int(random.integers(*camera.jpeg, endpoint=True))
    return Degradation("jpeg", quality)(low) if quality else low
