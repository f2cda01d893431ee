"""summary.json: the figures of one run, for programs."""

from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from kubeface.metrics.figures import Calibration, Gains, IdentificationFigures, PairedTest
from kubeface.records.conclusion import Verdict
from kubeface.records.data import StepTotals
from kubeface.records.evaluation import GateCheck, SetFigures
from kubeface.records.findings import Drift
from kubeface.records.labelled_figures import ChosenOn, Sampling
from kubeface.records.recognition_figures import Compatibility, ErrorRates, LowResolution, ProbeRow, Resolutions
from kubeface.records.record import Record, SparseRecord
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION
from kubeface.storage.folders import read_json


class DatasetSummary(Record):
    """The data of a run."""

    images: int
    identities: int
    """People or classes ingested."""
    shards: int
    changed_shards: list[str]
    forgotten: int
    """Images left out because they are to be forgotten."""
    duplicates: int
    suspects: int
    """Images that may be mislabelled."""
    leaks: int
    drift: Drift
    rejected: int
    """Images that ingest, align and filter left out."""
    rejected_by_reason: dict[str, int]
    heldout_identities: int
    train_identities: int


class GateSummary(Record):
    """What the gate decided, and what became of it."""

    promoted: bool
    """Whether the model of this run is the champion now."""
    promotion_reason: str
    better: bool
    reason: str
    checks: list[GateCheck]


class ModelSummary(Record):
    """The model of a run."""

    uri: str | None
    """Address of the version that was promoted, or stays in force where nothing was trained."""
    version: str | None
    backbone: str
    weights_sha256: str


class SummaryRecord(SparseRecord):
    """The figures of one run; equal runs differ in nothing but seconds."""

    schema_version: Literal[1] = 1
    pipeline: str
    task: str
    seed: int
    trained: bool
    """Whether a model was trained; if not, the promoted one was handed on."""
    reason: str | None = None
    """Why nothing was trained, of a run that trained nothing."""
    steps: dict[str, StepTotals]
    dataset: DatasetSummary
    degradation: str
    """Degradation of the training and of the target set."""
    baseline: SetFigures
    finetuned: SetFigures
    gain: dict[str, Gains]
    gain_over_champion: dict[str, Gains]
    gate: GateSummary
    model: ModelSummary
    settings: dict[str, JsonValue]
    versions: dict[str, str]

    @property
    def verdict(self) -> Verdict:
        """What the run came to, in two words."""
        if not self.trained:
            return "not trained"
        return "promoted" if self.gate.promoted else "not promoted"


class RecognitionSummary(SummaryRecord):
    """The figures of a run of recognition."""

    paired: dict[str, PairedTest]
    probes: list[ProbeRow]
    identification: dict[str, dict[str, IdentificationFigures]]
    calibration: dict[str, Calibration]
    compatibility: Compatibility | None = None
    groups: dict[str, dict[str, ErrorRates]]
    """Largest over smallest error rate among groups, by column and model."""
    low_resolution: LowResolution | None = None
    resolutions: Resolutions | None = None


class LabelledSummary(SummaryRecord):
    """The figures of a run of attributes or classes."""

    labels: list[str]
    chosen_on: ChosenOn
    sampling: Sampling


class AttributesSummary(LabelledSummary):
    """The figures of a run of attributes."""

    thresholds: dict[str, dict[str, float]]


class ClassesSummary(LabelledSummary):
    """The figures of a run of classes."""

    gain_over_scratch: dict[str, Gains] = Field(default_factory=dict)
    scratch: SetFigures | None = None


def read_summary(path: Path) -> SummaryRecord:
    """Reads summary.json of any task.

    Raises:
        KubefaceError: the file is missing, is not JSON, or holds something else.
    """
    value = read_json(path)
    kinds: dict[str, type[SummaryRecord]] = {
        RECOGNITION: RecognitionSummary,
        ATTRIBUTES: AttributesSummary,
        CLASSES: ClassesSummary,
    }
    task = value.get("task") if isinstance(value, dict) else None
    return kinds.get(str(task), SummaryRecord).parse(value, str(path))
