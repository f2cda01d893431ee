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
    """Shards that differ from the run before."""
    forgotten: int
    """Images left out because they are to be forgotten."""
    duplicates: int
    """Near-duplicates that the audit found."""
    suspects: int
    """Images that may be mislabelled."""
    leaks: int
    """People who are in an evaluation set."""
    drift: Drift
    """Drift from the run before, by feature."""
    rejected: int
    """Images that ingest, align and filter left out."""
    rejected_by_reason: dict[str, int]
    """The same by reason."""
    heldout_identities: int
    """People or classes with a held-out image."""
    train_identities: int
    """People or classes with a training image."""


class GateSummary(Record):
    """What the gate decided, and what became of it."""

    promoted: bool
    """Whether the model of this run is the champion now."""
    promotion_reason: str
    """Why it was promoted or not."""
    better: bool
    """Whether the gate found it better."""
    reason: str
    """Why the gate found so."""
    checks: list[GateCheck]


class ModelSummary(Record):
    """The model of a run."""

    uri: str | None
    """Address of the version that was promoted, or stays in force where nothing was trained."""
    version: str | None
    """Name of that version."""
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
    """Rows and seconds of each step, in the order of the pipeline."""
    dataset: DatasetSummary
    degradation: str
    """Degradation of the training and of the target set."""
    baseline: SetFigures
    """Figures of the starting model by set."""
    finetuned: SetFigures
    """Figures of the fine-tuned model by set."""
    gain: dict[str, Gains]
    """Gains over the starting model, with intervals, by set and figure."""
    gain_over_champion: dict[str, Gains]
    """The same over the champion; empty where there was none."""
    gate: GateSummary
    model: ModelSummary
    settings: dict[str, JsonValue]
    """Settings of the training."""
    versions: dict[str, str]
    """Versions of Python and libraries."""

    @property
    def verdict(self) -> Verdict:
        """What the run came to, in two words."""
        if not self.trained:
            return "not trained"
        return "promoted" if self.gate.promoted else "not promoted"


class RecognitionSummary(SummaryRecord):
    """The figures of a run of recognition."""

    paired: dict[str, PairedTest]
    """What the same pairs say of both models, by set."""
    probes: list[ProbeRow]
    """Figures under further degradations."""
    identification: dict[str, dict[str, IdentificationFigures]]
    """Search of a gallery, by set and model."""
    calibration: dict[str, Calibration]
    """Decision threshold by model."""
    compatibility: Compatibility | None = None
    """Whether galleries enrolled with the older model can stay."""
    groups: dict[str, dict[str, ErrorRates]]
    """Largest over smallest error rate among groups, by column and model."""
    low_resolution: LowResolution | None = None
    """How low resolution was measured."""
    resolutions: Resolutions | None = None


class LabelledSummary(SummaryRecord):
    """The figures of a run of attributes or classes."""

    labels: list[str]
    """Names of the labels or classes."""
    chosen_on: ChosenOn
    """The images that thresholds were chosen on."""
    sampling: Sampling
    """Images by label or class, before and after sampling."""


class AttributesSummary(LabelledSummary):
    """The figures of a run of attributes."""

    thresholds: dict[str, dict[str, float]]
    """Thresholds of the labels by model."""


class ClassesSummary(LabelledSummary):
    """The figures of a run of classes."""

    gain_over_scratch: dict[str, Gains] = Field(default_factory=dict)
    """Gains over the small network from scratch; empty where there was none."""
    scratch: SetFigures | None = None
    """Figures of the small network from scratch by set."""


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
