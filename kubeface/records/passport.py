"""passport.json: what a version was made of and with, and the SHA-256 of each of its files."""

from typing import Literal

from pydantic import Field, JsonValue

from kubeface.metrics.figures import Gains
from kubeface.records.evaluation import GateVerdict, SetFigures
from kubeface.records.model import SuperresolutionNetwork
from kubeface.records.record import Record, SparseRecord


class FileEntry(Record):
    """A file of a version."""

    sha256: str
    bytes: int


class StartingModel(Record):
    """The model that the fine-tuning started from."""

    name: str
    """Where its weights came from."""
    license: str
    sha256: str | None = None


class PassportMetrics(SparseRecord):
    """What evaluate measured, and what the gate decided."""

    gate: GateVerdict
    gain: dict[str, Gains]
    baseline: SetFigures | None = None
    finetuned: SetFigures | None = None
    champion: SetFigures | None = None
    scratch: SetFigures | None = None


class Passport(SparseRecord):
    """What a version was made of; equal runs give equal passports."""

    schema_version: Literal[1] = 1
    producer: str
    name: str
    images: dict[str, str | None]
    """Container image of each step; null where it is unknown."""
    data: dict[str, str | None]
    """SHA-256 of what the run saw: tables aligned and split, data.json of gather and audit."""
    seed: int | None
    settings: dict[str, dict[str, JsonValue]]
    versions: dict[str, dict[str, str]]
    start: StartingModel
    superresolution: SuperresolutionNetwork | None = None
    metrics: PassportMetrics
    erasure_marks: int
    """How many people or images were to be forgotten."""
    files: dict[str, FileEntry] = Field(default_factory=dict)
