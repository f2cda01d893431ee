"""Enlarging images: bicubic, or by a super-resolution network.

Whatever a network comes as, onnxruntime runs it, so that only its conversion needs torch:

    .onnx            one input N×3×H×W (RGB, 0…1, float32), one output N×3×sH×sW
    .pt, .ts         TorchScript of the same
    .safetensors     a network of kubeface/models/superresolution_networks.py
    a folder         with superresolution.onnx, as train_superresolution and finetune leave it
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from kubeface.faces.images import RGB
from kubeface.records.model import SuperresolutionRecord
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from kubeface.storage.downloads import fetch, split_checksum
from kubeface.storage.folders import sha256_file

BICUBIC = "bicubic"
NETWORK_FILE, ABOUT_FILE = "superresolution.onnx", "superresolution.json"
TORCH_SUFFIXES = (".safetensors", ".pt", ".ts")
# Larger images are worked on in tiles, and small ones together, so that memory does not grow with either. A network
# sees MARGIN pixels around its tile, as far as EDSR of 16 blocks looks.
TILE, MARGIN = 192, 32
BATCH_PIXELS = 128 * 128
GREATEST_SCALE = 16


@dataclass(frozen=True)
class Enlarger:
    """What enlarges images; processes and threads may share it."""

    name: str = BICUBIC  # or the network's file and the first digits of its SHA-256
    scale: int = 0  # how many times a network enlarges; 0 for bicubic, which takes any
    network: bytes = b""  # ONNX; empty for bicubic
    identities: tuple[str, ...] = ()  # people that the network was trained on, by name, where it says so
    threads: int = 1  # that a call uses
    _sessions: dict[int, onnxruntime.InferenceSession] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[type["Enlarger"], tuple[object, ...]]:
        return Enlarger, (self.name, self.scale, self.network, self.identities, self.threads)  # without the sessions

    def to(self, image: RGB, width: int, height: int) -> RGB:
        """The image (h×w×3, uint8) in another size, H×W×3.

        A network enlarges it first; what is then too large is reduced by areas, what is too small enlarged by bicubic
        interpolation.
        """
        if self.network:
            image = self.several([image])[0]
        if image.shape[:2] == (height, width):
            return image
        larger = image.shape[0] >= height and image.shape[1] >= width
        how = cv2.INTER_AREA if larger else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)

    def several(self, images: Sequence[RGB], scale: int = 0) -> list[RGB]:
        """The images (h×w×3, uint8, of any sizes), each `scale` times larger (sh×sw×3), a network's own where it is 0.

        Raises:
            KubefaceError: the network enlarges so many times not.
        """
        scale = scale or self.scale
        require(scale >= 1, "scale is 0: bicubic needs one, 2 or more")
        require(
            self.scale in (0, scale), f"scale is {scale}: {self.name} enlarges {self.scale} times, use that or another"
        )
        if not self.network:
            return [self.to(image, scale * image.shape[1], scale * image.shape[0]) for image in images]
        made: dict[int, RGB] = {}
        for indices in _alike(images):
            if max(images[indices[0]].shape[:2]) > TILE:
                made |= {index: self._tiled(images[index]) for index in indices}
            else:
                made |= zip(indices, self._run(np.stack([images[index] for index in indices])), strict=True)
        return [made[index] for index in range(len(images))]

    def write(self, folder: Path) -> SuperresolutionRecord:
        """Puts the network and its description into an existing folder, from which `open_enlarger` takes both."""
        sha256 = hashlib.sha256(self.network).hexdigest()
        record = SuperresolutionRecord(name=self.name, scale=self.scale, sha256=sha256, identities=self.identities)
        (folder / NETWORK_FILE).write_bytes(self.network)
        record.write(folder / ABOUT_FILE)
        return record

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """N×h×w×3 to N×sh×sw×3."""
        batch = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / 255
        process = os.getpid()  # what onnxruntime holds does not survive a fork
        if process not in self._sessions:
            self._sessions[process] = _opened(self.network, self.threads)
        session = self._sessions[process]
        found = np.asarray(session.run(None, {session.get_inputs()[0].name: batch})[0], np.float32)
        return np.rint(np.clip(found, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)

    def _tiled(self, image: RGB) -> RGB:
        """An image whose tiles go through the network one by one, each with what surrounds it."""
        height, width = image.shape[:2]
        whole = np.empty((self.scale * height, self.scale * width, 3), np.uint8)
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                up, before = min(top, MARGIN), min(left, MARGIN)
                seen = image[top - up : top + TILE + MARGIN, left - before : left + TILE + MARGIN]
                large = self._run(seen[None])[0][self.scale * up :, self.scale * before :]
                part = whole[self.scale * top :, self.scale * left :][: self.scale * TILE, : self.scale * TILE]
                part[:] = large[: part.shape[0], : part.shape[1]]
        return whole


def open_enlarger(uri: str, threads: int = 1) -> Enlarger:
    """Opens what enlarges images: bicubic, or a network as the top of this file has it.

    Its address is a path, s3:// or https:// with #sha256=…; a call uses so many threads.

    Raises:
        KubefaceError: it cannot be had or read, or is no network that enlarges images a whole number of times.
    """
    if uri == BICUBIC:
        return Enlarger()
    if not split_checksum(uri)[0].lower().endswith((".onnx", *TORCH_SUFFIXES)):
        return _of_folder(uri, threads)
    path = fetch(uri)
    data = _read(path)
    digest = sha256_file(path)
    about = _about(str(path.with_name(ABOUT_FILE)))
    known = about.sha256 in (digest, hashlib.sha256(data).hexdigest()) or about.weights_sha256 == digest
    return _checked(uri, f"{path.name}@{digest[:12]}", data, about.identities if known else (), threads)


def _of_folder(uri: str, threads: int) -> Enlarger:
    address = objects.join(uri, NETWORK_FILE)
    require(
        objects.exists(address),
        f"superresolver '{uri}' is none: use {BICUBIC}, a file ({', '.join(('.onnx', *TORCH_SUFFIXES))}) or a folder "
        f"with {NETWORK_FILE}",
    )
    about, data = _about(objects.join(uri, ABOUT_FILE)), objects.read_bytes(address)
    digest = hashlib.sha256(data).hexdigest()
    require(
        about.sha256 in ("", digest),
        f"{address} is not the network that {ABOUT_FILE} beside it describes: copy the folder anew",
    )
    return _checked(uri, about.name or f"{NETWORK_FILE}@{digest[:12]}", data, about.identities, threads)


class _About(BaseModel):
    """What is used of superresolution.json; see `SuperresolutionRecord`."""

    name: str = ""
    sha256: str = ""
    weights_sha256: str = ""
    identities: tuple[str, ...] = ()


def _about(address: str) -> _About:
    """What the file beside a network says of it; nothing where there is none."""
    try:
        return _About.model_validate_json(objects.read_bytes(address)) if objects.exists(address) else _About()
    except ValidationError:
        raise KubefaceError(f"{address} describes no network: train it again") from None


def _checked(uri: str, name: str, data: bytes, identities: tuple[str, ...], threads: int) -> Enlarger:
    """The network, once it was seen to enlarge."""
    try:
        session = _opened(data, threads)
        sizes = [
            session.run(None, {session.get_inputs()[0].name: np.full((number, 3, 8, width), 0.5, np.float32)})[0].shape
            for number, width in ((1, 8), (2, 12))
        ]
    except Exception as error:  # onnxruntime raises many kinds, from RuntimeError to its own
        reason = " ".join(str(error).split())[:200]
        raise KubefaceError(f"{uri} is no network from N×3×H×W to N×3×sH×sW ({reason}): export it so") from error
    scale = sizes[0][-1] // 8 if len(sizes[0]) == 4 else 0
    wanted = [(1, 3, 8 * scale, 8 * scale), (2, 3, 8 * scale, 12 * scale)]
    require(
        1 <= scale <= GREATEST_SCALE and [tuple(size) for size in sizes] == wanted,
        f"{uri} makes {sizes[0]} of 1×3×8×8: it must enlarge RGB images a whole number of times, at most "
        f"{GREATEST_SCALE}",
    )
    return Enlarger(name, scale, data, identities, threads)


def _opened(data: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _read(path: Path) -> bytes:
    if path.suffix.lower() not in TORCH_SUFFIXES:
        return path.read_bytes()
    try:
        from kubeface.models.superresolution_export import to_onnx
    except ImportError as error:
        raise KubefaceError(
            f"{path.name} needs torch ({error}): give the .onnx that train_superresolution leaves beside it"
        ) from error
    return to_onnx(path)


def _alike(images: Sequence[RGB]) -> Iterator[list[int]]:
    """Indices of images of one size, as many together as a batch may have pixels."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        sizes.setdefault(image.shape, []).append(index)
    for shape, indices in sizes.items():
        count = max(1, BATCH_PIXELS // (shape[0] * shape[1]))
        for start in range(0, len(indices), count):
            yield indices[start : start + count]
