"""The report's page: what the template is given, and its rendering."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from kubeface.faces.images import data_uri, decode_rgb
from kubeface.records.summary import SummaryRecord
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION
from kubeface.report import attributes, classes, recognition, words
from kubeface.report.figures import FRAME, PARTS, LineChart, histogram, history_chart, identity_panels
from kubeface.report.measured import TaskPage, as_jpeg, interval_name, over_champion, picture
from kubeface.report.run import Run, Training
from kubeface.tables.table import Table

PAGES: dict[str, TaskPage] = {
    RECOGNITION: recognition.PAGE,
    ATTRIBUTES: attributes.PAGE,
    CLASSES: classes.PAGE,
}
SAMPLES = 24  # aligned faces shown
REJECTED = 12  # rejected images of a step that are listed
MOST_BARS = 60  # identities that get a bar each; of more there is a histogram
FIGURE_NAMES = {"auc": "AUC"}  # of a training; others are written as they are called
CROP = 112  # pixels of a crop's longer side; larger ones are made smaller
FILTERS = (
    words.percent,
    words.rate,
    words.points,
    words.score,
    words.ratio,
    words.probability,
    words.plain,
    words.style,
)


def render(run: Run, summary: SummaryRecord) -> str:
    """The page as HTML, with everything it shows inside it.

    Args:
        run: the run to report.
        summary: its figures.

    Raises:
        KubefaceError: a picture is missing or cannot be decoded.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    task = PAGES[run.task]
    evaluation = task.absent | run.evaluation
    content = task.content(run, evaluation)
    rejected = run.rejected
    names = sample_faces(run.aligned)
    pictures = _crops(run.aligned, {*names, *(row["source"] for row in rejected if row["step"] == "filter")})
    many = len(run.people) > MOST_BARS
    return environment.get_template("template.html").render(
        run=run,
        task=task,
        words=task.words,
        shown=_shown(run, task.words, content.sections),
        interval=interval_name(evaluation),
        passport=_passport(run.passport),
        evaluation=evaluation,
        verdict=summary.verdict,
        settings=summary.settings,
        versions=summary.versions,
        frame=FRAME,
        parts=PARTS,
        models={"baseline": "baseline", "champion": "champion", "finetuned": "fine-tuned", "scratch": "from scratch"},
        over_champion=over_champion(evaluation),
        samples=[picture(path) for path in sorted((run.evaluation_folder / "samples").glob("*.png"))],
        faces=[{"identity": identity, "picture": pictures[source]} for source, identity in names.items()],
        kept=_kept(run),
        most_rejected=REJECTED,
        rejected=[
            row | {"picture": pictures.get(row["source"]) if row["step"] == "filter" else None} for row in rejected
        ],
        panels=[] if many else identity_panels(run.people),
        histogram=histogram(run.people) if many else None,
        totals={part: sum(images[part] for images in run.people.values()) for part in PARTS},
        curves=_curves(run.training, content.charts),
        scratch_curves=_curves(run.scratch, content.charts) if run.scratch else [],
        **content.values,
    )


def sample_faces(aligned: Table, most: int = SAMPLES) -> dict[str, str]:
    """Source and identity of up to `most` images, evenly over the table, each identity at most once."""
    chosen: dict[str, str] = {}
    first: dict[str, str] = {}
    place = 0
    for rows in aligned.row_groups(["source", "identity"]):
        for row in rows:
            first.setdefault(row["identity"], row["source"])
            due = len(chosen) < most and place >= len(chosen) * aligned.rows // most
            if due and row["identity"] not in chosen:
                chosen[row["identity"]] = row["source"]
            place += 1
    # Where few identities are left towards the end, those not shown yet fill up.
    rest = [name for name in first if name not in chosen][: most - len(chosen)]
    return {source: name for name, source in (chosen | {name: first[name] for name in rest}).items()}


def _crops(aligned: Table, wanted: set[str]) -> dict[str, str]:
    """Crops as data: URIs by source; a row group is in memory at a time, and no more are read than needed."""
    found: dict[str, str] = {}
    for rows in aligned.row_groups(["source", "image"]):
        found |= {row["source"]: _crop(row["image"]) for row in rows if row["source"] in wanted}
        if len(found) == len(wanted):
            break
    return found


def _crop(image: bytes) -> str:
    """A crop as a data: URI; one that is larger than it is shown is made smaller, so that pages stay small."""
    if max(Image.open(io.BytesIO(image)).size) <= CROP:
        return data_uri(image)
    return as_jpeg(Image.fromarray(decode_rgb(image)), CROP)


def _shown(run: Run, said: dict[str, str], measured: list[tuple[str, str, Any]]) -> dict[str, str]:
    """The sections of the page by id with the words of their links; those without content are left out."""
    sections = [
        *measured,
        ("faces", "Faces" if said["crop"] == "Aligned face" else said["crops"], True),
        ("kept", "Kept and rejected", True),
        ("classes", f"Images per {said['one']}", True),
        ("training", "Training", True),
        ("settings", "Settings", True),
        ("passport", "Passport", run.passport),
    ]
    return {name: link for name, link, there in sections if there}


def _curves(training: Training, figures: Sequence[str]) -> list[tuple[str, LineChart]]:
    """The charts of a training by figure; one that was never measured is left out."""
    charts = [(figure, history_chart(training.history, figure)) for figure in figures if training.history]
    return [(FIGURE_NAMES.get(figure, figure.capitalize()), chart) for figure, chart in charts if chart.lines]


def _passport(passport: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The passport in tables: what stands alone under `run`, and each object on its own; its metrics stand above."""
    passport = {name: value for name, value in passport.items() if name != "metrics"}
    alone = {name: value for name, value in passport.items() if not isinstance(value, dict | list)}
    nested = {name: words.flattened(value) for name, value in passport.items() if name not in alone}
    return ({"run": alone} if alone else {}) | nested


def _kept(run: Run) -> list[dict[str, Any]]:
    """Images in, kept and left out by step, with the reasons."""
    reasons = run.data["rejected"] | {"audit": run.audit["counts"]["reasons"], "split": run.excluded}
    return [
        {
            "step": step,
            "rows_in": run.steps[step].rows_in,
            "rows_out": run.steps[step].rows_out,
            "rejected": sum(counts.values()),
            "reasons": counts,
        }
        for step, counts in reasons.items()
    ]
