"""Options of the evaluations and of the commands that use a model."""

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from kubeface.records.gate import AttributesGate, ClassesGate, RecognitionGate
from kubeface.runtime.options import Options, Seed, ShareBelowOne

Device = Literal["auto", "cpu", "cuda"]
Bootstrap = Annotated[int, Field(ge=100)]
RESERVED = ("heldout", "heldout_cross", "heldout_clean", "pairs", "lfw")  # names of sets
SMALLEST, LARGEST = 2, 112  # side of a low-resolution crop in pixels


class EvaluateOptions(Options):
    """What a recognition model is measured on, and when it is better."""

    degradation: str = "none"
    """Put on the crops of the target set: noise:60, lowres:14, blur:4, jpeg:5, dark, grey, masked, rotated:15 or
    none."""
    lfw_archive: str = ""
    """LFW's images (folder, tar or zip; path, s3:// or https://); empty for none."""
    lfw_pairs: str = ""
    """LFW's pairs.txt; goes with lfw_archive."""
    pairs: str = ""
    """Your own pairs of held-out images, as CSV with left, right (path below the data source, or image_id) and same;
    empty for none."""
    bin_sets: str = ""
    """Verification sets of insightface (lfw.bin, cfp_fp.bin, agedb_30.bin …), divided by spaces; empty for none."""
    probes: str = "all"
    """Degradations to measure both models under, divided by spaces; all for twelve of them, none for none."""
    fmr: Annotated[float, Field(gt=0, lt=1)] = 0.001
    """False match rate that the decision threshold is calibrated for, as a share."""
    gate: RecognitionGate = RecognitionGate()
    """When a model is better."""
    max_pairs: Annotated[int, Field(ge=1000)] = 1_000_000
    """Most pairs scored; beyond it impostor pairs are drawn at random."""
    bootstrap: Bootstrap = 1000
    """Samples of people for the intervals."""
    device: Device = "auto"
    """Where the models run: auto takes a GPU where there is one."""
    seed: Seed = 0
    """Seed of the drawing of pairs and samples."""
    superresolver: str = ""
    """What enlarges crops of degradation lowres: bicubic or a super-resolution network; empty for the one in the
    model's folder, or bicubic where there is none."""
    sizes: str = "10 14 20"
    """Sides in pixels that low-resolution crops are measured at, divided by spaces."""

    @field_validator("sizes")
    @classmethod
    def _sizes_are_sides(cls, text: str) -> str:
        words = text.split()
        if not words or not all(word.isdecimal() and SMALLEST <= int(word) <= LARGEST for word in words):
            raise ValueError(f"give sides in pixels, {SMALLEST} to {LARGEST}, divided by spaces, as 10 14 20")
        return text

    @field_validator("bin_sets")
    @classmethod
    def _bin_sets_differ(cls, text: str) -> str:
        names = [bin_set_name(uri) for uri in text.split()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"it names {name} twice: give each set once")
        return text

    @model_validator(mode="after")
    def _lfw_has_both_parts(self) -> Self:
        if bool(self.lfw_archive) != bool(self.lfw_pairs):
            raise ValueError("lfw_archive and lfw_pairs go together: give both or neither")
        return self

    def sides(self) -> list[int]:
        """The sizes as numbers, smallest first."""
        return sorted({int(word) for word in self.sizes.split()})

    def bin_sets_by_name(self) -> dict[str, str]:
        """Addresses of the .bin sets by name."""
        return {bin_set_name(uri): uri for uri in self.bin_sets.split()}


def bin_set_name(uri: str) -> str:
    """The name of a .bin set; one that has the name of another set is called <name>_bin."""
    name = PurePosixPath(uri.partition("#")[0]).stem
    return f"{name}_bin" if name in RESERVED else name


class EvaluateAttributesOptions(Options):
    """How a model of attributes is measured, and when it is better."""

    degradation: str = "none"
    """Put on the crops of the target set and of the validation images, as noise:60, or none."""
    gate: AttributesGate = AttributesGate()
    """When a model is better."""
    bootstrap: Bootstrap = 1000
    """Samples of people for the intervals."""
    device: Device = "auto"
    """Where the models run: auto takes a GPU where there is one."""
    seed: Seed = 0
    """Seed of the draws."""


class EvaluateClassesOptions(Options):
    """How a classifier is measured, and when it is better."""

    degradation: str = "none"
    """Put on the crops of the target set and of the validation images, as noise:60, or none."""
    refuse: ShareBelowOne = 0.05
    """Share of the validation images that may be refused as unknown."""
    gate: ClassesGate = ClassesGate()
    """When a model is better."""
    bootstrap: Bootstrap = 1000
    """Samples of images (of people where they are known) for the intervals."""
    device: Device = "auto"
    """Where the models run: auto takes a GPU where there is one."""
    seed: Seed = 0
    """Seed of the draws."""


class LfwOptions(Options):
    """Which model is measured on LFW, and how."""

    model: str = ""
    """Model folder, whose model.onnx is run; else a weights file, or empty for the backbone's published weights, for
    which torch is needed."""
    backbone: str = "sface"
    """Backbone of weights that are no model folder."""
    detector: Literal["mtcnn", "retinaface"] = "mtcnn"
    """Detector of the alignment."""
    degradation: str = "none"
    """Put on every aligned crop: noise:60, lowres:14, blur:4, jpeg:5, dark, grey, masked, rotated:15 or none."""
    device: Device = "auto"
    """Where the model runs: auto takes a GPU where there is one."""
    superresolver: str = "bicubic"
    """What enlarges crops of degradation lowres: bicubic or a super-resolution network."""
