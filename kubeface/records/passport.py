"""passport.json: what a version was made of and with, and the SHA-256 of each of its files."""

from typing import Any, Literal

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from kubeface.metrics.figures import Gains, without_absent
from kubeface.records.evaluation import GateVerdict
from kubeface.records.record import Record

SetFigures = dict[str, dict[str, JsonValue]]  # figures of one model by set


class FileEntry(Record):
    """A file of a version."""

    sha256: str
    """SHA-256, 64 hex digits."""
    bytes: int
    """Size."""


class StartingModel(Record):
    """The model that the fine-tuning started from."""

    name: str
    """Where its weights came from."""
    license: str
    """License of the weights."""
    sha256: str | None = None
    """SHA-256 of the weights."""


class SuperresolutionNetwork(Record):
    """The network that enlarges small faces for the model."""

    name: str
    """Name of the network."""
    scale: int
    """How many times it enlarges."""
    sha256: str
    """SHA-256 of superresolution.onnx."""


class PassportMetrics(Record):
    """What evaluate measured, and what the gate decided."""

    gate: GateVerdict
    """Verdict of the gate."""
    gain: dict[str, Gains]
    """Gains over the starting model by set."""
    baseline: SetFigures | None = None
    """Main figures of the starting model."""
    finetuned: SetFigures | None = None
    """Main figures of the fine-tuned model."""
    champion: SetFigures | None = None
    """Main figures of the champion before it."""
    scratch: SetFigures | None = None
    """Main figures of the small network from scratch."""

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_absent(self, serialize(self))


class Passport(Record):
    """What a version was made of; equal runs give equal passports."""

    schema_version: Literal[1] = 1
    """Version of this record."""
    producer: str
    """promote and its version."""
    name: str
    """Name of the model."""
    images: dict[str, str | None]
    """Container image of each step; null where it is unknown."""
    data: dict[str, str | None]
    """SHA-256 of what the run saw: tables aligned and split, data.json of gather and audit."""
    seed: int | None
    """Seed of the training."""
    settings: dict[str, dict[str, JsonValue]]
    """Settings of training and evaluation by name."""
    versions: dict[str, dict[str, str]]
    """Versions of libraries by step."""
    start: StartingModel
    """The starting model."""
    superresolution: SuperresolutionNetwork | None = None
    """The super-resolution network, where the model has one."""
    metrics: PassportMetrics
    """What evaluate measured."""
    erasure_marks: int
    """How many people or images were to be forgotten."""
    files: dict[str, FileEntry] = Field(default_factory=dict)
    """Every file of the version but the passport, by name."""

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_absent(self, serialize(self))
