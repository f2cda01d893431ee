"""A fine-tuned model as it is used: photographs in, embeddings and decisions out, without torch.

Runs on what finetune, evaluate and promote leave in a model folder:

    model.json       how the model wants its faces (template, detector), and the SHA-256 of its weights
    model.onnx       crops to embeddings
    mtcnn.zip        the detector, where it is MTCNN
    threshold.json   the calibrated threshold, once the model was evaluated
    superresolution.onnx   what enlarges low-resolution faces, where the model was trained with such a network
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from kubeface.faces.degradation import Degradation, downsample
from kubeface.faces.detection import make_detector
from kubeface.faces.detector import Detector, Faces
from kubeface.faces.geometry import CROP_SIZE, PORTRAIT, TEMPLATES, Points
from kubeface.faces.images import RGB
from kubeface.faces.mtcnn_onnx import MTCNN_FILE, load_mtcnn
from kubeface.faces.photographs import decode_photograph
from kubeface.models.embeddings import Embeddings, embed_batch
from kubeface.models.onnx_model import OnnxModel, file_of, open_model, read_model_record
from kubeface.models.superresolution import NETWORK_FILE, Enlarger, open_enlarger
from kubeface.records.model import ModelRecord
from kubeface.records.tasks import RECOGNITION
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.options import explain
from kubeface.storage import objects
from kubeface.storage.folders import read_json
from kubeface.tables.resolution_pairs import native_side

# As align has them by default, so that a photograph becomes the crop that the model would have been trained on.
MIN_FACE_SIZE, MIN_CONFIDENCE = 20, 0.9
ARCFACE = "arcface_112"
LOW_RESOLUTION_TIMES = 4  # so often photographs are enlarged for a low-resolution model without a network
MOST_SIDE = 2048  # pixels of a photograph's longer side up to which it is enlarged to look for smaller faces

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """The face that a photograph is of."""

    score: float  # the detector's, 0…1
    box: Points  # x1, y1, x2, y2 in pixels of the upright photograph
    landmarks: Points  # 5×2, in the same
    faces: int  # how many the detector is sure of


@dataclass(frozen=True)
class Face(Subject):
    """With its embedding, D numbers of length 1."""

    embedding: Vector


@dataclass(frozen=True)
class Crop(Subject):
    """With its crop, H×W×3, uint8."""

    pixels: RGB


@dataclass(frozen=True)
class LeftOut:
    """Why a photograph gives no face: unreadable, no_face or low_confidence, and a line on it."""

    reason: str
    detail: str


def find_crop(photograph: bytes, detect: Detector, template: str, times: int = 1) -> Crop | LeftOut:
    """The crop of an encoded photograph's most prominent face, made as the template says.

    Where no sure face is found, one is looked for in the photograph enlarged so many `times`, if that is then not too
    large.
    """
    try:
        image = decode_photograph(photograph)
    except ValueError as error:
        return LeftOut("unreadable", str(error))
    found = _subject(image, detect(image), detect, template)
    if isinstance(found, LeftOut) and 1 < times <= MOST_SIDE / max(image.shape[:2]):
        seen = detect(Enlarger().several([image], times)[0])
        # A pixel's centre stands at its whole number.
        smaller = replace(seen, boxes=(seen.boxes + 0.5) / times - 0.5, landmarks=(seen.landmarks + 0.5) / times - 0.5)
        second = _subject(image, smaller, detect, template)
        return found if isinstance(second, LeftOut) else second
    return found


def _subject(image: RGB, found: Faces, detect: Detector, template: str) -> Crop | LeftOut:
    """The crop of the most prominent one of the faces found in a photograph."""
    sure = found.confident(MIN_CONFIDENCE)
    if not len(found):
        return LeftOut("no_face", f"{detect.name} found none of {MIN_FACE_SIZE} pixels and more")
    if not len(sure):
        best = float(found.scores.max())
        return LeftOut("low_confidence", f"{detect.name} is sure of none: {best:.2f}, not {MIN_CONFIDENCE:g}")
    subject = sure.subject(image.shape[1], image.shape[0])
    box, landmarks = sure.boxes[subject], sure.landmarks[subject]
    pixels = TEMPLATES[template](image, landmarks, box)
    return Crop(float(sure.scores[subject]), box, landmarks, len(sure), pixels)


class Calibration(BaseModel):
    """What is used of threshold.json; a similarity above the threshold is a match.

    `confidence` is by Platt's logistic curve ("Probabilistic outputs for support vector machines", 1999), which takes
    one person and two people as equally likely beforehand.
    """

    weights_sha256: str
    threshold: float = Field(ge=-1, le=1)
    threshold_low: float
    threshold_high: float
    fmr: float = Field(gt=0, lt=1)
    slope: float
    intercept: float
    flip: bool = False
    degradation: str = "none"  # of the crops that it was measured on, and holds for

    def confidence(self, similarity: float) -> float:
        """The probability, 0…1, that two faces of this similarity are one person's."""
        return float(0.5 + 0.5 * np.tanh((self.slope * similarity + self.intercept) / 2))  # the logistic, no overflow


@dataclass(frozen=True)
class Recogniser:
    """A model with the alignment that it was trained with; several threads may use it at once.

    A face's embedding depends on nothing but its photograph, see `OnnxModel`.
    """

    uri: str
    network: OnnxModel
    detect: Detector
    flip: bool
    calibration: Calibration | None
    enlarger: Enlarger | None = None
    times: int = 1  # see find_crop

    @property
    def marks(self) -> dict[str, str]:
        """What two embeddings must have in common to be compared."""
        return {
            "weights_sha256": self.network.weights_sha256,
            "template": self.network.template,
            "detector": self.detect.name,
            "flip": "true" if self.flip else "false",
            **({"superresolution": hashlib.sha256(self.enlarger.network).hexdigest()} if self.enlarger else {}),
        }

    def face(self, photograph: bytes) -> Face | LeftOut:
        """The face of an encoded photograph, the most prominent one where there are several.

        Where a low-resolution model finds none, it looks again in the enlarged photograph. A face of fewer pixels than
        the model's super-resolution network takes for a crop goes through that network.
        """
        found = find_crop(photograph, self.detect, self.network.template, self.times)
        if isinstance(found, LeftOut):
            return found
        return Face(found.score, found.box, found.landmarks, found.faces, self.embed(self.enlarged(found)))

    def enlarged(self, found: Crop) -> RGB:
        """The crop's pixels (H×W×3); of a low-resolution face as the model's network makes them, as in its training."""
        height, width = found.pixels.shape[:2]
        side = _side(found, self.network.template)
        if self.enlarger is None or side >= height / self.enlarger.scale:
            return found.pixels
        return self.enlarger.to(downsample(found.pixels, max(2, round(side))), width, height)

    def embed(self, crop: RGB) -> Vector:
        """The embedding of an aligned RGB crop (H×W×3, uint8), D numbers of length 1; with `flip` that of the sum with
        its mirror image's."""
        if not self.flip:
            return np.asarray(self.network.embed(crop[None])[0])
        both = Embeddings()
        both.append(*embed_batch(self.network, crop[None]))
        return np.asarray(both.flipped()[0])

    @property
    def calibration_in_force(self) -> Calibration | None:
        """The calibration, where it is for embeddings with this flip setting."""
        return self.calibration if self.calibration and self.calibration.flip == self.flip else None

    def threshold(self, given: float | None) -> float:
        """The similarity above which two faces are one person's: the one given, else the calibrated one.

        Raises:
            KubefaceError: there is neither, it is no cosine, or the calibration is not for this flip setting.
        """
        if given is not None:
            require(-1 <= given <= 1, f"threshold is {given:g}: a cosine lies between -1 and 1")
            return given
        if self.calibration is None:
            raise KubefaceError(
                f"{self.uri} has no threshold.json: use a promoted version, copy threshold.json of the model's "
                "evaluation beside it, or give --threshold"
            )
        require(
            self.calibration.flip == self.flip,
            f"{self.uri} was calibrated {'with' if self.calibration.flip else 'without'} flip: "
            f"{'use' if self.calibration.flip else 'leave out'} --flip, or give --threshold",
        )
        return self.calibration.threshold


def _side(found: Crop, template: str) -> float:
    """The side of a crop in pixels of its photograph; of crops that are boxes the box's shorter side."""
    if template in (ARCFACE, PORTRAIT):
        return native_side(found.landmarks) * len(found.pixels) / CROP_SIZE
    left, top, right, bottom = found.box
    return float(min(right - left, bottom - top))


def similarity(left: Vector, right: Vector) -> float:
    """The cosine of two embeddings of length 1, -1…1; the same whichever comes first."""
    return float(np.clip(np.dot(left.astype(np.float64), right.astype(np.float64)), -1, 1))


def open_recogniser(uri: str, flip: bool = False) -> Recogniser:
    """Opens a model folder of finetune, or a promoted version; with `flip` each face is embedded with its mirror image.

    Raises:
        KubefaceError: files missing or changed, a model for another task, an unknown template or detector, or a
            threshold of another model.
    """
    record = read_model_record(uri)
    require(
        record.task == RECOGNITION,
        f"{uri} is a model of {record.task}, by which nobody is recognised: give one of recognition",
    )
    network = open_model(uri, device="cpu", threads=1)
    detector = open_detector(uri, record)
    known = objects.exists(objects.join(uri, "threshold.json"))
    calibration = _calibration(uri, network.weights_sha256) if known else None
    enlarger = model_enlarger(uri, record, threads=1)
    low_resolution = Degradation.parse(record.training.degradation).kind == "lowres"
    times = enlarger.scale if enlarger else LOW_RESOLUTION_TIMES if low_resolution else 1
    return Recogniser(uri, network, detector, flip, calibration, enlarger, times)


def model_enlarger(uri: str, record: ModelRecord, threads: int) -> Enlarger | None:
    """The super-resolution network that the model of a folder was trained with; None where it was trained without one.

    Raises:
        KubefaceError: the network is missing or not the one that model.json tells of.
    """
    if record.superresolution is None:
        return None
    enlarger = open_enlarger(uri, threads)
    require(
        hashlib.sha256(enlarger.network).hexdigest() == record.superresolution.sha256,
        f"{objects.join(uri, NETWORK_FILE)} is not the network that model.json tells of: copy the folder anew",
    )
    return enlarger


def open_detector(uri: str, record: ModelRecord) -> Detector:
    """The detector by whose landmarks the crops of the model in a folder were made.

    Raises:
        KubefaceError: files missing or changed, or an unknown detector.
    """
    name = record.alignment.detector
    if name == "mtcnn":
        sha256 = record.training.onnx.mtcnn_sha256 if record.training.onnx else ""
        return load_mtcnn(file_of(uri, MTCNN_FILE, sha256), MIN_FACE_SIZE, threads=1)
    return make_detector(name, MIN_FACE_SIZE, threads=1)


def _calibration(uri: str, weights_sha256: str) -> Calibration:
    address = objects.join(uri, "threshold.json")
    try:
        found = Calibration.model_validate(read_json(file_of(uri, "threshold.json")))
    except ValidationError as error:
        raise KubefaceError(f"{address}: {explain(error, Calibration)}; evaluate the model again") from None
    require(
        found.weights_sha256 == weights_sha256,
        f"{address} was calibrated for a model with other weights: evaluate this one to get its own threshold",
    )
    return found
