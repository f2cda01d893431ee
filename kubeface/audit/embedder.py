"""Embeddings of face crops: SFace's published weights, run by OpenCV.

The audit looks at the data, not at the model in training: it embeds with SFace whatever backbone is fine-tuned, so that
its findings do not change with the model, and its image needs no torch. On a busy machine OpenCV took 33 ms of
processor time for a crop where onnxruntime took 55 (its PReLU leaves the layout of the convolutions), in two thirds of
the memory.
"""

from collections.abc import Callable
from threading import local

import cv2
import numpy as np
from numpy.typing import NDArray

from kubeface.faces.geometry import CROP_SIZE
from kubeface.faces.images import RGB
from kubeface.storage.downloads import fetch_any
from kubeface.storage.published_files import SFACE

SIZE = 128  # numbers of an embedding
Vectors = NDArray[np.float32]
Embedder = Callable[[RGB], Vectors]


def sface() -> Embedder:
    """A function that takes an RGB crop (H×W×3, uint8, ArcFace template) to its embedding (128 numbers, unit length).

    It may be called from several threads, each of which gets a network of its own. A call takes one crop and one
    thread, so that an embedding depends on its crop alone, however many threads there are.

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
