"""Parts of an evaluation of attributes or classes: figures by label and class, thresholds, predictions shown."""

from kubeface.metrics.figures import Figures
from kubeface.records.record import Record


class Sampling(Record):
    """sampling.json: how often labels or classes occur among the training images, and among an epoch's."""

    images: int
    drawn: int
    """Images drawn in an epoch."""
    before: dict[str, int]
    """Training images by label."""
    after: dict[str, int]
    """Drawn images by label."""


class ChosenOn(Figures):
    """Images that thresholds were chosen on."""

    split: str
    images: int
    too_few: list[str] | None = None
    """Labels with too few images, whose threshold is 0.5; of attributes."""


class GridImage(Figures):
    """A held-out image with what is true and what is predicted of it."""

    file: str
    """Picture below the evaluation's folder."""
    image_id: str
    source: str
    """Path below the data source."""
    true: list[str]
    """Labels that it has, or its class."""
    predicted: list[str]
    """Labels that are predicted, or the class; empty where it is refused."""
    right: bool


class Mistake(Figures):
    """A wrong prediction."""

    file: str
    image_id: str
    source: str
    label: str | None
    """The label; None of classes."""
    true: int | str
    """1 or 0, or the class."""
    predicted: int | str | None
    """1 or 0, or the class."""
    score: float
    """Score of the label or of the predicted class."""


class BinaryFigures(Figures):
    """Figures of one label, or their means over labels; None where the label is constant or not predicted. The AUC is
    that of the ROC curve, the calibration error the expected one.
    """

    auc: float | None
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    accuracy: float | None
    balanced_accuracy: float | None
    calibration_error: float | None


class LabelFigures(BinaryFigures):
    """Figures of one label."""

    positives: int
    negatives: int
    threshold: float | None
    """Score from which on the label is predicted."""
    too_few: bool
    """Whether there are too few images for the label to count in the means."""
    auc_low: float | None
    auc_high: float | None


class AttributesFigures(BinaryFigures):
    """Figures of one model on one set: means over the labels with enough images, and each label."""

    labels: dict[str, LabelFigures]
    measured_labels: int
    """Labels with enough images."""
    images: int


class LabelCorrelation(Figures):
    """Phi coefficients of all pairs of labels (rows and columns in the labels' order); None where one is constant."""

    labels: list[str]
    true: list[list[float | None]]
    predicted: list[list[float | None]]


class ClassFigures(Figures):
    """Figures of one class; None where it is never predicted or has no image."""

    images: int
    precision: float | None
    recall: float | None
    f1: float | None


class RefusalFigures(Figures):
    """How well images of unknown classes are refused."""

    threshold: float
    """Score of the likeliest class under which an image is refused."""
    images: int
    """Images of unknown classes."""
    refused: float | None
    """Share of them that is refused."""
    known_refused: float
    """Share of images of known classes that is refused."""
    accuracy_of_accepted: float | None
    """Share of correct predictions among all images that are not refused."""


class ClassesFigures(Figures):
    """Figures of one model on one set; means over classes are over those with images, the log loss is over the
    images.
    """

    accuracy: float
    macro_f1: float
    balanced_accuracy: float
    log_loss: float
    calibration_error: float
    """Expected calibration error of the likeliest class's score."""
    images: int
    """Images of known classes."""
    classes: dict[str, ClassFigures]
    confusion: list[list[int]]
    """Images by true class (rows) and predicted class (columns)."""
    unknown: RefusalFigures | None
