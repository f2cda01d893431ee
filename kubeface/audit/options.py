"""Options of audit."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kubeface.records.tasks import Task
from kubeface.runtime.options import NonNegative, Options, Seed

Cosine = Annotated[float, Field(ge=-1, le=1)]


class AuditOptions(Options):
    """Checks of the data, their thresholds, and what is done about what they find."""

    task: Task = "recognition"
    """What the model is trained for: recognition, attributes or classes."""
    evaluation_sets: str = ""
    """Evaluation sets whose people must not be trained on, with commas or spaces between them: folders, s3:// prefixes,
    tars or zips with a folder for each person. Empty for none."""
    previous: str = ""
    """data.json of an earlier audit that drift is measured against, as path or URI. Empty, or not there, for a first
    run."""
    on_leak: Literal["drop", "fail", "warn"] = "drop"
    """What becomes of people who are in an evaluation set: drop them, fail the run, or warn and keep them."""
    suspects: Literal["keep", "drop"] = "keep"
    """What becomes of images unlike the rest of their identity, and of the smaller of two identities that look like one
    person."""
    duplicates: Literal["group", "drop"] = "group"
    """What becomes of several images of one photograph: group keeps them on one side of every division, drop keeps the
    one with the largest face."""
    max_drift: NonNegative = 0.0
    """Largest drift of a feature: population stability index, where below 0.1 is none, to 0.25 moderate and above
    large, or one less the cosine of the mean embeddings. 0 for no limit."""
    on_drift: Literal["warn", "stop", "retrain"] = "warn"
    """What follows from the limit: warn says where it is exceeded, stop fails the run there, retrain trains only
    there."""
    duplicate_bits: Annotated[int, Field(ge=0, le=3)] = 3
    """Largest number of bits in which the perceptual hashes of one photograph differ."""
    duplicate_cosine: Cosine = 0.7
    """Least cosine of the embeddings of images with such hashes."""
    same_cosine: Cosine = 0.97
    """Cosine from which on two images of an identity are one photograph whatever their hashes."""
    far_below: Cosine = 0.25
    """Cosine with the mean of the identity's other images below which an image is suspect."""
    alike_above: Cosine = 0.65
    """Cosine of the means of two identities from which on they look like one person."""
    leak_above: Cosine = 0.6
    """Cosine of the means from which on an identity is a person of an evaluation set."""
    image_above: Cosine = 0.55
    """Cosine that the most similar images of the two must also reach, for lookalikes and leaks."""
    seed: Seed = 0
    """Seed of the choice of samples that the page shows."""

    @model_validator(mode="after")
    def _drift_has_limit(self) -> Self:
        if self.on_drift != "warn" and not self.max_drift:
            raise ValueError(f"on_drift is '{self.on_drift}' without a limit: give max_drift above 0")
        return self
