"""Embeddings of face crops: SFace's published weights, run by OpenCV; and a store of them on disk.

The audit looks at the data, not at the model in training: it embeds with SFace whatever backbone is fine-tuned, so that
its findings do not change with the model, and its image needs no torch. On a busy machine OpenCV took 33 ms of
processor time for a crop where onnxruntime took 55 (its PReLU leaves the layout of the convolutions), in two thirds of
the memory.
"""

import os
from collections.abc import Callable
from tempfile import TemporaryFile
from threading import local

import cv2
import numpy as np
from numpy.typing import NDArray

from kubeface.audit.groups import Codes, Ints
from kubeface.faces.geometry import CROP_SIZE
from kubeface.faces.images import RGB
from kubeface.storage.downloads import fetch_any
from kubeface.storage.published_files import SFACE

SIZE = 128  # numbers of an embedding
Vectors = NDArray[np.float32]
Embedder = Callable[[RGB], Vectors]


def sface() -> Embedder:
    """A function that takes an RGB crop (H×W×3, uint8, ArcFace template) to its embedding (128 numbers, unit length).

    Each thread that calls it gets a network of its own, which takes one crop at a time: an embedding depends on its
    crop alone, however many threads there are.

    Raises:
        KubefaceError: the weights cannot be downloaded.
    """
    path = str(fetch_any([SFACE])[0])
    cv2.setNumThreads(1)
    networks = local()

    def embed(crop: RGB) -> Vectors:
        if not hasattr(networks, "own"):
            networks.own = cv2.dnn.readNetFromONNX(path)
        if crop.shape[:2] != (CROP_SIZE, CROP_SIZE):
            crop = np.asarray(cv2.resize(crop, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA), np.uint8)
        networks.own.setInput(np.ascontiguousarray(crop.transpose(2, 0, 1)[None], np.float32), "data")
        return to_unit_length(np.asarray(networks.own.forward()[0], np.float64))

    return embed


def no_embedding(crop: RGB) -> Vectors:
    """Zeros, for a whole photograph: it shows no face to compare."""
    return np.zeros(SIZE, np.float32)


def to_unit_length(vectors: NDArray[np.float64]) -> Vectors:
    """Vectors (…×D) at unit length; zero ones stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


class EmbeddingStore:
    """Embeddings by row in a temporary file, so that memory does not grow with their number; a context manager.

    They are read with pread and not mapped, since mapped pages count as the process's memory.
    """

    def __init__(self) -> None:
        self._file = TemporaryFile()
        self._row_to_read: Codes | None = None

    def append(self, vectors: Vectors) -> None:
        """Adds rows (N×SIZE)."""
        self._file.write(np.ascontiguousarray(vectors, np.float32).tobytes())

    def redirect(self, rows: Codes) -> None:
        """From now on row i reads as row rows[i]: a low-resolution image has its sharp partner's embedding."""
        self._row_to_read = rows

    def read(self, rows: Ints) -> Vectors:
        """The embeddings of rows, in their order (N×SIZE)."""
        self._file.flush()
        read = rows if self._row_to_read is None else self._row_to_read[rows]
        number, width = self._file.fileno(), 4 * SIZE
        data = b"".join(os.pread(number, width, int(row) * width) for row in read)
        return np.frombuffer(data, np.float32).reshape(-1, SIZE)

    def __enter__(self) -> "EmbeddingStore":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
