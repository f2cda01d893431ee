"""The record of the audit: data.json beside its table."""

from typing import Literal

from kubeface.records.record import Record, StepResult

Setting = str | int | float


class Histogram(Record):
    """How a feature is distributed over the images."""

    label: str
    """What is measured, with its unit."""
    cuts: list[int | float]
    """Ascending limits of the bins; a value equal to a cut is in the bin above it."""
    counts: list[int]
    """Values by bin, one more than cuts: the first bin has no lower limit and the last no upper one."""
    quantiles: dict[str, float]
    """By name (min, p05, …, max); empty where there is no value."""


class Distributions(Record):
    """What a later audit measures drift against."""

    features: dict[str, Histogram]
    embedding_mean: list[float]
    """Mean of the embeddings; empty for whole photographs, which have none."""


class Drift(Record):
    """How far the data are from those of an earlier run."""

    compared: bool
    features: dict[str, float]
    """By name the population stability index (0 for no drift); for `embedding` one less the cosine of the means."""
    worst: str | None
    """The feature that drifted most; None where nothing was compared."""
    exceeded: bool
    """Whether it drifted by more than max_drift."""

    @property
    def largest(self) -> float:
        """The drift of the worst feature; 0 where nothing was compared."""
        return max(self.features.values(), default=0.0)


class AuditFigures(StepResult):
    """Numbers of findings; rows_out are the images that are kept."""

    rejected: int
    """Images that are left out."""
    identities: int
    identities_out: int
    duplicate_clusters: int
    """Photographs that are there more than once."""
    duplicates: int
    """Images too many in these clusters."""
    same_photo_two_names: int
    """Images whose photograph is under several identities."""
    suspects: int
    alike_pairs: int
    leaks: int
    """Identities that are in an evaluation set."""


class AuditCounts(AuditFigures):
    """Numbers of findings, with the reasons why images are left out."""

    reasons: dict[str, int]
    filter_reasons: dict[str, int]


class IdentitySizes(Record):
    """How the images are spread over the identities."""

    min: int
    median: float
    max: int
    gini: float
    """Gini coefficient: 0 where all have as many, towards 1 where one has nearly all."""
    effective: float
    """Number of identities with equally many images that would be as diverse (exponential of the entropy)."""


class FindingsRecord(Distributions):
    """Findings of the audit."""

    schema_version: Literal[1] = 1
    producer: str
    settings: dict[str, Setting]
    """Options of the audit with the hashes of its inputs."""
    counts: AuditCounts
    classes: IdentitySizes
    drift: Drift
