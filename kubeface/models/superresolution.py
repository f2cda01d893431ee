"""Enlarging images: bicubic, or by a super-resolution network.

Whatever a network comes as, onnxruntime runs it, so that only its conversion needs torch:

    .onnx            one input N×3×H×W (RGB, 0…1, float32), one output N×3×sH×sW
    .pt, .ts         TorchScript of the same
    .safetensors     a network of kubeface/models/superresolution_networks.py
    a folder         with superresolution.onnx, as train_superresolution and finetune leave it
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from kubeface.faces.images import RGB
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from kubeface.storage.downloads import fetch, split_checksum
from kubeface.storage.folders import read_json, write_json

BICUBIC = "bicubic"
NETWORK_FILE, ABOUT_FILE = "superresolution.onnx", "superresolution.json"
TORCH_SUFFIXES = (".safetensors", ".pt", ".ts")
# Larger images are worked on in tiles, and small ones together, so that memory does not grow with either. A network
# sees MARGIN pixels around its tile, as far as EDSR of 16 blocks looks.
TILE, MARGIN = 192, 32
BATCH_PIXELS = 128 * 128
GREATEST_SCALE = 16

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Enlarger:
    """What enlarges images; processes and threads may share it.

    Args:
        name: `bicubic`, or the network's file and the first digits of its SHA-256.
        scale: how many times a network enlarges; 0 for bicubic, which takes any.
        network: ONNX; empty for bicubic.
        identities: people that the network was trained on, by name, where it says so.
        threads: that a call uses.
    """

    name: str = BICUBIC
    scale: int = 0
    network: bytes = b""
    identities: tuple[str, ...] = ()
    threads: int = 1
    _sessions: dict[int, onnxruntime.InferenceSession] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sessions": {}}

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
        """The images (h×w×3, uint8), each `scale` times larger (sh×sw×3).

        Args:
            images: of any sizes; those of one size go through the network together.
            scale: a network's own where it is 0.

        Raises:
            KubefaceError: the network enlarges so many times not.
        """
        scale = scale or self.scale
        require(scale >= 1, "scale is 0: bicubic needs one, 2 or more")
        require(
            self.scale in (0, scale), f"scale is {scale}: {self.name} enlarges {self.scale} times, use that or another"
        )
        if not self.network:
            return [
                np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
                for image in images
            ]
        made: dict[int, RGB] = {}
        for places in _alike(images):
            if max(images[places[0]].shape[:2]) > TILE:
                made |= {place: self._tiled(images[place]) for place in places}
            else:
                made |= zip(places, self._run(np.stack([images[place] for place in places])), strict=True)
        return [made[place] for place in range(len(images))]

    def write(self, folder: Path) -> dict[str, Any]:
        """Puts the network into an existing folder, from which `open_enlarger` takes it; returns what is told of it.

        Returns:
            name, scale, sha256 (of superresolution.onnx), identities.
        """
        told = {
            "name": self.name,
            "scale": self.scale,
            "sha256": hashlib.sha256(self.network).hexdigest(),
            "identities": list(self.identities),
        }
        (folder / NETWORK_FILE).write_bytes(self.network)
        write_json(folder / ABOUT_FILE, told)
        return told

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """N×h×w×3 to N×sh×sw×3."""
        batch = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / 255
        session = self._session()
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
                part = whole[
                    self.scale * top : self.scale * (top + TILE), self.scale * left : self.scale * (left + TILE)
                ]
                part[:] = large[: part.shape[0], : part.shape[1]]
        return whole

    def _session(self) -> onnxruntime.InferenceSession:
        """The network as this process has it opened: what onnxruntime holds does not survive a fork."""
        process = os.getpid()
        if process not in self._sessions:
            self._sessions[process] = _opened(self.network, self.threads)
        return self._sessions[process]


def open_enlarger(uri: str, threads: int = 1) -> Enlarger:
    """Opens what enlarges images.

    Args:
        uri: bicubic, or a network as the top of this file has it (path, s3:// or https:// with #sha256=…).
        threads: that a call uses.

    Raises:
        KubefaceError: it cannot be had or read, or is no network that enlarges images a whole number of times.
    """
    if uri == BICUBIC:
        return Enlarger()
    if not split_checksum(uri)[0].lower().endswith((".onnx", *TORCH_SUFFIXES)):
        return _of_folder(uri, threads)
    path = fetch(uri)
    data = _converted(path) if path.suffix.lower() in TORCH_SUFFIXES else path.read_bytes()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    beside = path.with_name(ABOUT_FILE)
    about = _about(str(beside), read_json(beside)) if beside.is_file() else {}
    known = about.get("sha256") in (digest, hashlib.sha256(data).hexdigest()) or about.get("weights_sha256") == digest
    return _checked(uri, f"{path.name}@{digest[:12]}", data, about if known else {}, threads)


def _of_folder(uri: str, threads: int) -> Enlarger:
    address = objects.join(uri, NETWORK_FILE)
    require(
        objects.exists(address),
        f"superresolver '{uri}' is none: use {BICUBIC}, a file ({', '.join(('.onnx', *TORCH_SUFFIXES))}) or a folder "
        f"with {NETWORK_FILE}",
    )
    about = {}
    if objects.exists(objects.join(uri, ABOUT_FILE)):
        about = _about(uri, _json(objects.read_bytes(objects.join(uri, ABOUT_FILE))))
    data = objects.read_bytes(address)
    digest = hashlib.sha256(data).hexdigest()
    require(
        about.get("sha256", digest) == digest,
        f"{address} is not the network that {ABOUT_FILE} beside it describes: copy the folder anew",
    )
    return _checked(uri, about.get("name") or f"{NETWORK_FILE}@{digest[:12]}", data, about, threads)


def _json(data: bytes) -> Any:
    """What the text says, None where it is no JSON."""
    try:
        return json.loads(data)
    except ValueError:  # also UnicodeDecodeError
        return None


def _about(uri: str, about: Any) -> dict[str, Any]:
    require(
        isinstance(about, dict) and isinstance(about.get("identities", []), list),
        f"{uri}: {ABOUT_FILE} describes no network: train it again",
    )
    return dict(about)


def _checked(uri: str, name: str, data: bytes, about: dict[str, Any], threads: int) -> Enlarger:
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
    require(
        1 <= scale <= GREATEST_SCALE and [tuple(size) for size in sizes]
        == [(1, 3, 8 * scale, 8 * scale), (2, 3, 8 * scale, 12 * scale)],
        f"{uri} makes {sizes[0]} of 1×3×8×8: it must enlarge RGB images a whole number of times, at most "
        f"{GREATEST_SCALE}",
    )  # fmt: skip
    return Enlarger(name, scale, data, tuple(map(str, about.get("identities", []))), threads)


def _opened(data: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _converted(path: Path) -> bytes:
    """A file of torch's as ONNX."""
    try:
        from kubeface.models.superresolution_export import to_onnx
    except ImportError as error:
        raise KubefaceError(
            f"{path.name} needs torch ({error}): give the .onnx that train_superresolution leaves beside it"
        ) from error
    return to_onnx(path)


def _alike(images: Sequence[RGB]) -> Iterator[list[int]]:
    """Places of images of one size, as many together as a batch may have pixels."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        sizes.setdefault(image.shape, []).append(place)
    for shape, places in sizes.items():
        count = max(1, BATCH_PIXELS // (shape[0] * shape[1]))
        for start in range(0, len(places), count):
            yield places[start : start + count]
