"""The report of a small synthetic run: its figures, and a page that is safe, whole and the same each time."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from kubeface import __version__
from kubeface.cli import main
from kubeface.faces.images import encode_png
from kubeface.records.evaluation import EVALUATIONS
from kubeface.records.promotion import PromotionRecord
from kubeface.report import page as page_module
from kubeface.report.options import ReportOptions
from kubeface.report.page import sample_faces
from kubeface.report.step import ReportResult
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.page_links import PAGE_LINKS
from kubeface.storage.folders import write_json
from kubeface.tables.table import Table
from tests.support.evaluations import HOSTILE, LONG
from tests.support.json_files import edit
from tests.support.report_runs import (
    FINDINGS,
    FOLDERS,
    PROMOTED,
    SHARD_STEPS,
    STEPS,
    MadeRun,
    add_resolutions,
    make_run,
)
from tests.support.tables import DETECTED, EMPTY_IMAGE, write_rows


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


def page_of(run: MadeRun) -> Page:
    run.report()
    return Page(run.html.read_text("utf-8"))


def test_summary_holds_the_figures_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, reject=True, lfw=True)
    assert run.report(ReportOptions(pipeline="faces", seed=7)) == ReportResult(rows_in=36, rows_out=104)
    summary = json.loads(run.summary.read_text())
    evaluation = run.evaluation()
    assert (summary["pipeline"], summary["seed"], summary["degradation"]) == ("faces", 7, "noise:60")
    assert summary["steps"] == {
        step: {"rows_in": first + number, "rows_out": number, "seconds": 1.5}
        for first, steps in ((90, SHARD_STEPS), (100, STEPS))
        for number, step in enumerate(steps)
    }
    assert summary["dataset"] == {
        "images": 36, "identities": 9, "heldout_identities": 3, "train_identities": 6, "shards": 1,
        "changed_shards": ["0/1"], "forgotten": 0, "duplicates": 3, "suspects": 1, "leaks": 5, "rejected": 5,
        "rejected_by_reason": {"low_score": 3, "no_face": 1, "not_an_image": 1},
        "drift": FINDINGS.drift.model_dump(),
    }  # fmt: skip
    for name in ("baseline", "finetuned", "gain"):
        assert summary[name] == evaluation[name]
    assert set(summary["finetuned"]) == {"heldout", "heldout_clean", "lfw"}
    gate = {name: evaluation["gate"][name] for name in ("better", "reason", "checks")}
    assert summary["gate"] == gate | {"promoted": True, "promotion_reason": "better than the champion"}
    assert summary["model"] == {
        "uri": "s3://models/sface/7", "version": "7", "backbone": "sface", "weights_sha256": "1" * 64,
    }  # fmt: skip
    assert summary["settings"]["head"] == "arcface"
    assert not {"aligned", "split", "versions"} & set(summary["settings"])
    assert summary["versions"]["kubeface"] == __version__
    assert summary["versions"]["torch"] == "2.14.1"
    assert summary["versions"]["python"].startswith("3.")
    assert str(tmp_path) not in run.summary.read_text()


def test_summary_holds_what_else_was_measured(tmp_path: Path) -> None:
    full, plain = make_run(tmp_path / "full", full=True), make_run(tmp_path / "plain")
    summary, bare, evaluation = full.figures(), plain.figures(), full.evaluation()
    names = {"gain_over_champion", "paired", "probes", "identification", "calibration", "compatibility"}
    for name in names:
        assert summary[name] == evaluation[name] and summary[name]
    assert summary["groups"] == {"sex": evaluation["groups"]["sex"]["worst_ratio"]}
    assert set(bare) == set(summary) - {"compatibility"}
    assert not any(bare.get(name) for name in {*names, "groups"})


@pytest.mark.parametrize("full", [True, False], ids=["full", "plain"])
@pytest.mark.parametrize("task", EVALUATIONS)
def test_page_is_self_contained_and_can_be_read_by_headings(tmp_path: Path, task: str, full: bool) -> None:
    run = make_run(tmp_path, reject=True, lfw=full, full=full, task=task)
    page = page_of(run)
    assert not {name for name, _ in page.tags} & {"iframe", "object", "embed", "form", "base"}
    assert [name for name, _ in page.tags].count("script") == 1  # that of the links
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
    policies = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [PAGE_LINKS.policy]
    assert page.all("img") and all(image["alt"] for image in page.all("img"))
    charts = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    assert charts and all(svg["role"] == "img" and svg["aria-label"] for svg in charts)
    assert [name for name, _ in page.tags].count("h1") == 1
    check_links(page)
    text = run.html.read_text("utf-8")
    assert "url(" not in text and "@import" not in text
    assert HOSTILE not in text and "&lt;img src=x onerror=1&gt;" in text and f"{HOSTILE}/3.png" in page.text
    assert all("class" in tag for tag in page.all("b"))  # the <b> of a rejected image's detail is text
    if task == "recognition":
        assert f"Aligned face of {HOSTILE}" in {image["alt"] for image in page.all("img")}
    else:
        assert "None" not in page.text.replace("None was", "") and "genuine" not in page.text.partition("Skip to")[2]


def check_links(page: Page) -> None:
    """Every link leads to a part of the page, and every section has a link."""
    links = {(link["href"] or "").removeprefix("#") for link in page.all("a")}
    assert links and links <= {attributes.get("id") for _, attributes in page.tags}
    assert {attributes["id"] for tag, attributes in page.tags if tag == "h2"} <= links


def test_page_tells_the_verdict_and_every_set(tmp_path: Path) -> None:
    run = make_run(tmp_path, lfw=True)
    page = page_of(run)
    assert "✓ Promoted" in page.text and "Not promoted" not in page.text
    told = " ".join(page.text.replace("\u00a0", " ").split())
    assert "Better on 3 held-out people: AUC 81.00 % → 91.00 %." in told
    assert "better than the champion" in told
    assert "s3://models/sface/7" in told
    for title in ("Held-out people under noise:60", "Held-out people, clean crops", "Labeled Faces in the Wild"):
        assert told.count(title) == 3  # over the table, the ROC and the DET
    assert "in 2 of them no face was found and a centre crop was used (A/A_0001, B/B_0002)" in told
    assert "80.00 ± 0.40 90.00 ± 0.40 +10.00" in told
    assert "20.00 10.00 −10.00" in told  # EER
    assert "+5.00 to +15.00" in told  # the interval of AUC
    first = told.index("TAR@FAR=0.1 ")
    assert first < told.index("TAR@FAR=0.01 ", first) < told.index("TAR@FAR=1e-05")
    assert "None rejected by ingest, align or filter." in told


def told_by(run: MadeRun) -> str:
    """The page's text with single spaces."""
    return " ".join(page_of(run).text.replace("\u00a0", " ").split())


def test_page_tells_all_that_was_measured(tmp_path: Path) -> None:
    told = told_by(make_run(tmp_path, lfw=True, full=True))
    for words in (
        "Against the champion, the model promoted until now, accuracy went from 85.00 % to 90.00 % (+5.00, 95 %",
        "The champion was trained on 2 of the held-out people, which speaks for it.",
        "1 of 1 checks passed",
        "Over all 10,000,000 pairs that the images make, AUC went from 80.00 % to 90.00 % and EER from 20.00 %",
        "baseline fine-tuned change 95 % interval champion change 95 % interval baseline fine-tuned",
        "80.00 ± 0.40 90.00 ± 0.40 +10.00 +5.00 to +15.00",  # accuracy's interval
        "Of 7,600 pairs 120 are decided correctly only by the fine-tuned model and 9 only by the baseline; "
        "McNemar's exact p < 0.0001. Learned: 100 genuine and 20 impostor pairs; forgotten: 4 and 5.",
        "McNemar's exact p = 0.0215.",
        "DET, Held-out people under noise:60",
        "At an FMR of 0.1 % the threshold is 0.412 (95 % interval 0.380 to 0.450); there 8.2 % of the genuine",
        "An FMR of 0.01 % cannot be estimated from 7,800 impostor pairs; 0.04 % is the least that can",
        "1 / (1 + exp(−(21.5 s − 8.25)))",
        "Errors by threshold: Labeled Faces in the Wild",
        "masked 10.00 % 55.00 % +45.00 +40.00 to +50.00 25.00 % 28.00 % +3.00",
        f"{LONG} 1 10 45 0 – – – – –",
        "worst ratio 2.5× – 1.75× 1.2×",
        "Rank-1 70.00 % 60.00 to 80.00 91.00 % 85.00 to 97.00",
        "FNIR@FPIR=0.1 12.30 % 4.50 %",
        "Enrol the gallery anew: new probes match it less often than old ones did.",
        "The old model is the champion, promoted until now.",
        "54 probes of them",
        "CFP-FP: impostor pair cfp_fp/7",
        "old gallery, new probe 21.00 % 12.00 % to 30.00 %",
        "Labeled Faces in the Wild: genuine pair",
        "0.700 > 0.500 ✓ correct fine-tuned 0.500 ≤ 0.600 ✗ wrong",  # a forgotten genuine pair
        "0.300 ≤ 0.500 ✓ correct fine-tuned 0.500 > 0.400 ✗ wrong",  # a forgotten impostor pair
        "model.onnx.sha256 " + "3" * 64,
        "finetune –",  # an image whose digest is not known
    ):
        assert words in told, words
    assert "gain.heldout.auc" not in told  # the passport's metrics are the page's


def test_intervals_are_called_by_the_confidence_that_the_gate_asks_for(tmp_path: Path) -> None:
    run = make_run(tmp_path, full=True)
    run.change_evaluation(gate=run.evaluation()["gate"] | {"rule": {"confidence": 0.9}})
    told = told_by(run)
    assert "90 % interval" in told and "95 %" not in told.replace("95.00 %", "")


def test_the_champion_is_told_once(tmp_path: Path) -> None:
    run = make_run(tmp_path, full=True)
    check = {"name": "champion auc", "passed": True, "text": "over the promoted model AUC 86.00 % → 91.00 %"}
    run.change_evaluation(gate=run.evaluation()["gate"] | {"checks": [check]})
    told = told_by(run)
    assert "over the promoted model AUC" in told and "The champion was trained on 2" in told
    assert "Against the champion, the model" not in told


def test_failed_checks_stand_open(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert not any("open" in attributes for attributes in page_of(run).all("details"))
    failed = {"better": False, "checks": [{"name": "heldout auc", "passed": False, "text": "AUC fell"}]}
    run.change_evaluation(gate=run.evaluation()["gate"] | failed)
    page = page_of(run)
    assert "open" in page.all("details")[0] and "0 of 1 checks passed" in page.text


@pytest.mark.parametrize("task", EVALUATIONS)
def test_every_part_that_an_evaluation_may_lack_can_be_left_out(tmp_path: Path, task: str) -> None:
    run = make_run(tmp_path, full=True, task=task)
    if task == "recognition":
        add_resolutions(run)
    whole, before = run.evaluation(), page_of(run)
    optional = {name for name, field in EVALUATIONS[task].model_fields.items() if not field.is_required()}
    left_out = [
        {key: value for key, value in whole.items() if key != name}
        for name in sorted((optional & set(whole)) - {"schema_version", "task", "low_resolution"})
    ]
    left_out += [whole | {name: []} for name in ("grid", "mistakes") if name in whole]
    for evaluation in left_out:
        write_json(tmp_path / "evaluation" / "evaluation.json", evaluation)
        after = page_of(run)
        assert len(after.text) < len(before.text), whole.keys() - evaluation.keys()
        check_links(after)


def test_an_evaluation_that_lacks_all_of_them_has_none_of_their_sections(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path))
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert {"figures", "roc", "degradation", "pairs", "training"} < ids
    assert not ids & {"threshold", "probes", "groups", "identification", "gallery", "forgotten", "passport"}
    assert "champion" not in page.text.replace("better than the champion", "").partition("</style>")[2]


def test_pictures_are_small_and_a_broken_one_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    picture = tmp_path / "evaluation" / "pairs" / "0000000000000000.png"
    noise = np.random.default_rng(0).integers(0, 256, (2000, 1000, 3), np.uint8)
    picture.write_bytes(encode_png(noise))
    run.report()
    assert run.html.stat().st_size < 300_000
    picture.write_bytes(b"\x89PNG no")
    with pytest.raises(KubefaceError, match=r"0000000000000000\.png is no picture"):
        run.report()


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.1)."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_of_the_style_sheet_have_contrast(scheme: int) -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    style = (Path(page_module.__file__).parent / "style.html").read_text()
    colours = dict(re.findall(r"--(\S+): (#[0-9a-f]{6})", style.split(":root {")[1 + scheme]))
    text = [(name, back) for name in ("ink", "soft", "good", "bad", "finetuned") for back in ("page", "card")]
    text += [("good", "good-back"), ("bad", "bad-back")]
    assert {(a, b): contrast(colours[a], colours[b]) for a, b in text if contrast(colours[a], colours[b]) < 4.5} == {}
    drawn = ("baseline", "finetuned", "champion", "genuine", "impostor", "train", "val", "heldout", "excluded")
    low = {name: contrast(colours[name], colours["card"]) for name in drawn}
    assert {name: ratio for name, ratio in low.items() if ratio < 3} == {}  # WCAG 2.1, 1.4.11


def test_page_tells_that_nothing_was_promoted(tmp_path: Path) -> None:
    promotion = PromotionRecord(producer="promote 0.1.0", promoted=False, reason="not better: AUC fell")
    run = make_run(tmp_path, promotion=promotion, degradation="none")
    page = page_of(run)
    assert "✗ Not promoted" in page.text and "not better: AUC fell" in page.text
    assert "None was put on the crops" in page.text
    summary = json.loads(run.summary.read_text())
    assert summary["gate"]["promoted"] is False and summary["gate"]["better"] is True
    assert summary["model"]["uri"] is None


def test_a_run_that_trained_nothing_says_that_the_model_is_in_force_already(tmp_path: Path) -> None:
    reason = "this model is in force already, as version 7: the data are those that it was trained on"
    promotion = PROMOTED.model_copy(update={"promoted": False, "trained": False, "reason": reason})
    run = make_run(tmp_path, promotion=promotion)
    shutil.rmtree(tmp_path / "model" / "logs")  # a promoted version has none
    edit(tmp_path / "model" / "model.json", lambda model: model.update(trained=False, reason=reason.partition(": ")[2]))
    edit(tmp_path / "model" / "model.json", lambda model: model["training"].update(split="0" * 64))  # the earlier run's
    page = page_of(run)
    assert "Not trained" in page.text and "✓ Promoted" not in page.text and "✗ Not promoted" not in page.text
    assert f"T{reason[1:]}." in page.text and "This run trained nothing." in page.text
    assert "s3://models/sface/7" in page.text
    summary = run.figures()
    assert summary["trained"] is False and summary["gate"]["promoted"] is False
    assert summary["reason"] == f"not trained: {reason}"
    assert summary["gate"]["promotion_reason"] == reason and summary["model"]["uri"] == "s3://models/sface/7"


def test_page_lists_what_was_rejected(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, reject=True))
    words = ("somebody/notes.txt", "not_an_image", "somebody/wall?.png", "no_face", "low_score", "filter: low_score")
    assert all(word in page.text for word in words)
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


@pytest.mark.parametrize("task", EVALUATIONS)
def test_equal_runs_give_equal_bytes(tmp_path: Path, task: str) -> None:
    about = {"reject": True, "lfw": True, "full": True, "task": task}
    run, other = (make_run(tmp_path / name, **about) for name in ("one", "other"))
    run.report()
    again = replace(other, html=tmp_path / "again.html", summary=tmp_path / "again.json")
    for _ in range(2):  # elsewhere, and over files that are there already
        again.report()
        assert run.html.read_bytes() == again.html.read_bytes()
        assert run.summary.read_bytes() == again.summary.read_bytes()


@pytest.mark.parametrize(
    "missing",
    [
        "gathered/data.json", "gathered/steps.json", "gathered/rejected.csv", "audited/data.json",
        "aligned/manifest.json", "split/shard-00000.parquet", "model/model.json", "model/logs/history.json",
        "evaluation/evaluation.json", "evaluation/roc.json", "evaluation/pairs/0000000000000000.png",
        "promotion/promotion.json", "evaluate.json", "evaluation/grid/000.png", "evaluation/mistakes/001.png",
        "scratch/model.json",
    ],
)  # fmt: skip
def test_a_missing_file_is_named_and_nothing_is_left(tmp_path: Path, missing: str) -> None:
    run = make_run(tmp_path)
    if not (tmp_path / missing).exists():
        shutil.rmtree(tmp_path)
        run = make_run(tmp_path, task="classes", full=True)
    (tmp_path / missing).unlink()
    with pytest.raises(KubefaceError, match=f"{Path(missing).name} is missing"):
        run.report()
    assert not run.html.parent.exists()


def test_a_report_that_cannot_be_written_leaves_no_half_file(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.summary.mkdir(parents=True)  # a folder cannot be replaced by a file
    with pytest.raises(OSError):
        run.report()
    assert sorted(path.name for path in run.html.parent.iterdir()) == ["report.html", "summary.json"]


def test_metrics_without_a_figure_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_json(tmp_path / "audit.json", {"rows_in": 1})
    with pytest.raises(KubefaceError, match=r"audit\.json is not what this release reads \(rows_out.*seconds"):
        run.report()


@pytest.mark.parametrize("of", ["model", "evaluation"])
def test_outputs_of_two_runs_are_refused(tmp_path: Path, of: str) -> None:
    run = make_run(tmp_path / "one")
    make_run(tmp_path / "other", identities=8)
    with pytest.raises(KubefaceError, match="worked on another split"):
        run.with_outputs(**{of: tmp_path / "other" / of}).report()


def test_metrics_of_every_step_are_needed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    metrics = {step: path for step, path in run.outputs.metrics.items() if step != "audit"}
    with pytest.raises(KubefaceError, match="the metrics of audit are missing"):
        run.with_outputs(metrics=metrics).report()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    flags = [word for name in FOLDERS for word in (f"--outputs.{name}", str(tmp_path / name))]
    flags += [word for step in STEPS for word in (f"--outputs.metrics.{step}", str(tmp_path / f"{step}.json"))]
    main(["report", *flags, "--html", str(run.html), "--summary", str(run.summary), "--seed", "3"])
    assert json.loads(capsys.readouterr().out)["rows_in"] == 36
    assert json.loads(run.summary.read_text())["seed"] == 3
    main(["report", "--help"])
    help_text = capsys.readouterr().out
    assert "--outputs.promotion" in help_text and "--pdf" in help_text and len(help_text.splitlines()) <= 50


def aligned_table(folder: Path, identities: list[str]) -> Table:
    rows = ({"image_id": str(n), "identity": name, "source": str(n)} for n, name in enumerate(identities))
    return Table(write_rows(folder, "aligned", ({**row, **EMPTY_IMAGE, **DETECTED} for row in rows)), "aligned")


def test_sampled_faces_are_spread_and_of_different_people(tmp_path: Path) -> None:
    table = aligned_table(tmp_path / "many", [str(number % 50) for number in range(500)])
    chosen = sample_faces(table)
    assert len(chosen) == 24 == len(set(chosen.values()))
    assert max(map(int, chosen)) > 400
    assert sample_faces(table) == chosen


@pytest.mark.parametrize("people", ["abcabcabd" + "abc" * 10, "ab" * 20 + "c", "ab" + "c" * 40])
def test_sampled_faces_show_everybody_where_few_are_there(tmp_path: Path, people: str) -> None:
    assert sorted(sample_faces(aligned_table(tmp_path / "few", [*people])).values()) == sorted(set(people))
