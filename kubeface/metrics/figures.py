"""Types of the figures that the metrics return, without numeric packages, so that reading a record is light."""

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Sparse(BaseModel):
    """A model that leaves out of JSON what is None by default; a required field may say None."""

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            name: value for name, value in serialize(self).items() if value is not None or fields[name].is_required()
        }


class Figures(Sparse):
    """Figures of a measurement: frozen and finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class PairFigures(Figures):
    """Figures over pairs of images; rates are shares from 0 to 1."""

    auc: float
    """Area under the ROC curve."""
    eer: float
    """Equal error rate."""
    tar_at_far: dict[str, float]
    """True accept rate by false accept rate (as text); only rates that the impostor pairs support."""
    genuine_pairs: int
    """Pairs of one person."""
    impostor_pairs: int
    """Pairs of two people."""


class VerificationFigures(PairFigures):
    """Figures of one model on one set of pairs."""

    accuracy: float
    """Mean over the folds, each at the threshold that is best on the others."""
    accuracy_standard_error: float
    """Over the folds."""
    threshold: float
    """Mean of the folds' thresholds."""
    flip: "VerificationFigures | None" = None
    """The same with flip test-time augmentation."""


class Gain(Figures):
    """A figure of two models and their difference, with interval bounds."""

    before: float
    """Of the model compared with."""
    after: float
    """Of the fine-tuned model."""
    gain: float
    """after − before."""
    gain_low: float
    gain_high: float
    before_low: float | None = None
    before_high: float | None = None
    after_low: float | None = None
    after_high: float | None = None


Gains = dict[str, Gain]  # by figure: auc, tar, accuracy …


class RocPoints(Figures):
    """Points of a ROC curve, from the highest threshold to the lowest; lists of equal length."""

    fmr: list[float]
    """False match rates."""
    tmr: list[float]
    """True match rates."""
    threshold: list[float]
    """Scores above which a pair matches."""


class ScoreHistogram(Figures):
    """Genuine and impostor pairs by score."""

    edges: list[float]
    """Borders of the bins, one more than there are bins."""
    genuine: list[int]
    """Pairs of one person in each bin."""
    impostor: list[int]
    """Pairs of two people in each bin."""


class ThresholdRow(Figures):
    """Error rates and accuracy at one threshold."""

    threshold: float
    """Score above which a pair matches."""
    fmr: float
    """False match rate."""
    fnmr: float
    """False non-match rate."""
    accuracy: float
    """Share of correct decisions."""


class McNemar(Figures):
    """McNemar's exact test of two models' decisions on the same pairs."""

    only_before: int
    """Pairs that only the earlier model decides correctly."""
    only_after: int
    """Pairs that only the later model decides correctly."""
    p: float
    """Two-sided p-value; 1 where the models decide alike."""


class PairCounts(Figures):
    """Numbers of pairs by kind."""

    genuine: int
    """Pairs of one person."""
    impostor: int
    """Pairs of two people."""


class PairedTest(Figures):
    """How the decisions of two models on the same pairs differ."""

    mcnemar: McNemar
    """Whether the difference may be chance."""
    forgotten: PairCounts
    """Pairs decided correctly only before."""
    learned: PairCounts
    """Pairs decided correctly only after."""


class HardPair(Figures):
    """A pair of images, by name, that the later model finds hard."""

    left: str
    right: str
    left_identity: str
    """Person on the left image; empty where unknown."""
    right_identity: str
    """Person on the right image; empty where unknown."""
    before: float
    """Similarity by the earlier model."""
    after: float
    """Similarity by the later model."""


class ForgottenPair(HardPair):
    """A pair that was decided correctly before and is not any more."""

    set: str
    """Name of the set."""
    kind: str
    """genuine or impostor."""
    threshold_before: float
    """Threshold that the earlier model's decision was made at."""
    threshold_after: float
    """Threshold that the later model's decision was made at."""

    @property
    def margin_fall(self) -> float:
        """By how much the margin to the threshold fell."""
        change = (self.before - self.threshold_before) - (self.after - self.threshold_after)
        return change if self.kind == "genuine" else -change


class Calibration(Figures):
    """A threshold for a wanted false match rate, and the curve that turns scores into probabilities."""

    asked_fmr: float
    """False match rate that was asked for."""
    fmr: float
    """False match rate that the threshold holds for: the asked one, or the least that the pairs support."""
    supported: bool
    """Whether the impostor pairs support the asked rate."""
    threshold: float
    """Similarity (cosine) above which a pair matches."""
    threshold_low: float
    threshold_high: float
    fnmr: float
    """False non-match rate at the threshold."""
    impostor_pairs: int
    """Pairs of two people."""
    genuine_pairs: int
    """Pairs of one person."""
    people: int
    """People in the pairs."""
    slope: float
    """Of the logistic curve over the score."""
    intercept: float
    """Of the logistic curve over the score."""


class OpenSetFigures(Figures):
    """Identification where some people are not enrolled; means over several draws of who is."""

    enrolled: int
    """People enrolled."""
    known_probes: int
    """Probes of enrolled people."""
    unknown_probes: int
    """Probes of other people."""
    fnir_at_fpir: dict[str, float]
    """False negative by false positive identification rate (as text); only rates that the probes support."""


class IdentificationFigures(Figures):
    """Closed-set and open-set identification rates; None with too few people in the gallery."""

    gallery: int
    """People enrolled in the closed set."""
    probes: int
    """Images searched for in the closed set."""
    rank1: float | None
    """Share of probes whose person comes first."""
    rank1_low: float | None
    rank1_high: float | None
    rank5: float | None
    """Share of probes whose person is among the first five."""
    rank5_low: float | None
    rank5_high: float | None
    open: OpenSetFigures
    """Where some people are not enrolled."""
