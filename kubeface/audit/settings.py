"""What an audit is told."""

from dataclasses import dataclass

from kubeface.audit.duplicates import HASH_ALONE, Limits
from kubeface.records.tasks import require_task
from kubeface.runtime.errors import require

CHOICES = {
    "on_leak": ("drop", "fail", "warn"),
    "suspects": ("keep", "drop"),
    "duplicates": ("group", "drop"),
    "on_drift": ("warn", "stop", "retrain"),
}


@dataclass(frozen=True)
class Settings:
    """The parameters of `audit` but for the paths, under the same names."""

    evaluation_sets: str
    previous: str
    on_leak: str
    suspects: str
    duplicates: str
    max_drift: float
    on_drift: str
    duplicate_bits: int
    duplicate_cosine: float
    same_cosine: float
    far_below: float
    alike_above: float
    leak_above: float
    image_above: float
    seed: int
    task: str

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            require(value in allowed, f"{name} is '{value}': use one of {', '.join(allowed)}")
        for name in ("duplicate_cosine", "same_cosine", "far_below", "alike_above", "leak_above", "image_above"):
            value = getattr(self, name)
            require(-1 <= value <= 1, f"{name} is {value}: it is a cosine and must lie between -1 and 1")
        require_task(self.task)
        require(0 <= self.duplicate_bits <= 3, f"duplicate_bits is {self.duplicate_bits}: it must be 0 to 3")
        require(self.max_drift >= 0, f"max_drift is {self.max_drift}: it must not be negative (0 is no limit)")
        require(
            self.on_drift == "warn" or bool(self.max_drift),
            f"on_drift is '{self.on_drift}' without a limit: give max_drift above 0",
        )

    def limits(self, whole: bool) -> Limits:
        """What makes two images one photograph; of whole ones, which have no embeddings, the hashes say it."""
        cosines = HASH_ALONE if whole else (self.duplicate_cosine, self.same_cosine)
        return Limits(self.duplicate_bits, *cosines)
