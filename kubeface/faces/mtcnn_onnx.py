"""MTCNN without torch: the cascade of facenet-pytorch's `detect_face`, its networks run by onnxruntime.

Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks", IEEE Signal
Processing Letters 23(10), 2016. The peculiarities of facenet-pytorch 2.6.0 (area averages, whole pixels between the
stages, boxes that are one pixel larger in places, float32 arithmetic) are kept, so that a model sees faces aligned as
in its training.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from kubeface.faces.detector import NO_FACES, Detector, Faces
from kubeface.faces.images import RGB
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.processors import cpu_limit

MTCNN_FILE = "mtcnn.zip"  # beside model.onnx
PNET, RNET, ONET = "pnet", "rnet", "onet"  # its members, with .onnx
PNET_SIDE, RNET_SIDE, ONET_SIDE = 12, 24, 48  # side of a network's input in pixels
STRIDE = 2  # pixels between the windows of P-Net
PYRAMID_FACTOR = 0.709  # each level of the image pyramid has half the area of the one before
PNET_SCORE, RNET_SCORE, ONET_SCORE = 0.6, 0.7, 0.7
LEVEL_OVERLAP, OVERLAP = 0.5, 0.7  # above it two boxes are one face: within a level of the pyramid, and afterwards
BATCH = 16  # crops in a batch: its activations fit into a processor's cache

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Network = Callable[[Floats], list[Floats]]


def load_mtcnn(path: Path, min_face_size: int, threads: int | None = None) -> Detector:
    """Loads MTCNN from mtcnn.zip, which finetune leaves beside a model; else as `make_detector`.

    Raises:
        KubefaceError: the archive cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            networks = {name: archive.read(f"{name}.onnx") for name in (PNET, RNET, ONET)}
        return mtcnn(networks, min_face_size, threads)
    except Exception as error:  # those of zipfile and onnxruntime have no common base
        raise KubefaceError(f"{path} does not hold MTCNN's networks ({error}): fetch the model folder anew") from error


def mtcnn(networks: dict[str, bytes], min_face_size: int, threads: int | None = None) -> Detector:
    """Makes MTCNN from its networks as ONNX by name, see `mtcnn_networks`; else as `make_detector`."""
    pnet, rnet, onet = (_network(networks[name], threads) for name in (PNET, RNET, ONET))

    def find(image: RGB) -> Faces:
        areas = Areas(image)
        boxes = areas.inside(_squared(_proposals(areas, pnet, min_face_size)))
        if not len(boxes):
            return NO_FACES
        offsets, probabilities = rnet(areas.crops(boxes, RNET_SIDE))
        kept = np.flatnonzero(probabilities[:, 1] > RNET_SCORE)
        kept = kept[_distinct(boxes[kept], probabilities[kept, 1], OVERLAP)]
        boxes = areas.inside(_squared(_moved(boxes[kept], offsets[kept])))
        if not len(boxes):
            return NO_FACES
        offsets, points, probabilities = onet(areas.crops(boxes, ONET_SIDE))
        kept = np.flatnonzero(probabilities[:, 1] > ONET_SCORE)
        boxes, scores = boxes[kept], probabilities[kept, 1]
        landmarks = _landmarks(boxes, points[kept])
        boxes = _moved(boxes, offsets[kept])
        kept = _not_contained(boxes, scores, OVERLAP)
        return _faces(boxes[kept], scores[kept], landmarks[kept])

    return Detector("mtcnn", find, min_face_size)


def open_session(network: bytes | str, threads: int | None) -> onnxruntime.InferenceSession:
    """A network, or the file of one, on so many threads; None for all processors."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cpu_limit()
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def _network(data: bytes, threads: int | None) -> Network:
    session = open_session(data, threads)

    def run(images: Floats) -> list[Floats]:
        parts = [session.run(None, {"images": images[start : start + BATCH]}) for start in range(0, len(images), BATCH)]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    return run


def _faces(boxes: Floats, scores: Floats, landmarks: Floats) -> Faces:
    """The faces, largest first as in facenet-pytorch."""
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
    return Faces(*(part[order].astype(np.float64) for part in (boxes, scores, landmarks)))


class Areas:
    """Shrinks a photograph and boxes of it by area averages, as torch's `interpolate(mode="area")` does.

    It uses one summed-area table of the photograph (Crow, "Summed-area tables for texture mapping", SIGGRAPH 1984): the
    cost does not depend on the factor.
    """

    def __init__(self, image: RGB) -> None:
        self.height, self.width = image.shape[:2]
        # Sums of more than 8 megapixels may overflow 32 bits; their differences modulo 2³² are correct all the same.
        # The fourth channel is for speed: gathering 16 bytes takes half the time of 12.
        self._sums = cv2.integral(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)).view(np.uint32).reshape(-1, 4)

    def inside(self, boxes: Floats) -> Floats:
        """The boxes (N×4) that have a pixel in the photograph."""
        parts = self._cut(boxes)
        return boxes[(parts[:, 2:] > parts[:, :2]).all(1)]

    def _cut(self, boxes: Floats) -> Ints:
        """Boxes that count pixels from 1, last one included, in whole pixels counted from 0, last one excluded."""
        corners = np.trunc(boxes).astype(np.int64)
        low, high = np.maximum(corners[:, :2], 1) - 1, np.minimum(corners[:, 2:], [self.width, self.height])
        return np.concatenate([low, high], 1)

    def whole(self, height: int, width: int) -> Floats:
        """The photograph in another size, 1×3×height×width, as input of a network."""
        return self._resized(np.array([[0, 0, self.width, self.height]]), height, width)

    def crops(self, boxes: Floats, side: int) -> Floats:
        """The contents of boxes (N×4, each with a pixel in the photograph), N×3×side×side, as input of a network."""
        return self._resized(self._cut(boxes), side, side)

    def _resized(self, parts: Ints, height: int, width: int) -> Floats:
        left, right = _windows(parts[:, 0], parts[:, 2], width)
        top, bottom = _windows(parts[:, 1], parts[:, 3], height)

        def sums(rows: Ints, columns: Ints) -> NDArray[np.uint32]:
            return np.asarray(self._sums.take(rows[:, :, None] * (self.width + 1) + columns[:, None, :], axis=0))

        total = sums(bottom, right)
        total -= sums(top, right)
        total -= sums(bottom, left)
        total += sums(top, left)
        pixels = (bottom - top)[:, :, None] * (right - left)[:, None, :]
        means = total[..., :3].transpose(0, 3, 1, 2).astype(np.float32, order="C")
        means /= pixels[:, None].astype(np.float32)
        means -= np.float32(127.5)
        means *= np.float32(1 / 128)
        return means


def _windows(start: Ints, end: Ints, count: int) -> tuple[Ints, Ints]:
    """Start and end of `count` windows over each of N pixel ranges, N×count, as in torch's adaptive pooling."""
    length, index = (end - start)[:, None], np.arange(count)
    return start[:, None] + index * length // count, start[:, None] - (-(index + 1) * length // count)


def _proposals(areas: Areas, pnet: Network, min_face_size: int) -> Floats:
    """Candidate boxes, N×4, of P-Net on each level of the image pyramid."""
    scale = PNET_SIDE / min_face_size
    shorter = min(areas.height, areas.width) * scale
    levels = [np.zeros((0, 9), np.float32)]
    while shorter >= PNET_SIDE:
        (offsets,), (probabilities,) = pnet(areas.whole(int(areas.height * scale + 1), int(areas.width * scale + 1)))
        rows, columns = np.nonzero(probabilities[1] >= PNET_SCORE)
        corner = STRIDE * np.stack([columns, rows], 1).astype(np.float32)
        boxes = np.floor(np.concatenate([corner + 1, corner + PNET_SIDE], 1) / np.float32(scale))
        scores = probabilities[1, rows, columns]
        level = np.concatenate([boxes, scores[:, None], offsets[:, rows, columns].T], 1)
        levels.append(level[_distinct(boxes, scores, LEVEL_OVERLAP)])
        scale *= PYRAMID_FACTOR
        shorter *= PYRAMID_FACTOR
    candidates = np.concatenate(levels)
    candidates = candidates[_distinct(candidates[:, :4], candidates[:, 4], OVERLAP)]
    size = candidates[:, 2:4] - candidates[:, :2]
    return np.asarray(candidates[:, :4] + candidates[:, 5:] * np.tile(size, 2), np.float32)


def _squared(boxes: Floats) -> Floats:
    """Squares with the centre and the longer side of boxes."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.max(1, keepdims=True, initial=0)
    low = boxes[:, :2] + size * np.float32(0.5) - side * np.float32(0.5)
    return np.concatenate([low, low + side], 1)


def _moved(boxes: Floats, offsets: Floats) -> Floats:
    """Boxes whose sides are moved by offsets relative to their size."""
    return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)


def _landmarks(boxes: Floats, points: Floats) -> Floats:
    """Five landmarks in pixels, N×5×2, from coordinates relative to the boxes (N×10: all x, then all y)."""
    size = (boxes[:, 2:] - boxes[:, :2] + 1)[:, None]
    return points.reshape(-1, 2, 5).transpose(0, 2, 1) * size + boxes[:, None, :2] - 1


def _distinct(boxes: Floats, scores: Floats, overlap: float) -> Ints:
    """Non-maximum suppression: indices of the boxes whose IoU with each likelier one is at most `overlap`, sorted."""
    sized = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(np.float64)
    return np.array(cv2.dnn.NMSBoxes(cast(Any, sized), cast(Any, scores), 0.0, overlap), np.int64).reshape(-1)


def _not_contained(boxes: Floats, scores: Floats, overlap: float) -> Ints:
    """Non-maximum suppression by the intersection over the area of the smaller box: it drops a face within a face."""
    order = np.argsort(scores)[::-1]  # not stable: ties are broken as in facenet-pytorch
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        low, high = np.maximum(boxes[best, :2], boxes[order, :2]), np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.prod(np.maximum(high - low + 1, 0), axis=1)
        order = order[shared <= overlap * np.minimum(areas[best], areas[order])]
    return np.array(kept, np.int64)
