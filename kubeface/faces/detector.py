"""What a face detector is and gives: `Detector` and `Faces`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kubeface.faces.geometry import Points, most_prominent
from kubeface.faces.images import RGB

LIKELY = 0.5  # at this score and above a box is more likely a face than not


@dataclass(frozen=True)
class Faces:
    """The faces of one photograph, N ≥ 0, in pixels of the photograph.

    Boxes are N×4 (x1, y1, x2, y2), scores N, 0 to 1, landmarks N×5×2: eyes, nose, mouth corners, image's left first.
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

    def _where(self, mask: NDArray[np.bool_]) -> "Faces":
        return Faces(self.boxes[mask], self.scores[mask], self.landmarks[mask])

    def prominent(self, width: int, height: int) -> int:
        """Index of the largest face nearest the centre of a photograph of that size; there is at least one face."""
        return most_prominent(self.boxes, width, height)

    def subject(self, width: int, height: int) -> int:
        """Index of the photograph's subject: the most prominent of the likely faces, or else the likeliest one.

        RetinaFace also returns boxes with very low scores, some of them large: choosing by prominence alone took one of
        them for the face in 8 of 3,000 LFW photographs.
        """
        likely = np.flatnonzero(self.scores >= LIKELY)
        if not len(likely):
            return int(self.scores.argmax())
        return int(likely[most_prominent(self.boxes[likely], width, height)])


NO_FACES = Faces(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2)))


@dataclass(frozen=True)
class Detector:
    """Finds the faces of RGB photographs; several threads may call it at once.

    Faces whose box has a shorter side of less than `min_face_size` pixels are left out.
    """

    name: str
    find: Callable[[RGB], Faces]
    min_face_size: float

    def __call__(self, image: RGB) -> Faces:
        """The faces of one photograph, H×W×3."""
        return self.find(image).at_least(self.min_face_size)
