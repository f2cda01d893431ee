"""The report of a small synthetic run: its figures, and a page that is safe, whole and the same each time."""

import csv
import json
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.faces.cli import main, parser_of
from components.faces.errors import KubefaceError
from components.faces.folders import write_json
from components.faces.images import encode_png
from components.faces.runtime import VERSION
from components.faces.table import Table, TableWriter
from components.report.figures import FRAME, histogram, history_chart, identity_panels, nice_step, roc_chart
from components.report.page import points, sample_faces
from components.report.step import report

HOSTILE = "<img src=x onerror=1>"
IMAGES = 4  # of each identity
AUDIT = {
    "counts": {"duplicates": 3, "same_photo_two_names": 2, "suspects": 1, "alike_pairs": 4, "leaks": 5,
               "reasons": {"leak": 5}},
    "drift": {"compared": True, "features": {"brightness": 0.31}, "worst": "brightness", "exceeded": False},
}  # fmt: skip
SHARD_STEPS = ("ingest", "align", "filter")
STEPS = ("gather", "audit", "split", "finetune", "evaluate", "promote")


def colour(number: int, size: int = 8) -> bytes:
    """A PNG of one colour that depends on the number."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:] = (37 * number % 256, 91 * number % 256, 53 * number % 256)
    return encode_png(pixels)


def write_tables(folder: Path, names: list[str], reject: bool) -> list[tuple[str, str]]:
    """The four tables; every third identity is held out. Returns image_id and identity of the held-out images.

    With `reject`, ingest and align reject two images, and the filter rejects the last image of each held-out identity.
    """
    with (
        TableWriter(folder / "aligned", "aligned", "align", {}) as aligned,
        TableWriter(folder / "filtered", "filter", "filter", {}) as filtered,
        TableWriter(folder / "split", "split", "split", {"apply_filter": "validation"}) as split,
    ):
        heldout = []
        for number, (name, image) in enumerate((name, image) for image in range(IMAGES) for name in names):
            out = names.index(name) % 3 == 0
            image_id, source = f"{number:016x}", f"{name}/{image}.png"
            row = {"image_id": image_id, "identity": name, "source": source}
            detected = {"landmarks": [0.0] * 10, "det_score": 1.0, "det_box": [0.0] * 4}
            aligned.add(
                row
                | {"image": colour(number), "width": 8, "height": 8, "content": "0" * 16, "phash": "0" * 16}
                | detected
            )
            bad = reject and out and image == IMAGES - 1
            reason = "low_score" if bad else None
            filtered.add(
                {
                    "image_id": image_id,
                    "kept": not bad,
                    "reason": reason,
                    "score": 0.5,
                    "face_size": 8.0,
                    "faces": 1,
                    "sharpness": 9.0,
                    "turn": 0.0,
                    "agreement": 1.0,
                }
            )
            if bad:
                filtered.reject(source, "low_score", "score 0.500, face 8 pixels")
            part = "excluded" if bad else "heldout" if out else "val" if image == IMAGES - 1 else "train"
            why = "filter: low_score" if bad else None
            split.add({"image_id": image_id, "identity": name, "split": part, "reason": why})
            if part == "heldout":
                heldout.append((image_id, name))
    write_gathered(folder / "gathered", IMAGES * len(names), len(names), heldout, reject)
    return heldout


def write_gathered(folder: Path, images: int, people: int, heldout: list[tuple[str, str]], reject: bool) -> None:
    """What gather says of the steps before it."""
    folder.mkdir()
    rejected: list[tuple[str, str, str, str]] = []
    if reject:
        rejected = [
            ("ingest", "somebody/notes.txt", "not_an_image", "<b>none</b> of JPEG, PNG"),
            ("align", "somebody/wall\udce9.png", "no_face", ""),  # a name that is not UTF-8
            *(
                ("filter", f"{name}/{IMAGES - 1}.png", "low_score", "score 0.500, face 8 pixels")
                for name in sorted({name for _, name in heldout})
            ),
        ]
    with open(folder / "rejected.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([("step", "source", "reason", "detail"), *rejected])
    counts = {step: dict(Counter(row[2] for row in rejected if row[0] == step)) for step in SHARD_STEPS}
    data = {"images": images, "identities": people, "rejected": counts, "shards": {"0/1": "f" * 64},
            "changed_shards": ["0/1"], "erasure": {"marks": [], "files_left_out": 0}}  # fmt: skip
    write_json(folder / "data.json", data)
    steps = {step: {"rows_in": 90 + n, "rows_out": n, "seconds": 1.5} for n, step in enumerate(SHARD_STEPS)}
    write_json(folder / "steps.json", steps)


def verification(accuracy: float) -> dict[str, Any]:
    """Figures of one model on one set as evaluate writes them; the better, the nearer `accuracy` is to 1."""
    figures = {
        "accuracy": accuracy,
        "accuracy_standard_error": 0.004,
        "threshold": 0.4,
        "auc": accuracy + 0.01,
        "eer": 1 - accuracy,
        "tar_at_far": {"0.01": accuracy - 0.2, "0.1": accuracy - 0.1, "1e-05": accuracy - 0.3},
        "genuine_pairs": 600,
        "impostor_pairs": 7000,
    }
    return figures | {"flip": figures | {"accuracy": accuracy + 0.001}}


def gain(before: float, after: float) -> dict[str, float]:
    change = after - before
    return {"before": before, "after": after, "gain": change, "gain_low": change - 0.05, "gain_high": change + 0.05}


def write_evaluation(folder: Path, heldout: list[tuple[str, str]], split: str, degradation: str, lfw: bool) -> None:
    sets = ["heldout", *(["heldout_clean"] if degradation != "none" else []), *(["lfw"] if lfw else [])]
    (left, left_name), (right, right_name) = heldout[0], heldout[1]
    pair = {"left": left, "left_identity": left_name, "right": right, "right_identity": right_name}
    curve = {"fmr": [0.0, 1e-6, 0.01, 0.1, 1.0], "tmr": [0.0, 0.4, 0.5, 0.8, 1.0], "threshold": [1, 0.8, 0.6, 0.4, 0]}
    evaluation = {
        "producer": "evaluate 0.1.0",
        "split": split,
        "degradation": degradation,
        "people": 3,
        "images": len(heldout),
        "pairs": 7600,
        "gate_far": 0.01,
        "baseline": {name: verification(0.8) for name in sets},
        "finetuned": {name: verification(0.9) for name in sets},
        "gain": {name: {"auc": gain(0.81, 0.91), "tar": gain(0.6, 0.7)} for name in sets if name != "lfw"},
        "gate": {
            "better": True,
            "reason": "better on 3 held-out people: AUC 81.00 % → 91.00 %",
            "checks": [{"name": "heldout auc", "passed": True, "text": "AUC 81.00 % → 91.00 %"}],
        },
        "hardest": {kind: [pair | {"before": 0.3, "after": 0.5}] for kind in ("genuine", "impostor")},
    }
    if lfw:
        evaluation["lfw"] = {"pairs": 6000, "images": 7701, "detector": "mtcnn", "fallback": ["A/A_0001", "B/B_0002"]}
    for name in ("pairs", "samples"):
        (folder / name).mkdir(parents=True)
        for number, image_id in enumerate((left, right)):
            (folder / name / f"{image_id}.png").write_bytes(colour(number))
    write_json(folder / "evaluation.json", evaluation)
    write_json(folder / "roc.json", {name: {"baseline": curve, "finetuned": curve} for name in sets})


def write_model(folder: Path, split: str) -> None:
    (folder / "logs").mkdir(parents=True)
    training = {
        "producer": "finetune 0.1.0", "aligned": "0" * 64, "split": split, "head": "arcface", "lr": 1e-4,
        "pretrained": "", "freeze_batch_norm": True, "best_epoch": 2, "val_loss": 1.25, "val_accuracy": 0.75,
        "versions": {"torch": "2.14.1"},
    }  # fmt: skip
    model = {"backbone": "sface", "start": "wheel#sha256=1", "start_license": "MIT", "weights_sha256": "1" * 64}
    write_json(folder / "model.json", model | {"training": training})
    losses = {"train_loss": 3.0, "val_loss": 4.0, "train_accuracy": 0.5, "val_accuracy": 0.25}
    write_json(folder / "logs" / "history.json", [{"epoch": n, "stage": min(n, 2), **losses} for n in (1, 2, 3)])


def make_run(
    folder: Path,
    identities: int = 9,
    reject: bool = False,
    degradation: str = "noise:60",
    lfw: bool = False,
    promotion: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A run's outputs below `folder`, the first identity with a hostile name; the arguments for `report`."""
    names = [HOSTILE, *(f"person {number}" for number in range(1, identities))]
    heldout = write_tables(folder, names, reject)
    split = Table(folder / "split", "split").sha256
    write_evaluation(folder / "evaluation", heldout, split, degradation, lfw)
    write_model(folder / "model", split)
    (folder / "audited").mkdir()
    write_json(folder / "audited" / "data.json", AUDIT)
    (folder / "promotion").mkdir()
    default = {"promoted": True, "reason": "better than the champion", "uri": "s3://models/sface/7", "version": "7"}
    write_json(folder / "promotion" / "promotion.json", promotion or default)
    for number, step in enumerate(STEPS):
        write_json(folder / f"{step}.json", {"rows_in": 100 + number, "rows_out": number, "seconds": 1.5, "more": 1})
    inputs = {
        name: folder / name
        for name in ("gathered", "audited", "aligned", "filtered", "split", "model", "evaluation", "promotion")
    }
    metrics = {f"{step}_metrics": folder / f"{step}.json" for step in STEPS}
    return inputs | metrics | {"html": folder / "out" / "report.html", "summary": folder / "out" / "summary.json"}


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(arguments: dict[str, Any]) -> Page:
    report(**arguments)
    return Page(arguments["html"].read_text("utf-8"))


def test_summary_holds_the_figures_of_the_run(tmp_path: Path) -> None:
    arguments = make_run(tmp_path, reject=True, lfw=True)
    assert report(**arguments, pipeline="faces", seed=7) == {"rows_in": 36, "rows_out": 104}
    summary = json.loads(arguments["summary"].read_text())
    evaluation = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert (summary["pipeline"], summary["seed"], summary["degradation"]) == ("faces", 7, "noise:60")
    assert summary["steps"] == {
        step: {"rows_in": first + number, "rows_out": number, "seconds": 1.5}
        for first, steps in ((90, SHARD_STEPS), (100, STEPS))
        for number, step in enumerate(steps)
    }
    assert summary["dataset"] == {
        "images": 36,
        "identities": 9,
        "rejected": 5,
        "rejected_by_reason": {"low_score": 3, "no_face": 1, "not_an_image": 1},
        "heldout_identities": 3,
        "train_identities": 6,
        "shards": 1,
        "changed_shards": ["0/1"],
        "forgotten": 0,
        "duplicates": 3,
        "suspects": 1,
        "leaks": 5,
        "drift": AUDIT["drift"],
    }
    for name in ("baseline", "finetuned", "gain"):
        assert summary[name] == evaluation[name]
    assert set(summary["finetuned"]) == {"heldout", "heldout_clean", "lfw"}
    assert summary["gate"] == evaluation["gate"] | {"promoted": True, "promotion_reason": "better than the champion"}
    assert summary["model"] == {
        "uri": "s3://models/sface/7", "version": "7", "backbone": "sface", "weights_sha256": "1" * 64,
    }  # fmt: skip
    assert summary["settings"]["head"] == "arcface"
    assert not {"aligned", "split", "versions"} & set(summary["settings"])
    assert summary["versions"]["kubeface"] == VERSION
    assert summary["versions"]["torch"] == "2.14.1"
    assert summary["versions"]["python"].startswith("3.")
    assert str(tmp_path) not in arguments["summary"].read_text()


def test_page_is_self_contained(tmp_path: Path) -> None:
    arguments = make_run(tmp_path, reject=True, lfw=True)
    page = page_of(arguments)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "form", "base"}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
    text = arguments["html"].read_text("utf-8")
    assert "url(" not in text and "@import" not in text
    policies = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_page_can_be_read_without_pictures_and_by_headings(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, reject=True))
    assert page.all("img") and all(image["alt"] for image in page.all("img"))
    charts = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    assert charts and all(svg["role"] == "img" and svg["aria-label"] for svg in charts)
    assert [name for name, _ in page.tags].count("h1") == 1
    ids = {attributes.get("id") for _, attributes in page.tags}
    links = [link["href"] or "" for link in page.all("a")]
    assert links and all(link.removeprefix("#") in ids for link in links)


def test_page_escapes_names_and_details(tmp_path: Path) -> None:
    arguments = make_run(tmp_path, reject=True)
    page = page_of(arguments)
    text = arguments["html"].read_text("utf-8")
    assert HOSTILE not in text
    assert "&lt;img src=x onerror=1&gt;" in text
    assert not page.all("b") or all("class" in tag for tag in page.all("b"))  # the detail's <b> is text
    assert f"{HOSTILE}/3.png" in page.text
    assert f"Aligned face of {HOSTILE}" in {image["alt"] for image in page.all("img")}


def test_page_tells_the_verdict_and_every_set(tmp_path: Path) -> None:
    arguments = make_run(tmp_path, lfw=True)
    page = page_of(arguments)
    assert "✓ Promoted" in page.text and "Not promoted" not in page.text
    told = " ".join(page.text.replace("\u00a0", " ").split())
    assert "On 3 held-out people under noise:60, AUC went from 81.00 % to 91.00 %" in told
    assert "better than the champion" in told
    assert "s3://models/sface/7" in told
    for title in ("Held-out people under noise:60", "Held-out people, clean crops", "Labeled Faces in the Wild"):
        assert told.count(title) == 2  # over the table and over the ROC
    assert "in 2 of them no face was found and a centre crop was used (A/A_0001, B/B_0002)" in told
    assert "80.00 ± 0.40 90.00 ± 0.40 +10.00" in told
    assert "20.00 10.00 −10.00" in told  # EER
    assert "+5.00 to +15.00" in told  # the interval of AUC
    assert (
        told.index("TAR@FAR=0.1 ")
        < told.index("TAR@FAR=0.01 ", told.index("TAR@FAR=0.1 "))
        < told.index("TAR@FAR=1e-05")
    )
    assert "None rejected by ingest, align or filter." in told


def test_page_tells_that_nothing_was_promoted(tmp_path: Path) -> None:
    promotion = {"promoted": False, "reason": "not better: AUC fell", "uri": None, "version": None}
    arguments = make_run(tmp_path, promotion=promotion, degradation="none")
    page = page_of(arguments)
    assert "✗ Not promoted" in page.text and "not better: AUC fell" in page.text
    assert "None was put on the crops" in page.text
    summary = json.loads(arguments["summary"].read_text())
    assert summary["gate"]["promoted"] is False and summary["gate"]["better"] is True
    assert summary["model"]["uri"] is None


def test_page_lists_what_was_rejected(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, reject=True))
    for word in (
        "somebody/notes.txt",
        "not_an_image",
        "somebody/wall?.png",
        "no_face",
        "low_score",
        "filter: low_score",
    ):
        assert word in page.text
    rejected = [image["alt"] for image in page.all("img") if (image["alt"] or "").startswith("Rejected crop")]
    assert len(rejected) == 3


def test_many_identities_make_a_histogram(tmp_path: Path) -> None:
    few, many = page_of(make_run(tmp_path / "few", identities=60)), page_of(make_run(tmp_path / "many", identities=61))
    assert "Identities by their number of images" not in few.text
    assert "Identities by their number of images" in many.text
    assert "person 59: 3 training, 1 validation" in " ".join(few.text.split())
    assert "person 59: " not in many.text
    faces = [image for image in many.all("img") if (image["alt"] or "").startswith("Aligned face")]
    assert len(faces) == 24


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    arguments = make_run(tmp_path, reject=True, lfw=True)
    report(**arguments)
    again = arguments | {"html": tmp_path / "again.html", "summary": tmp_path / "again.json"}
    report(**again)
    assert arguments["html"].read_bytes() == again["html"].read_bytes()
    assert arguments["summary"].read_bytes() == again["summary"].read_bytes()
    # Elsewhere, and over files that are there already.
    shutil.rmtree(tmp_path / "gathered")
    other = make_run(tmp_path / "other", reject=True, lfw=True)
    report(**other | {"html": again["html"], "summary": again["summary"]})
    assert arguments["html"].read_bytes() == again["html"].read_bytes()
    assert arguments["summary"].read_bytes() == again["summary"].read_bytes()


@pytest.mark.parametrize(
    "missing",
    [
        "gathered/data.json",
        "gathered/steps.json",
        "gathered/rejected.csv",
        "audited/data.json",
        "aligned/manifest.json",
        "split/shard-00000.parquet",
        "model/model.json",
        "model/logs/history.json",
        "evaluation/evaluation.json",
        "evaluation/roc.json",
        "evaluation/pairs/0000000000000000.png",
        "promotion/promotion.json",
        "evaluate.json",
    ],
)
def test_a_missing_file_is_named_and_nothing_is_left(tmp_path: Path, missing: str) -> None:
    arguments = make_run(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(KubefaceError, match=f"{Path(missing).name} is missing"):
        report(**arguments)
    assert not arguments["html"].parent.exists()


def test_a_report_that_cannot_be_written_leaves_no_half_file(tmp_path: Path) -> None:
    arguments = make_run(tmp_path)
    (tmp_path / "out" / "summary.json").mkdir(parents=True)  # a folder cannot be replaced by a file
    with pytest.raises(OSError):
        report(**arguments)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "summary.json"]


def test_metrics_without_a_figure_are_refused(tmp_path: Path) -> None:
    arguments = make_run(tmp_path)
    write_json(tmp_path / "audit.json", {"rows_in": 1})
    with pytest.raises(KubefaceError, match=r"audit\.json lacks rows_out, seconds"):
        report(**arguments)


@pytest.mark.parametrize("of", ["model", "evaluation"])
def test_outputs_of_two_runs_are_refused(tmp_path: Path, of: str) -> None:
    arguments = make_run(tmp_path / "one")
    other = make_run(tmp_path / "other", identities=8)
    with pytest.raises(KubefaceError, match="worked on another split"):
        report(**arguments | {of: other[of]})


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--promote-metrics" in parser_of(report).format_help()
    flags = [word for name, value in make_run(tmp_path).items() for word in (f"--{name.replace('_', '-')}", str(value))]
    main(report, flags)
    assert json.loads(capsys.readouterr().out)["rows_in"] == 36


def aligned_table(folder: Path, identities: list[str]) -> Table:
    with TableWriter(folder, "aligned", "align", {}) as table:
        for number, name in enumerate(identities):
            detected = {"landmarks": [0.0] * 10, "det_score": 1.0, "det_box": [0.0] * 4}
            row = {
                "image_id": str(number),
                "identity": name,
                "source": str(number),
                "image": b"",
                "width": 1,
                "height": 1,
                "content": "0" * 16,
                "phash": "0" * 16,
            }
            table.add(row | detected)
    return Table(folder, "aligned")


def test_sampled_faces_are_spread_and_of_different_people(tmp_path: Path) -> None:
    table = aligned_table(tmp_path / "many", [str(number % 50) for number in range(500)])
    chosen = sample_faces(table)
    assert len(chosen) == 24 == len(set(chosen.values()))
    assert max(map(int, chosen)) > 400
    assert sample_faces(table) == chosen


def test_sampled_faces_show_everybody_where_few_are_there(tmp_path: Path) -> None:
    table = aligned_table(tmp_path / "few", [*"abcabcab", "d", *"abc" * 10])
    assert sorted(sample_faces(table).values()) == ["a", "b", "c", "d"]
    alone = sample_faces(aligned_table(tmp_path / "end", [*"ab" * 20, "c"]))
    assert sorted(alone.values()) == ["a", "b", "c"]
    early = sample_faces(aligned_table(tmp_path / "early", [*"ab", *"c" * 40]))
    assert sorted(early.values()) == ["a", "b", "c"]


@pytest.mark.parametrize(("span", "most", "step"), [(10, 5, 2), (44, 5, 10), (0.3, 5, 0.1), (1, 5, 0.2), (7, 8, 1)])
def test_nice_step(span: float, most: int, step: float) -> None:
    assert nice_step(span, most) == pytest.approx(step)


def test_points_have_a_sign_and_no_minus_zero() -> None:
    assert [points(share) for share in (0.1444, -0.0016, -0.00001)] == ["+14.44", "−0.16", "+0.00"]


def test_roc_begins_at_the_lowest_supported_rate() -> None:
    baseline = {"fmr": [0.0, 0.0005, 0.02, 1.0], "tmr": [0.0, 0.95, 0.97, 1.0]}
    chart = roc_chart({"baseline": baseline, "finetuned": baseline}, 0.001)
    assert [tick.label for tick in chart.x_ticks] == ["0.001", "0.01", "0.1", "1"]
    assert [tick.label for tick in chart.y_ticks][:2] == ["90 %", "92 %"]
    first, *_, last = chart.lines[0].points
    assert first == (FRAME.left, FRAME.bottom - 0.5 * (FRAME.bottom - FRAME.top))
    assert last == (FRAME.right, FRAME.top)


@pytest.mark.parametrize("epochs", [1, 2, 100])
@pytest.mark.parametrize("loss", [0.0, 3.0, -2.0])
def test_history_of_any_length_fits_the_frame(epochs: int, loss: float) -> None:
    row = {"train_loss": loss, "val_loss": loss, "train_accuracy": 1.0, "val_accuracy": 0.0, "stage": 2}
    history = [row | {"epoch": number + 1} for number in range(epochs)]
    for figure in ("loss", "accuracy"):
        chart = history_chart(history, figure)
        assert chart.mark is None and 1 <= len(chart.x_ticks) <= 10
        for line in chart.lines:
            assert all(FRAME.left <= x <= FRAME.right and FRAME.top <= y <= FRAME.bottom for x, y in line.points)


def test_every_identity_has_a_bar() -> None:
    people = {f"s{number}": Counter(train=number, val=2) for number in range(1, 42)}
    panels = identity_panels(people)
    assert [len(panel.bars) for panel in panels] == [14, 14, 13]
    assert panels[0].bars[0].name == "s41" and panels[0].bars[0].total == 43
    alike = identity_panels({name: Counter(heldout=3) for name in ("s10", "s2", "s1", "t" * 99)})
    assert [bar.label for bar in alike[0].bars] == ["s1", "s2", "s10", "t" * 14 + "…"]


def test_histogram_counts_every_identity_and_gathers_the_long_tail() -> None:
    people = {f"p{number}": Counter(train=1 + number % 9, val=1) for number in range(99)}
    people["famous"] = Counter(heldout=530)
    chart = histogram(people)
    assert chart.x_ticks[-1].label == ">10"
    unit = (FRAME.bottom - FRAME.top) / float(chart.y_ticks[-1].label)
    assert sum(block.height for block in chart.blocks) / unit == pytest.approx(100, abs=1)
    assert [block.style for block in chart.blocks if block.style != "train"] == ["heldout"]
    assert len(histogram({"a": Counter(train=1), "b": Counter(excluded=1)}).blocks) == 2
