"""Low resolution: what the evaluation measured at each size, as tables and charts of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubeface.metrics.figures import Gain, VerificationFigures
from kubeface.records.evaluation import RecognitionEvaluation
from kubeface.records.recognition_figures import (
    LfwSize,
    LowResolution,
    ResolutionFigures,
    ResolutionPairs,
    ResolutionRow,
    Resolutions,
)
from kubeface.report.comparison import title
from kubeface.report.formatting import DASH, SPACE, percent, points, points_range, rate
from kubeface.report.line_charts import Interval, LineChart, size_chart
from kubeface.report.pictures import picture
from kubeface.report.run import Run

SHARP, BICUBIC = "clean", "bicubic"
# What a low-resolution photograph is compared with, as evaluate calls it and as the page does.
KINDS = {"cross": "Low resolution against sharp photographs", "same": "Low resolution against low resolution"}
FIGURES = ("accuracy", "accuracy_fixed", "auc", "tar")  # of the table, in its order
GAINS = ("tar", "accuracy_fixed")  # of which the table has the change
FACE = 336  # pixels of the longer side of a face's picture


@dataclass(frozen=True)
class ModelRow:
    """A model's row of a table: figures, those with flip test-time augmentation, rank 1, and gains if it has any."""

    name: str
    cells: Sequence[str]
    flip: Sequence[str]
    rank1: str
    gains: Sequence[Gain]


@dataclass(frozen=True)
class SizeRows:
    """The rows of a size."""

    size: str
    images: int
    people: int
    models: Sequence[ModelRow]


@dataclass(frozen=True)
class SizeTable:
    """A table of one kind of pairs; `ranked` tells whether it has rank 1."""

    title: str
    ranked: bool
    groups: Sequence[SizeRows]


@dataclass(frozen=True)
class LfwRow:
    """LFW at a size: accuracy by model, the same with flip test-time augmentation, and the change."""

    size: str
    cells: Sequence[str]
    flip: Sequence[str]
    change: str


@dataclass(frozen=True)
class LfwTable:
    """LFW by size, as table and as chart."""

    models: Sequence[str]
    rows: Sequence[LfwRow]
    chart: LineChart


@dataclass(frozen=True)
class SizeFaces:
    """Pictures of some faces of a size."""

    size: str
    pictures: Sequence[str]


@dataclass(frozen=True)
class ByResolution:
    """The section's content.

    Args:
        meaning: what the figures mean, in a sentence; empty where nothing could be measured.
        tables: of both kinds of pairs.
        charts: title and chart of both kinds; empty with one size.
        lfw: LFW by size; None where it was not measured.
        faces: by size.
        fars: the false accept rates of the TAR.
        columns: what the pictures of a face show, from left to right.
        left_out: sizes with too few images.
    """

    meaning: str
    tables: Sequence[SizeTable]
    charts: Sequence[tuple[str, LineChart]]
    lfw: LfwTable | None
    faces: Sequence[SizeFaces]
    fars: str
    columns: Sequence[str]
    left_out: str


def set_title(name: str, evaluation: RecognitionEvaluation) -> str:
    """The title of a set of held-out people."""
    if evaluation.low_resolution and evaluation.low_resolution.paired:
        low = "low resolution"
        if words := {"heldout": low, "heldout_cross": f"{low} against sharp", "heldout_clean": "sharp"}.get(name):
            return f"Held-out people, {words}"
    elif name == "heldout_cross":
        return f"Held-out people, {evaluation.degradation} against clean crops"
    return title(name, evaluation.degradation)


def size_name(size: str) -> str:
    """A size of a crop in words."""
    return "sharp" if size == SHARP else f"{size}{SPACE}pixels"


def by_resolution(run: Run, evaluation: RecognitionEvaluation) -> ByResolution | None:
    """The section's content; None where low resolution was not measured."""
    if evaluation.resolutions is None or evaluation.low_resolution is None:
        return None
    rows = evaluation.resolutions.rows
    network = evaluation.low_resolution.superresolver != BICUBIC and not evaluation.low_resolution.paired
    names = _model_names(evaluation.low_resolution, network)
    fars = (rate(_pairs(row, kind).far) for row in rows for kind in KINDS)
    return ByResolution(
        meaning=_meaning(rows),
        tables=[
            SizeTable(words, kind == "cross", [_size_rows(row, kind, names) for row in rows])
            for kind, words in KINDS.items()
        ],
        charts=[(KINDS[kind], _chart(rows, kind, names)) for kind in KINDS] if len(rows) > 1 else [],
        lfw=_lfw(evaluation, names),
        faces=_faces(run, rows),
        fars=" and ".join(dict.fromkeys(fars)),
        columns=[*(["bicubic", "network"] if network else ["low resolution"]), "sharp"],
        left_out=_left_out(evaluation.resolutions),
    )


def _model_names(origin: LowResolution, network: bool) -> dict[str, str]:
    """What the models are called; `network` tells whether a super-resolution network enlarges."""
    baseline = "network" if network else "as taken" if origin.paired else BICUBIC
    return {
        **({BICUBIC: "baseline, bicubic"} if network else {}),
        "baseline": f"baseline, {baseline}",
        "finetuned": "fine-tuned" + (", network" if network else ""),
    }


def _left_out(resolutions: Resolutions) -> str:
    return ", ".join(f"{size_name(entry.size)} ({entry.images})" for entry in resolutions.left_out)


def _pairs(row: ResolutionRow, kind: str) -> ResolutionPairs:
    return row.cross if kind == "cross" else row.same


def _figures(pairs: ResolutionPairs, model: str) -> ResolutionFigures | None:
    """A model's figures; None where it was not measured."""
    return {"baseline": pairs.baseline, "finetuned": pairs.finetuned, BICUBIC: pairs.bicubic}[model]


def _meaning(rows: Sequence[ResolutionRow]) -> str:
    """What the smallest size and the sharp photographs show, in a sentence; empty where nothing could be measured."""
    smallest = next((row for row in rows if row.size != SHARP), None)
    if smallest is None:
        return ""
    gain, far = smallest.cross.gain["tar"], smallest.cross.far
    low, high = gain.gain_low, gain.gain_high
    verdict = "a gain" if low > 0 else "a loss" if high < 0 else "no difference that these people are enough to prove"
    meaning = (
        f"Of two photographs of one person, one of {size_name(smallest.size)} and a sharp one, the fine-tuned model "
        f"recognises {percent(gain.after)} where it takes {rate(far)} of strangers for one person; the baseline "
        f"{percent(gain.before)}. That is {points(gain.gain)} points ({points_range(low, high)}): {verdict}."
    )
    sharp = next((row.same.gain["tar"] for row in rows if row.size == SHARP), None)
    if sharp is None:
        return meaning
    between = points_range(sharp.gain_low, sharp.gain_high)
    return f"{meaning} On sharp photographs the change is {points(sharp.gain)} points ({between})."


def _size_rows(row: ResolutionRow, kind: str, names: Mapping[str, str]) -> SizeRows:
    """A size's rows of a table, one for each model."""
    pairs = _pairs(row, kind)
    models = []
    for model, name in names.items():
        figures = _figures(pairs, model)
        if figures:
            shown = name.partition(",")[0] if row.size == SHARP else name  # nothing enlarges a sharp one
            rank1 = row.rank1[model]
            models.append(
                ModelRow(
                    shown,
                    [_cell(figures, figure) for figure in FIGURES],
                    [_cell(figures.flip or figures, figure) for figure in ("accuracy_fixed", "tar")],
                    DASH if rank1 is None else f"{100 * rank1:.2f}",
                    [pairs.gain[figure] for figure in GAINS] if model == "finetuned" else [],
                )
            )
    return SizeRows(size_name(row.size), row.images, row.people, models)


def _cell(figures: ResolutionFigures | VerificationFigures, name: str) -> str:
    """A figure in percent; accuracy with its standard error."""
    error = f" ± {100 * figures.accuracy_standard_error:.2f}" if name == "accuracy" else ""
    return f"{100 * getattr(figures, name):.2f}{error}"


def _chart(rows: Sequence[ResolutionRow], kind: str, names: Mapping[str, str]) -> LineChart:
    """TAR by size, with the interval of each model."""
    lines: dict[str, dict[str, Interval]] = {model: {} for model in names}
    for row in rows:
        pairs = _pairs(row, kind)
        over_bicubic = (pairs.gain_over_bicubic or {}).get("tar")
        for model in names:
            gain = over_bicubic if model == BICUBIC else pairs.gain["tar"]
            if gain is not None:
                lines[model][size_name(row.size)] = _after(gain) if model == "finetuned" else _before(gain)
    return size_chart([size_name(row.size) for row in rows], lines, names, "true accept rate")


def _before(gain: Gain) -> Interval:
    return gain.before, _bound(gain.before_low, gain.before), _bound(gain.before_high, gain.before)


def _after(gain: Gain) -> Interval:
    return gain.after, _bound(gain.after_low, gain.after), _bound(gain.after_high, gain.after)


def _bound(bound: float | None, value: float) -> float:
    return value if bound is None else bound


def _lfw(evaluation: RecognitionEvaluation, names: Mapping[str, str]) -> LfwTable | None:
    """LFW at each size; None where it was not measured."""
    if evaluation.lfw is None or not evaluation.lfw.sizes:
        return None
    sharp = LfwSize(  # the set itself is measured on the crops as they are
        size=SHARP,
        baseline=evaluation.baseline["lfw"],
        finetuned=evaluation.finetuned["lfw"],
        champion=evaluation.champion.get("lfw"),
    )
    sizes = [*evaluation.lfw.sizes, sharp]
    models = ["baseline", *(["champion"] if sizes[0].champion else []), "finetuned"]
    shown = {"champion": "champion"} | dict(names)
    lines: dict[str, dict[str, Interval]] = {model: {} for model in models}
    rows = []
    for entry in sizes:
        figures = [figures for model in models if (figures := getattr(entry, model))]
        for model, measured in zip(models, figures, strict=True):
            accuracy, error = measured.accuracy, measured.accuracy_standard_error
            lines[model][size_name(entry.size)] = (accuracy, accuracy - error, min(1.0, accuracy + error))
        rows.append(
            LfwRow(
                size_name(entry.size),
                [_cell(measured, "accuracy") for measured in figures],
                [_cell(measured.flip or measured, "accuracy") for measured in figures],
                points(entry.finetuned.accuracy - entry.baseline.accuracy),
            )
        )
    chart = size_chart([size_name(entry.size) for entry in sizes], lines, shown, "accuracy")
    return LfwTable([shown[model] for model in models], rows, chart)


def _faces(run: Run, rows: Sequence[ResolutionRow]) -> list[SizeFaces]:
    """Pictures of some faces at each size."""
    folder = run.evaluation_folder / "sizes"
    return [
        SizeFaces(size_name(row.size), [picture(path, FACE) for path in sorted(paths)])
        for row in rows
        if (paths := list((folder / row.size).glob("*.png")))
    ]
