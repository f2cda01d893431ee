"""evaluation.json and threshold.json of the three tasks, and roc.json, as types."""

from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Literal, TypeVar

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, TypeAdapter, model_serializer

from kubeface.metrics.figures import (
    Calibration,
    Figures,
    ForgottenPair,
    Gains,
    IdentificationFigures,
    PairedTest,
    PairFigures,
    RocPoints,
    ScoreHistogram,
    VerificationFigures,
)
from kubeface.records.gate import Gate
from kubeface.records.labelled_figures import (
    AttributesFigures,
    ChosenOn,
    ClassesFigures,
    GridImage,
    LabelCorrelation,
    Mistake,
    RefusalFigures,
    Sampling,
)
from kubeface.records.recognition_figures import (
    Compatibility,
    GroupColumn,
    HardestPairs,
    LfwRecord,
    LowResolution,
    ProbeRow,
    Resolutions,
)
from kubeface.records.record import Record, SparseRecord
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION, require_task
from kubeface.storage.folders import read_json

SCHEMA_VERSION = 1
OF_OPTIONAL_MODELS = ("champion", "scratch", "gain_over_scratch")  # absent from JSON where they are empty

# Figures of one model on one set: of verification, attributes or classes.
SetMeasurement = TypeVar("SetMeasurement", bound=Figures, covariant=True)
SetFigures = dict[str, dict[str, JsonValue]]  # such figures as JSON, by set
Curves = dict[str, dict[str, RocPoints]]  # by set and model
_CURVES: TypeAdapter[Curves] = TypeAdapter(Curves)


class EvaluationSettings(Figures):
    """What besides the data decided on the figures."""

    gate: Gate
    bootstrap: int
    seed: int
    fmr: float | None = None
    probes: list[str] | None = None
    """Degradation probes; of recognition."""
    max_pairs: int | None = None
    sizes: str | None = None
    """Sides of low-resolution crops in pixels, divided by spaces; of recognition."""
    refuse: float | None = None
    """Share of validation images that may be refused as unknown; of classes."""


class ComparedModel(Figures):
    """A model that was measured."""

    backbone: str
    weights_sha256: str
    onnx_sha256: str
    """Of the file that was measured."""
    start: str | None = None
    """Where the starting model's weights come from."""
    uri: str | None = None
    heldout_people_trained_on: int | None = None
    """Held-out people that the promoted model was trained on; they speak for it, never against it."""


class GateCheck(Figures):
    """One check of the gate."""

    name: str
    """What was checked: a set with a figure, a group, or the promoted model with a figure."""
    passed: bool
    text: str
    """The figures in words."""


class GateVerdict(Figures):
    """The gate's decision."""

    better: bool
    reason: str
    """One sentence with the figures of every check."""
    checks: list[GateCheck]
    rule: Gate


class EvaluationRecord(SparseRecord, Generic[SetMeasurement]):
    """What evaluation.json of every task holds; figures are of one model, by set."""

    schema_version: int = SCHEMA_VERSION
    task: Literal["recognition", "attributes", "classes"]
    producer: str
    aligned: str
    split: str
    degradation: str
    """Put on every crop of the target set; none for crops as they are."""
    settings: EvaluationSettings
    image: str | None
    versions: dict[str, str]
    """Versions of the packages that the figures depend on."""
    people: int
    """Held-out people; of classes the known classes."""
    images: int
    """Held-out images that were measured on."""
    models: dict[str, ComparedModel]
    """baseline and finetuned, where there are champion and scratch."""
    baseline: dict[str, SetMeasurement]
    finetuned: dict[str, SetMeasurement]
    champion: dict[str, SetMeasurement] = Field(default_factory=dict)
    gain: dict[str, Gains]
    gain_over_champion: dict[str, Gains] = Field(default_factory=dict)
    gate: GateVerdict

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        values: dict[str, JsonValue] = super()._serialize(serialize)
        return {name: value for name, value in values.items() if value or name not in OF_OPTIONAL_MODELS}

    def figures_of(self, model: str) -> Mapping[str, SetMeasurement]:
        """A model's figures by set; empty where the model was not measured."""
        figures: Mapping[str, SetMeasurement] = getattr(self, model, {})
        return figures

    def gains_over(self, model: str) -> Mapping[str, Gains]:
        """The gains over a model by set; empty where it was not measured."""
        gains: Mapping[str, Gains] = self.gain if model == "baseline" else getattr(self, f"gain_over_{model}", {})
        return gains


class RecognitionEvaluation(EvaluationRecord[VerificationFigures]):
    """evaluation.json of recognition."""

    task: Literal["recognition"] = "recognition"
    pairs: int
    gate_far: float
    """False accept rate of the gate's tar."""
    paired: dict[str, PairedTest] = Field(default_factory=dict)
    forgotten: list[ForgottenPair] = Field(default_factory=list)
    """The pairs whose margin fell furthest, of all sets."""
    histograms: dict[str, dict[str, ScoreHistogram]] = Field(default_factory=dict)
    calibration: dict[str, Calibration] = Field(default_factory=dict)
    calibrated_on: str | None = None
    """Set that the thresholds were calibrated on, where it is not heldout."""
    groups: dict[str, GroupColumn] = Field(default_factory=dict)
    identification: dict[str, dict[str, IdentificationFigures]] = Field(default_factory=dict)
    compatibility: Compatibility | None = None
    all_pairs: dict[str, dict[str, PairFigures]] | None = None
    """Figures over every pair by set and model, where not all pairs were scored one by one."""
    probes: list[ProbeRow] | None = None
    low_resolution: LowResolution | None = None
    resolutions: Resolutions | None = None
    lfw: LfwRecord | None = None
    hardest: HardestPairs
    hardest_cross: HardestPairs | None = None


class LabelledEvaluation(EvaluationRecord[SetMeasurement]):
    """What evaluation.json of attributes and of classes share."""

    labels: list[str]
    """Names of the labels or classes in the order of the scores."""
    chosen_on: ChosenOn
    sampling: Sampling
    grid: list[GridImage]
    mistakes: list[Mistake]
    """Wrong predictions with the surest scores."""


class AttributesEvaluation(LabelledEvaluation[AttributesFigures]):
    """evaluation.json of attributes."""

    task: Literal["attributes"] = "attributes"
    thresholds: dict[str, dict[str, float]]
    correlation: LabelCorrelation


class ClassesEvaluation(LabelledEvaluation[ClassesFigures]):
    """evaluation.json of classes."""

    task: Literal["classes"] = "classes"
    scratch: dict[str, ClassesFigures] = Field(default_factory=dict)
    gain_over_scratch: dict[str, Gains] = Field(default_factory=dict)


class RecognitionThreshold(Calibration, Record):
    """threshold.json of recognition: the calibration of the fine-tuned model."""

    schema_version: int = SCHEMA_VERSION
    weights_sha256: str
    degradation: str


class LabelledThreshold(Record):
    """What threshold.json of attributes and classes share."""

    schema_version: int = SCHEMA_VERSION
    weights_sha256: str
    """Of the backbone's weights."""
    onnx_sha256: str
    """Of the exported model, which the head is part of."""
    degradation: str
    chosen_on: ChosenOn


class AttributesThreshold(LabelledThreshold):
    """threshold.json of attributes."""

    task: Literal["attributes"] = "attributes"
    labels: dict[str, float]
    """Score from which on a label is predicted, by label."""


class ClassesThreshold(LabelledThreshold):
    """threshold.json of classes."""

    task: Literal["classes"] = "classes"
    unknown: RefusalFigures | None
    """Threshold of the refusal with its figures; None where none was chosen."""
    refuse: float = Field(ge=0, lt=1)


Evaluation = RecognitionEvaluation | AttributesEvaluation | ClassesEvaluation
EVALUATIONS: Mapping[str, type[Evaluation]] = {
    RECOGNITION: RecognitionEvaluation,
    ATTRIBUTES: AttributesEvaluation,
    CLASSES: ClassesEvaluation,
}


def read_evaluation(path: Path) -> Evaluation:
    """Reads evaluation.json of any task.

    Raises:
        KubefaceError: the file is missing, is not JSON, or is no evaluation that this release reads.
    """
    value = read_json(path)
    task = value.get("task", RECOGNITION) if isinstance(value, dict) else RECOGNITION
    require_task(task)
    return EVALUATIONS[task].parse(value, str(path))


def read_curves(path: Path) -> Curves:
    """Reads roc.json: the points of the ROC curves by set and model.

    Raises:
        KubefaceError: the file is missing or is not JSON.
    """
    return _CURVES.validate_python(read_json(path))
