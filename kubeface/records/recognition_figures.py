"""Parts of a recognition model's evaluation: groups, compatibility, probes, resolutions, hardest pairs, LFW."""

from kubeface.metrics.figures import Figures, Gains, HardPair, VerificationFigures


class HardestPairs(Figures):
    """The pairs that the fine-tuned model finds hardest."""

    genuine: list[HardPair]
    """The least similar pairs of one person."""
    impostor: list[HardPair]
    """The most similar pairs of two people."""


class ErrorRates(Figures):
    """False match and false non-match rate, or ratios of them; None where the pairs do not support one."""

    fmr: float | None
    fnmr: float | None


class GroupErrors(Figures):
    """Errors within one group of people."""

    group: str
    people: int
    images: int
    genuine: int
    impostor: int
    """Pairs of two people of the group."""
    baseline: ErrorRates
    finetuned: ErrorRates
    fnmr_change: float | None
    """False non-match rate of the fine-tuned model less that of the starting model."""
    fnmr_change_low: float | None
    fnmr_change_high: float | None


class GroupColumn(Figures):
    """Errors by group of one group column."""

    rows: list[GroupErrors]
    worst_ratio: dict[str, ErrorRates]
    """Largest over smallest rate of the groups, by model."""


class Compatibility(Figures):
    """Whether a gallery enrolled with the old model can be searched with the new one."""

    old: str
    """The old model: champion or baseline."""
    comparable: bool
    reason: str | None = None
    threshold: float
    """The old model's threshold, which mixed pairs are decided at."""
    old_with_old: float
    """Share of genuine pairs that match, both images embedded by the old model."""
    new_with_new: float
    """Share of genuine pairs that match, both images embedded by the new model at its own threshold."""
    old_gallery_new_probe: float | None = None
    """Share of genuine pairs that match, one image embedded by each model."""
    old_gallery_new_probe_low: float | None = None
    old_gallery_new_probe_high: float | None = None
    match_change: float | None = None
    """old_gallery_new_probe less old_with_old."""
    match_change_low: float | None = None
    match_change_high: float | None = None
    false_matches: float | None = None
    """Share of impostor pairs that match, one image embedded by each model."""
    genuine_pairs: int
    people: int
    gallery_still_matched: float | None = None
    """Share of people whose enrolled image (old) matches the median of their others (new)."""
    stays: bool


class ProbeFigures(Figures):
    """Figures of one model under one degradation."""

    accuracy: float
    auc: float
    tar: float
    """True accept rate at the row's false accept rate."""


class ProbeRow(Figures):
    """Both models under one degradation."""

    probe: str
    """The degradation, clean for none."""
    far: float
    baseline: ProbeFigures
    finetuned: ProbeFigures
    gain: Gains


class LowResolution(Figures):
    """Where the low-resolution faces come from."""

    paired: bool
    """Whether cameras took them (pairs of a low and a high image); else they are made of the crops."""
    alone: int
    """Images left out since they have no partner in the other resolution."""
    superresolver: str
    """What enlarges low-resolution crops: bicubic or the name of a network."""


class ResolutionFigures(Figures):
    """Figures of one model on the pairs of one size."""

    accuracy: float
    accuracy_standard_error: float
    accuracy_fixed: float
    tmr_fixed: float
    fmr_fixed: float
    auc: float
    tar: float
    """True accept rate at the pairs' false accept rate."""
    flip: "ResolutionFigures | None" = None


class ResolutionPairs(Figures):
    """One kind of pairs of one size, by model."""

    pairs: int
    far: float
    baseline: ResolutionFigures
    finetuned: ResolutionFigures
    bicubic: ResolutionFigures | None = None
    """Starting model on crops enlarged by bicubic interpolation, where a network enlarged the others."""
    gain: Gains
    gain_over_bicubic: Gains | None = None


class ResolutionRow(Figures):
    """Figures of one size."""

    size: str
    """Side of the crops in pixels, or clean."""
    images: int
    people: int
    probes: int
    """Images searched for in a gallery of one sharp image a person."""
    rank1: dict[str, float | None]
    """Share of them whose person comes first, by model; None without a probe."""
    cross: ResolutionPairs
    """Low-resolution images with sharp ones."""
    same: ResolutionPairs
    """Low-resolution images with each other."""


class LeftOutSize(Figures):
    """A size with too few images to measure."""

    size: str
    images: int


class Resolutions(Figures):
    """Figures by resolution at a threshold that stays fixed."""

    fmr: float
    """False match rate that the fixed thresholds were set for."""
    threshold: float
    """The starting model's threshold on sharp images."""
    threshold_flip: float
    rows: list[ResolutionRow]
    """By size, sharp images last."""
    left_out: list[LeftOutSize]


class LfwSize(Figures):
    """LFW at one resolution, by model."""

    size: str
    baseline: VerificationFigures
    finetuned: VerificationFigures
    champion: VerificationFigures | None = None


class LfwRecord(Figures):
    """What of LFW was measured."""

    pairs: int
    images: int
    detector: str
    fallback: list[str]
    """Images without a face, of which a centre crop was taken."""
    sizes: list[LfwSize] | None = None
