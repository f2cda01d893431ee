"""kubeface for Python code: open a model, embed and compare photographs, search a gallery, run a pipeline."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubeface.evaluate.inference import Comparison, Identification, compare_faces, identify
from kubeface.faces.images import encode_crop
from kubeface.models.recogniser import Face, LeftOut, Recogniser, open_recogniser
from kubeface.records.summary import SummaryRecord
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.workers import in_order
from kubeface.storage import objects

__all__ = ["Comparison", "Face", "Identification", "Model", "Photograph", "compare", "identify", "load", "run"]

# A path or s3:// address, an encoded image, or RGB pixels (H×W×3, uint8).
Photograph = str | Path | bytes | NDArray[np.uint8]


@dataclass(frozen=True)
class Model:
    """A fine-tuned model with the alignment that it was trained with; several threads may use it at once."""

    recogniser: Recogniser

    def embed(self, images: Sequence[Photograph]) -> NDArray[np.float32]:
        """Embeddings of the most prominent face of each photograph.

        Args:
            images: at least one photograph.

        Returns:
            N×D, each row of length 1.

        Raises:
            KubefaceError: a photograph cannot be read or shows no sure face; the first such one is named.
        """
        if isinstance(images, str | bytes):
            raise TypeError("images is one photograph: give a list of them")
        return np.stack([face.embedding for face in self._faces(images)])

    def face(self, image: Photograph) -> Face | LeftOut:
        """The most prominent face of a photograph with its place and score, or why there is none. Raises KubefaceError
        if the file or object cannot be read."""
        return self.recogniser.face(_encoded(image))

    def compare(self, left: Photograph, right: Photograph, threshold: float | None = None) -> Comparison:
        """Says whether two photographs show the same person.

        Args:
            threshold: similarity (cosine, −1 to 1) above which it is the same person; the calibrated one where None.

        Raises:
            KubefaceError: as `embed`, or there is no threshold.
        """
        self.recogniser.threshold(threshold)  # what is wrong with it is said before the work
        one, other = self._faces([left, right])
        return compare_faces(self.recogniser, one, other, threshold)

    def _faces(self, images: Sequence[Photograph]) -> Iterator[Face]:
        return in_order(self._numbered_face, enumerate(images), cpu_limit())

    def _numbered_face(self, item: tuple[int, Photograph]) -> Face:
        number, image = item
        face = self.face(image)
        if isinstance(face, LeftOut):
            name = image if isinstance(image, str | Path) else f"photograph {number}"
            raise KubefaceError(f"{name}: {face.reason} ({face.detail}): give another photograph")
        return face


def load(model: str | Path, flip: bool = False) -> Model:
    """Opens a model folder of finetune, or a promoted version.

    Args:
        model: path or s3:// address of the folder.
        flip: add the embeddings of the mirrored faces.

    Raises:
        KubefaceError: files are missing or changed, or the model is for another task than recognition.
    """
    return Model(open_recogniser(str(model), flip))


def compare(
    left: Photograph, right: Photograph, *, model: str | Path, threshold: float | None = None, flip: bool = False
) -> Comparison:
    """Says whether two photographs show the same person: `load(model, flip).compare(left, right, threshold)`."""
    return load(model, flip).compare(left, right, threshold)


def run(pipeline: str = "face-finetuning", *, folder: str | Path, **parameters: Any) -> SummaryRecord:
    """Runs a pipeline on this machine.

    Args:
        pipeline: face-finetuning, low-resolution, face-attributes or image-classification.
        folder: of the run, which must not exist yet; report.html, summary.json and model/ are left in it.
        parameters: of the pipeline: source, models and what else `docs/parameters.md` lists.

    Raises:
        KubefaceError: there is no such pipeline, a parameter is wrong, or a step failed.
    """
    local = importlib.import_module("pipelines.local.run")  # needs the extra `pipelines`
    summary: SummaryRecord = local.run_local(parameters, Path(folder), pipeline=pipeline)
    return summary


def _encoded(image: Photograph) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        return encode_crop(image)
    return objects.read_bytes(str(image))
