"""Options of split."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kubeface.records.tasks import CLASSES, RECOGNITION, Task
from kubeface.runtime.options import Options, Seed, ShareBelowOne

# The parts in which images that the filter rejected are left out, by apply_filter.
FILTERED_PARTS: Mapping[str, tuple[str, ...]] = {
    "validation": ("val", "heldout"),
    "all": ("train", "val", "heldout"),
    "none": (),
}


class SplitOptions(Options):
    """How images are divided into train, val and heldout."""

    task: Task = "recognition"
    """What the model is trained for: recognition, attributes or classes."""
    apply_filter: Literal["validation", "all", "none"] = "validation"
    """Where images that the filter rejected are left out: in val and heldout, everywhere, or nowhere."""
    heldout_fraction: ShareBelowOne = 0.33
    """Share of people held out for the evaluation; for classes the share of each class's images."""
    val_fraction: ShareBelowOne = 0.2
    """Share of each trained identity's images used for validation; for attributes the share of the people who are not
    held out."""
    val_people_fraction: ShareBelowOne = 0.0
    """Recognition: share of the people who are not held out that are used for validation only. A model selected on
    people it was not trained on does better on others."""
    unknown_fraction: ShareBelowOne = 0.0
    """Classes: share of the classes held out whole, to measure whether unknown classes are refused."""
    min_images: Annotated[int, Field(ge=1)] = 2
    """Smallest number of photographs of an identity after filtering; identities with fewer are excluded. Recognition
    needs at least 2, and 10 are recommended."""
    seed: Seed = 0
    """Seed of the division."""

    @property
    def filtered_parts(self) -> tuple[str, ...]:
        """The parts in which images that the filter rejected are left out."""
        return FILTERED_PARTS[self.apply_filter]

    @model_validator(mode="after")
    def _fractions_fit_task(self) -> Self:
        for name, value, task in (
            ("val_people_fraction", self.val_people_fraction, RECOGNITION),
            ("unknown_fraction", self.unknown_fraction, CLASSES),
        ):
            if value and self.task != task:
                raise ValueError(f"{name} is {value:g}: it is for task {task}, set it to 0 for {self.task}")
        if self.min_images < 2 and self.task == RECOGNITION:
            raise ValueError(f"min_images is {self.min_images}: recognition needs at least 2 images of a person")
        return self
