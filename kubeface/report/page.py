"""The report's page: what the template is given, and its rendering."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import assert_never

from jinja2 import Environment

from kubeface.records.evaluation import AttributesEvaluation, ClassesEvaluation, RecognitionEvaluation
from kubeface.records.passport import Passport
from kubeface.records.summary import SummaryRecord
from kubeface.report import attributes, classes, formatting, recognition
from kubeface.report.axes import FRAME
from kubeface.report.bar_charts import PARTS, histogram, identity_panels
from kubeface.report.comparison import Content, Section, interval_name, known_people, over_champion
from kubeface.report.line_charts import LineChart, history_chart
from kubeface.report.pictures import crops, picture
from kubeface.report.run import MOST_REJECTED, RejectedImage, Run, Training
from kubeface.runtime.page_links import page_environment
from kubeface.tables.table import Table

SAMPLES = 24  # aligned faces shown
MOST_BARS = 60  # identities that get a bar each; of more there is a histogram
FIGURE_NAMES = {"auc": "AUC"}  # of a training; others are capitalised
MODELS = {"baseline": "baseline", "champion": "champion", "finetuned": "fine-tuned", "scratch": "from scratch"}
FILTERS = (
    formatting.percent,
    formatting.rate,
    formatting.points,
    formatting.score,
    formatting.size_name,
    formatting.ratio,
    formatting.probability,
    formatting.plain,
    formatting.style,
)


@dataclass(frozen=True)
class Kept:
    """Images in, kept and left out by a step, with the reasons."""

    step: str
    rows_in: int
    rows_out: int
    rejected: int
    reasons: Mapping[str, int]


def render(run: Run, summary: SummaryRecord) -> str:
    """The page as HTML, with everything it shows inside it.

    Raises:
        KubefaceError: a picture is missing or cannot be decoded.
    """
    content = content_of(run)
    values = _shared_values(run, summary, content) | _images(run)
    return _environment().get_template("template.html").render(**values, **content.values)


@cache
def _environment() -> Environment:
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {function.__name__: function for function in FILTERS}
    return environment


def content_of(run: Run) -> Content:
    """What the task of a run puts on the page."""
    match run.evaluation:
        case RecognitionEvaluation():
            return recognition.content(run, run.evaluation)
        case AttributesEvaluation():
            return attributes.content(run, run.evaluation)
        case ClassesEvaluation():
            return classes.content(run, run.evaluation)
        case _ as unreachable:
            assert_never(unreachable)


def _shared_values(run: Run, summary: SummaryRecord, content: Content) -> dict[str, object]:
    """What the template shows of every task, pictures apart."""
    many = len(run.people) > MOST_BARS
    return {
        "run": run,
        "verdict": summary.verdict,
        "content": content,
        "wording": content.wording,
        "shown": _links(run, content),
        "interval": interval_name(run.evaluation),
        "passport": _passport(run.passport) if run.passport else {},
        "evaluation": run.evaluation,
        "settings": summary.settings,
        "versions": summary.versions,
        "frame": FRAME,
        "parts": PARTS,
        "models": MODELS,
        "over_champion": over_champion(run.evaluation),
        "known_people": known_people(run.evaluation),
        "kept": _kept(run),
        "panels": [] if many else identity_panels(run.people),
        "histogram": histogram(run.people) if many else None,
        "totals": {part: sum(images[part] for images in run.people.values()) for part in PARTS},
        "curves": _curves(run.training, content.charts),
        "scratch_curves": _curves(run.scratch, content.charts) if run.scratch else [],
    }


def _images(run: Run) -> dict[str, object]:
    """The pictures that the template shows of every task, and the rejected images."""
    names = sample_faces(run.aligned)

    def has_crop(image: RejectedImage) -> bool:
        return image.step == "filter"

    pictures = crops(run.aligned, {*names, *(image.source for image in run.rejected if has_crop(image))})
    return {
        "samples": [picture(path) for path in sorted((run.evaluation_folder / "samples").glob("*.png"))],
        "faces": [{"identity": identity, "picture": pictures[source]} for source, identity in names.items()],
        "most_rejected": MOST_REJECTED,
        "rejected": run.rejected,
        "rejected_crops": [
            {"image": image, "picture": pictures[image.source]}
            for image in run.rejected
            if has_crop(image) and image.source in pictures
        ],
    }


def sample_faces(aligned: Table, most: int = SAMPLES) -> dict[str, str]:
    """Source and identity of up to `most` images, evenly over the table, each identity at most once."""
    chosen: dict[str, str] = {}
    first: dict[str, str] = {}
    number = 0
    for rows in aligned.row_groups(["source", "identity"]):
        for row in rows:
            first.setdefault(row["identity"], row["source"])
            due = len(chosen) < most and number >= len(chosen) * aligned.rows // most
            if due and row["identity"] not in chosen:
                chosen[row["identity"]] = row["source"]
            number += 1
    # Where few identities are left towards the end, those not shown yet fill up.
    rest = [name for name in first if name not in chosen][: most - len(chosen)]
    return {source: name for name, source in (chosen | {name: first[name] for name in rest}).items()}


def _links(run: Run, content: Content) -> dict[str, str]:
    """The sections of the page by id with the words of their links; those without content are left out."""
    wording = content.wording
    sections = [
        *content.sections,
        Section("faces", "Faces" if wording.crop == "Aligned face" else wording.crops),
        Section("kept", "Kept and rejected"),
        Section("classes", f"Images per {wording.one}"),
        Section("training", "Training"),
        Section("settings", "Settings"),
        Section("passport", "Passport", run.passport is not None),
    ]
    return {section.id: section.link for section in sections if section.present}


def _curves(training: Training, figures: Sequence[str]) -> list[tuple[str, LineChart]]:
    """The charts of a training by figure; one that was never measured is left out."""
    charts = [(figure, history_chart(training.history, figure)) for figure in figures if training.history]
    return [(FIGURE_NAMES.get(figure, figure.capitalize()), chart) for figure, chart in charts if chart.lines]


def _passport(passport: Passport) -> dict[str, Mapping[str, object]]:
    """The passport in tables: single values under `run`, and each object on its own; the page shows its metrics."""
    values = passport.model_dump(mode="json", exclude={"metrics"})
    single = {name: value for name, value in sorted(values.items()) if not isinstance(value, dict | list)}
    tables: dict[str, Mapping[str, object]] = {"run": single}
    for name in sorted(values.keys() - single.keys()):
        if values[name]:
            tables[name] = dict(sorted(formatting.flattened(values[name]).items()))
    return tables


def _kept(run: Run) -> list[Kept]:
    reasons = run.data.rejected | {"audit": run.findings.counts.reasons, "split": run.excluded}
    return [
        Kept(step, run.steps[step].rows_in, run.steps[step].rows_out, sum(counts.values()), counts)
        for step, counts in reasons.items()
    ]
