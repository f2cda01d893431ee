"""The model card: Mitchell's sections, every figure that was measured, and nothing that was not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kubeface.promote.card import model_card
from kubeface.records.data import Erasure
from kubeface.records.evaluation import read_evaluation
from kubeface.records.model import ModelRecord
from tests.support.evaluations import (
    CALIBRATION,
    COMPATIBILITY,
    LONG,
    attribute_figures,
    class_figures,
    complete,
    recognition,
    resolutions,
    verdict,
)
from tests.support.promoted_models import LABELS, make

SECTIONS = [
    "Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data", "Quantitative analyses",
    "Decision threshold", "Galleries enrolled with the starting model", "Ethical considerations",
    "Caveats and recommendations",
]  # fmt: skip
MEASURED = complete(recognition([("a" * 16, "Ann"), ("b" * 16, "Bob")], "b2" * 32, "noise:60", lfw=True))
SEARCH = MEASURED["identification"]["heldout"]
NO_RATES = {
    "rank5": None,
    "rank5_low": None,
    "rank5_high": None,
    "open": SEARCH["baseline"]["open"] | {"fnir_at_fpir": {}},
}
FULL: dict[str, Any] = {
    name: MEASURED[name]
    for name in ("lfw", "champion", "gain_over_champion", "paired", "probes", "groups", "calibration", "compatibility")
} | {"identification": {"heldout": SEARCH | {"baseline": SEARCH["baseline"] | NO_RATES}}}


def card(tmp_path: Path, erasure: Erasure | None = None, config: dict[str, Any] | None = None, **more: Any) -> str:
    """The card of a made model with entries of model.json (`config`) and, in `more`, the task and entries of
    evaluation.json.
    """
    model, evaluation = make(tmp_path, better=True, **more)
    record = ModelRecord.parse(json.loads((model / "model.json").read_text()) | (config or {}), "made")
    text = model_card("gate-3", "12ab", record, read_evaluation(evaluation / "evaluation.json"), erasure)
    check_tables(text)
    return text


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, re.M)


def check_tables(text: str) -> None:
    """Every row of a table has as many cells as its header."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block


def test_a_full_evaluation_fills_every_section(tmp_path: Path) -> None:
    text = card(tmp_path, **FULL)
    assert headings(text) == SECTIONS
    for told in (
        "# gate-3 12ab\n",
        "**Verdict:** better on 13 held-out people: AUC.",
        "216 images of 27 people",
        "130 images of 13 people who were not trained on (8385 pairs). LFW: 6000 pairs, 2 of",
        "Starting weights: `somewhere#sha256=12ab`, license Apache-2.0",
        "| heldout | baseline | 98.00 % | 85.00 % | 4.00 % | 97.00 % | 90.00 % | – |",
        "| heldout | champion | 80.00 % | 86.00 % | 20.00 % | 70.00 % | 60.00 % | – |",
        "| lfw | finetuned | 98.00 % | 99.10 % | 4.00 % | – | – | 98.00 % |",
        "Change over the starting model:",
        "| heldout | AUC | 85.00 % | 99.10 % | +14.10 (+13.10 to +16.10) |",
        "Change over the champion before it:",
        "| heldout | TAR@FAR=0.01 | 65.00 % | 70.00 % | +5.00 (+0.00 to +10.00) |",
        "heldout: 120 pairs are decided correctly by this model alone (100 genuine, 20 impostor) and 9 by its starting "
        "model alone (4 genuine, 5 impostor: forgotten); McNemar's exact test gives p = 1.5e-22",
        "| heldout | finetuned | 13 | 117 | 91.00 % (85.00 % to 97.00 %) | 98.00 % (94.00 % to 100.00 %) | 4.50 % |",
        "| heldout | baseline | 13 | 117 | 70.00 % (60.00 % to 80.00 %) | – | – |",
        "| `lowres:14` | 65.00 % | 68.00 % | +3.00 (−2.00 to +8.00) | 50.00 % | 75.00 % | +25.00 (+20.00 to +30.00) |",
        "| \\<img src=x onerror=1\\> | 12 | 120 | 0.12 % | 0.09 % | 8.00 % | 4.00 % | −4.00 (−7.00 to −1.00) |",
        f"| {LONG} | 1 | 10 | – | – | – | – | – |",
        "Largest over smallest rate among the groups: FMR 2.50 → –, FNMR 1.75 → 1.20.",
        "0.4120 (95 % interval 0.3800 to 0.4500) for a false match rate of 0.10 %, at which 8.20 % of genuine",
    ):
        assert told in text, told
    assert "None" not in text and "cannot be estimated" not in text


def test_the_card_tells_of_low_resolution(tmp_path: Path) -> None:
    network = {"name": "edsr|x", "scale": 8, "sha256": "5" * 64, "identities": []}
    text = card(tmp_path, config={"superresolution": network}, **resolutions())
    for told in (
        "fewer than 14×14 pixels of its photograph goes through the super-resolution network superresolution.onnx",
        "Measured at 10 pixels, 14 pixels, 20 pixels, sharp; low-resolution faces were made of sharp ones and enlarged "
        "by `edsr.onnx@12ab34cd56ef`. The fixed threshold, 0.3612, is the starting model's on sharp photographs at a "
        "false match rate of 0.10 %, as a system in use has set it. Too few photographs to measure: 28 pixels.",
        "| 10 pixels | sharp | 120 | 12 | 62.00 % | 68.00 % | +6.00 (+1.00 to +11.00) | 55.00 % | 61.00 % |",
        "| sharp | sharp | 120 | 12 | 95.00 % |",
    ):
        assert told in text, told
    taken = card(
        tmp_path / "taken",
        **resolutions(paired=True),
        calibration={"finetuned": CALIBRATION},
        calibrated_on="heldout_cross",
    )
    assert "pairs of 13 people of the set heldout\\_cross. It is in threshold.json." in taken
    assert "taken by a camera, each of the nearest size" in taken and "superresolution" not in taken


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    text = card(tmp_path)
    left = ("Factors", "Decision threshold", "Galleries enrolled with the starting model")
    assert headings(text) == [section for section in SECTIONS if section not in left]
    assert "None" not in text and "McNemar" not in text and "champion" not in text and "**Erasure" not in text


@pytest.mark.parametrize("missing", sorted(FULL))
def test_each_part_may_be_missing(tmp_path: Path, missing: str) -> None:
    text = card(tmp_path, **{key: value for key, value in FULL.items() if key != missing})
    assert "None" not in text


def test_a_rate_that_cannot_be_told_is_said_to_be_so(tmp_path: Path) -> None:
    unsupported = CALIBRATION | {"asked_fmr": 0.00001, "fmr": 0.0004, "supported": False}
    text = card(tmp_path, calibration={"finetuned": unsupported})
    assert "for a false match rate of 0.04 %" in text and "asked for, 0.001 %, cannot be estimated from so few" in text


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"stays": True}, "**The gallery can stay.** Of genuine pairs 21.00 % (12.00 % to 30.00 %) match"),
        ({}, "**Enrol anew.** Of genuine pairs 21.00 %"),
        ({}, "(585 pairs of 13 people). 23.00 % of the people who were enrolled are still matched; 0.02 % of impostor"),
        ({"gallery_still_matched": None}, "(585 pairs of 13 people). 0.02 % of impostor pairs match"),
        ({"comparable": False, "reason": "128 and 512 dimensions"}, "**Enrol anew:** 128 and 512 dimensions."),
    ],
)
def test_the_gallery_stays_where_the_evaluation_says_so(tmp_path: Path, change: dict[str, Any], advice: str) -> None:
    assert advice in card(tmp_path, compatibility=COMPATIBILITY | change)


def test_erasure_is_proven(tmp_path: Path) -> None:
    marks = ["1f" * 16, "2e" * 16]
    erasure = Erasure(marks=marks, files_left_out=41, rows_checked=271)
    text = card(tmp_path, erasure)
    assert "41 images were left out" in text and "0 of them are among the 271 images that remained" in text
    assert all(f"- `{mark}`" in text for mark in marks)
    assert "**Erasure" not in card(tmp_path / "none", Erasure(files_left_out=41))


def test_names_cannot_write_into_the_card(tmp_path: Path) -> None:
    gate = verdict("group <script>alert(1)</script>\n# Heading [x](javascript:1)", "heldout auc", "AUC")
    config = {"start": "a`b\n## Heading", "start_license": "<img src=x>"}
    text = card(tmp_path, config=config, gate=gate)
    assert set(headings(text)) <= set(SECTIONS)
    assert re.search(r"(?<!\\)<", text) is None and re.search(r"(?<!\\)\]\(", text) is None
    assert "`a´b ## Heading`" in text


OTHER_TASKS = ("attributes", "classes")


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_the_card_of_another_task_has_the_same_sections(tmp_path: Path, task: str) -> None:
    text = card(tmp_path, task=task)
    left = ("Factors", "Galleries enrolled with the starting model")
    assert headings(text) == [section for section in SECTIONS if section not in left]
    assert "- Faces are biometric data" in text and "Trained on 216 images of 27" in text
    for word in ("gallery", "genuine", "impostor", "TAR@FAR", "false match"):
        assert word not in text
    assert "None" not in text


def test_the_card_of_attributes_tells_every_label(tmp_path: Path) -> None:
    text = card(tmp_path, task="attributes")
    for told in (
        "A model of facial attributes (sface, 128-d embeddings), fine-tuned from `somewhere#sha256=12ab`.",
        "by 3 labels: Eyeglasses, Male\\|, Smiling.",
        "Measured on 130 images of 13 people who were not trained on. The set heldout has the degradation `noise:60`",
        "| heldout | baseline | 84.00 % | 83.00 % |",
        "| heldout | AUC | 84.00 % | 93.00 % | +9.00 (+8.00 to +11.00) |",
        "| Eyeglasses | 10 | 1200 | 79.00 % | 88.00 % (84.00 % to 91.00 %) | 87.00 % |",
        "| Smiling | 2 | 1198 | – | too few images | – |",
        "Each was chosen on 60 val images, none of which is among the held-out ones; they are in threshold.json.",
        "| Eyeglasses | 0.4000 |",
        "decide nothing about a person by it",
    ):
        assert told in text, told
    assert "Decision threshold" not in headings(card(tmp_path / "b", task="attributes", thresholds={}))


def test_the_card_of_classes_tells_every_class_and_the_unknown(tmp_path: Path) -> None:
    text = card(tmp_path, task="classes")
    for told in (
        "A model of image classes (sface, 128-d embeddings), fine-tuned from `somewhere#sha256=12ab`.",
        "which of 3 classes a photograph shows: Eyeglasses, Male\\|, Smiling.",
        "Trained on 216 images of 27 classes",
        "| heldout | scratch | 70.00 % | 69.00 % | 68.00 % | 5.00 % |",
        "Change over the small network from scratch:",
        "| heldout | accuracy | 70.00 % | 93.00 % | +23.00 (+22.00 to +25.00) |",
        "| Eyeglasses | 20 | 84.00 % | 93.00 % | 93.00 % | 95.00 % |",
        "0.6100: an answer with a lower score is refused. On the held-out images that refuses 83.00 % of 40 images of "
        "classes that were not trained on, and 4.00 % of those of known classes; of what is accepted 97.00 % is "
        "correct.",
    ):
        assert told in text, told
    figures = class_figures(LABELS, 0.93)
    known = figures | {"unknown": figures["unknown"] | {"images": 0, "refused": None}}
    text = card(tmp_path / "b", task="classes", finetuned={"heldout": known})
    assert "On the held-out images that refuses 4.00 % of those of known" in text
    text = card(tmp_path / "c", task="classes", finetuned={"heldout": figures | {"unknown": None}})
    assert "Decision threshold" not in headings(text)


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_very_many_labels_are_not_all_named(tmp_path: Path, task: str) -> None:
    names = [f"n{number}" for number in range(130)]
    figures = attribute_figures if task == "attributes" else class_figures
    changes: dict[str, Any] = {model: {"heldout": figures(names, 0.9)} for model in ("baseline", "finetuned")}
    changes |= {"thresholds": {}} if task == "attributes" else {}
    text = card(tmp_path, task=task, labels=names, **changes)
    assert "n99 and 30 more, see labels.json." in text and "n100," not in text


def test_a_fallback_is_told(tmp_path: Path) -> None:
    assert "Fallback" not in card(tmp_path)
    reason = "resnet50's weights could not be had"
    assert f"- Fallback: {reason}" in card(tmp_path / "b", config={"training": {"fallback": reason}})
