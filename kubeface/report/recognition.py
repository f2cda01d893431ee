"""The page of recognition: figures of pairs, curves, thresholds, hardest and forgotten pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kubeface.metrics.figures import (
    ForgottenPair,
    Gains,
    HardPair,
    PairedTest,
    RocPoints,
    ThresholdRow,
    VerificationFigures,
)
from kubeface.records.evaluation import RecognitionEvaluation
from kubeface.records.recognition_figures import HardestPairs
from kubeface.report.comparison import (
    Content,
    FigureRow,
    MeasuredSet,
    Section,
    Wording,
    compared_rows,
    figure_row,
)
from kubeface.report.formatting import enrolment
from kubeface.report.line_charts import LineChart, det_chart, roc_chart, score_charts
from kubeface.report.pictures import picture
from kubeface.report.resolutions import by_resolution, set_title
from kubeface.report.run import Run

WORDING = Wording(crops="Aligned faces", crop="Aligned face", one="identity", many="identities", held="held out")
TITLES = {
    "lfw": "Labeled Faces in the Wild",
    "pairs": "Your own pairs",
    "cfp_fp": "CFP-FP",
    "agedb_30": "AgeDB-30",
    "calfw": "CALFW",
    "cplfw": "CPLFW",
}
MOST_FORGOTTEN = 12  # forgotten pairs shown
# Fewest genuine pairs below the threshold that support a rate; as for impostors in metrics.
LEAST_PAIRS = 3


@dataclass(frozen=True, kw_only=True)
class PairSet(MeasuredSet):
    """A set of pairs with the numbers of both kinds; curves are None where the pairs are too few, the error rates by
    threshold
    (`sweep`) and the histograms empty where there are none.
    """

    genuine: int
    impostor: int
    paired: PairedTest | None
    roc: LineChart | None
    det: LineChart | None
    scores: Mapping[str, LineChart]
    sweep: Mapping[str, Sequence[ThresholdRow]]


@dataclass(frozen=True)
class PairCard:
    """A pair with person and picture of both sides (the image's name where the person is unknown), and the thresholds
    of the
    starting and the fine-tuned model; `set_title` is empty where the page says elsewhere which set it is of.
    """

    pair: HardPair
    kind: str
    faces: Sequence[tuple[str, str]]
    thresholds: tuple[float, float]
    set_title: str = ""


def title(name: str, evaluation: RecognitionEvaluation) -> str:
    """The title of a set of pairs."""
    return TITLES.get(name) or set_title(name, evaluation)


def content(run: Run, evaluation: RecognitionEvaluation) -> Content:
    """What the page shows of a recognition model, from the figures to forgotten pairs."""
    sets = [_measured_set(run, evaluation, name) for name in evaluation.finetuned]
    threshold = bool(evaluation.calibration) or any(measured.scores or measured.sweep for measured in sets)
    sections = [
        Section("figures", "Before and after"),
        Section("roc", "ROC and DET", any(measured.roc for measured in sets)),
        Section("threshold", "Threshold", threshold),
        Section("degradation", "Degradation"),
        Section("resolutions", "By resolution", evaluation.resolutions is not None),
        Section("probes", "Probes", bool(evaluation.probes)),
        Section("groups", "Groups", bool(evaluation.groups)),
        Section("identification", "Identification", bool(evaluation.identification)),
        Section("gallery", "Old gallery", evaluation.compatibility is not None),
        Section("pairs", "Hardest pairs"),
        Section("forgotten", "Forgotten", bool(evaluation.forgotten or evaluation.paired)),
    ]
    champion = {"champion": "champion"} if any("champion" in curves for curves in run.roc.values()) else {}
    values = {
        "sets": sets,
        "titles": {name: title(name, evaluation) for name in evaluation.identification},
        "drawn": {"baseline": "baseline"} | champion | {"finetuned": "fine-tuned"},
        "enrolment": enrolment(evaluation.compatibility) if evaluation.compatibility else "",
        "hardest": _hardest(run, evaluation, evaluation.hardest, "heldout"),
        "hardest_cross": _hardest(run, evaluation, evaluation.hardest_cross, "heldout_cross")
        if evaluation.hardest_cross
        else {},
        "forgotten": [_forgotten(run, evaluation, pair) for pair in evaluation.forgotten[:MOST_FORGOTTEN]],
        "calibrated_on": title(evaluation.calibrated_on, evaluation) if evaluation.calibrated_on else "",
        "resolution": by_resolution(run, evaluation),
    }
    return Content("recognition.html", WORDING, sections, values)


def _measured_set(run: Run, evaluation: RecognitionEvaluation, name: str) -> PairSet:
    after, far = evaluation.finetuned[name], evaluation.gate_far

    def rows(before: VerificationFigures, gains: Gains) -> list[FigureRow]:
        return _rows(before, after, gains, far)

    table, others = compared_rows(evaluation, name, rows)
    roc, det = _curves(run.roc.get(name), after)
    histograms = evaluation.histograms.get(name)
    thresholds = {model: calibration.threshold for model, calibration in evaluation.calibration.items()}
    return PairSet(
        name=name,
        title=title(name, evaluation),
        genuine=after.genuine_pairs,
        impostor=after.impostor_pairs,
        rows=table,
        others=others,
        flip=True,
        paired=evaluation.paired.get(name),
        roc=roc,
        det=det,
        scores=score_charts(histograms, thresholds) if histograms else {},
        sweep=run.thresholds.get(name, {}),
    )


def _curves(
    roc: Mapping[str, RocPoints] | None, figures: VerificationFigures
) -> tuple[LineChart | None, LineChart | None]:
    """ROC and DET, each None where the pairs are too few to draw it."""
    if not roc:
        return None, None
    lowest = min(map(float, figures.tar_at_far), default=0.1)
    floor = LEAST_PAIRS / figures.genuine_pairs
    return roc_chart(roc, lowest), det_chart(roc, lowest, floor) if floor < 1 else None


def _rows(before: VerificationFigures, after: VerificationFigures, gains: Gains, gate_far: float) -> list[FigureRow]:
    """Rows of a set's table; the first three are tiles too."""
    sides = (before, after, before.flip or before, after.flip or after)
    rows = []
    for key, label in (("accuracy", "Accuracy"), ("auc", "AUC"), ("eer", "EER")):
        values = [getattr(side, key) for side in sides]
        errors = [side.accuracy_standard_error if key == "accuracy" else None for side in sides]
        rows.append(replace(figure_row(label, values, errors, gains.get(key), key == "eer"), tile=True))
    for far in sorted(after.tar_at_far, key=float, reverse=True):
        gain = gains.get("tar") if float(far) == gate_far else None
        rows.append(figure_row(f"TAR@FAR={far}", [side.tar_at_far[far] for side in sides], [None] * 4, gain))
    return rows


def _hardest(
    run: Run, evaluation: RecognitionEvaluation, hardest: HardestPairs, name: str
) -> dict[str, list[PairCard]]:
    """The hardest pairs of a set by kind, each model at its own threshold."""
    thresholds = (evaluation.baseline[name].threshold, evaluation.finetuned[name].threshold)
    pairs = {"genuine": hardest.genuine, "impostor": hardest.impostor}
    return {kind: [_card(run, pair, kind, thresholds) for pair in pairs[kind]] for kind in pairs}


def _forgotten(run: Run, evaluation: RecognitionEvaluation, pair: ForgottenPair) -> PairCard:
    """A pair that the starting model decides correctly and the fine-tuned model does not."""
    card = _card(run, pair, pair.kind, (pair.threshold_before, pair.threshold_after))
    return replace(card, set_title=title(pair.set, evaluation))


def _card(run: Run, pair: HardPair, kind: str, thresholds: tuple[float, float]) -> PairCard:
    # Names in LFW have the person's folder before a slash; .bin sets know no people.
    sides = ((pair.left, pair.left_identity), (pair.right, pair.right_identity))
    files = [run.evaluation_folder / "pairs" / f"{image.replace('/', '__')}.png" for image, _ in sides]
    faces = [(identity or image, picture(file)) for (image, identity), file in zip(sides, files, strict=True)]
    return PairCard(pair, kind, faces, thresholds)
