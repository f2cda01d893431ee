"""Low resolution: what the evaluation measured at each size, as tables and charts of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubeface.metrics.figures import Gain
from kubeface.records.evaluation import RecognitionEvaluation
from kubeface.records.recognition_figures import (
    LfwSize,
    LowResolution,
    ResolutionPairs,
    ResolutionRow,
)
from kubeface.report.comparison import title
from kubeface.report.formatting import SHARP, percent, points, points_range, rate, size_name
from kubeface.report.line_charts import Interval, LineChart, size_chart
from kubeface.report.pictures import picture
from kubeface.report.run import Run

BICUBIC = "bicubic"
# What a low-resolution photograph is compared with, as evaluate calls it and as the page does.
KINDS = {"cross": "Low resolution against sharp photographs", "same": "Low resolution against low resolution"}
FACE = 336  # pixels of the longer side of a face's picture


@dataclass(frozen=True)
class LfwBySize:
    """LFW by size, with the names of its models, the sharp size last, and a chart of the accuracy."""

    names: Mapping[str, str]
    sizes: Sequence[LfwSize]
    chart: LineChart


@dataclass(frozen=True)
class ByResolution:
    """The section's content beside the figures of the evaluation.

    `meaning` is a sentence, empty where nothing could be measured; `charts` are of both kinds, none with one size;
    `faces`
    are pictures by size, and `columns` what they show from left to right; `fars` are those of the TAR.
    """

    meaning: str
    names: Mapping[str, str]
    kinds: Mapping[str, str]
    charts: Sequence[tuple[str, LineChart]]
    lfw: LfwBySize | None
    faces: Mapping[str, Sequence[str]]
    fars: str
    columns: str


def set_title(name: str, evaluation: RecognitionEvaluation) -> str:
    """The title of a set of held-out people."""
    if evaluation.low_resolution and evaluation.low_resolution.paired:
        low = "low resolution"
        if words := {"heldout": low, "heldout_cross": f"{low} against sharp", "heldout_clean": "sharp"}.get(name):
            return f"Held-out people, {words}"
    elif name == "heldout_cross":
        return f"Held-out people, {evaluation.degradation} against clean crops"
    return title(name, evaluation.degradation)


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
        names=names,
        kinds=KINDS,
        charts=[(KINDS[kind], _chart(rows, kind, names)) for kind in KINDS] if len(rows) > 1 else [],
        lfw=_lfw(evaluation, names),
        faces=_faces(run, rows),
        fars=" and ".join(dict.fromkeys(fars)),
        columns="bicubic, network, sharp" if network else "low resolution, sharp",
    )


def _model_names(origin: LowResolution, network: bool) -> dict[str, str]:
    baseline = "network" if network else "as taken" if origin.paired else BICUBIC
    return {
        **({BICUBIC: "baseline, bicubic"} if network else {}),
        "baseline": f"baseline, {baseline}",
        "finetuned": "fine-tuned" + (", network" if network else ""),
    }


def _pairs(row: ResolutionRow, kind: str) -> ResolutionPairs:
    return row.cross if kind == "cross" else row.same


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


def _chart(rows: Sequence[ResolutionRow], kind: str, names: Mapping[str, str]) -> LineChart:
    lines: dict[str, dict[str, Interval]] = {model: {} for model in names}
    for row in rows:
        pairs = _pairs(row, kind)
        over_bicubic = (pairs.gain_over_bicubic or {}).get("tar")
        for model in names:
            gain = over_bicubic if model == BICUBIC else pairs.gain["tar"]
            if gain is not None:
                lines[model][size_name(row.size)] = _interval(gain, "after" if model == "finetuned" else "before")
    return size_chart([size_name(row.size) for row in rows], lines, names, "true accept rate")


def _interval(gain: Gain, side: str) -> Interval:
    """A figure before or after, with its bounds; where it has none, itself."""
    value, low, high = (getattr(gain, f"{side}{bound}") for bound in ("", "_low", "_high"))
    return value, value if low is None else low, value if high is None else high


def _lfw(evaluation: RecognitionEvaluation, names: Mapping[str, str]) -> LfwBySize | None:
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
    champion = {"champion": "champion"} if sizes[0].champion else {}
    shown = {"baseline": names["baseline"], **champion, "finetuned": names["finetuned"]}
    lines: dict[str, dict[str, Interval]] = {model: {} for model in shown}
    for entry in sizes:
        for model, by_size in lines.items():
            if figures := getattr(entry, model):
                accuracy, error = figures.accuracy, figures.accuracy_standard_error
                by_size[size_name(entry.size)] = (accuracy, accuracy - error, min(1.0, accuracy + error))
    return LfwBySize(shown, sizes, size_chart([size_name(entry.size) for entry in sizes], lines, shown, "accuracy"))


def _faces(run: Run, rows: Sequence[ResolutionRow]) -> dict[str, list[str]]:
    paths = {row.size: sorted((run.evaluation_folder / "sizes" / row.size).glob("*.png")) for row in rows}
    return {size_name(size): [picture(path, FACE) for path in found] for size, found in paths.items() if found}
