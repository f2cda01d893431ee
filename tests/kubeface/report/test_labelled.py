"""The reports of attributes and classes: their figures and sections, safe, whole and the same each time."""

import json
from pathlib import Path
from typing import Any

import pytest

from kubeface.records.labelled_figures import ClassesFigures, LabelCorrelation, Sampling
from kubeface.report.attributes import CorrelatedPair, correlation
from kubeface.report.bar_charts import BAR_LEFT, BAR_RIGHT, pair_panels
from kubeface.report.classes import confused, maps
from kubeface.report.labelled import sampling_panels
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import write_json
from tests.kubeface.report.test_report import told_by
from tests.support.evaluations import HOSTILE, class_figures
from tests.support.json_files import edit
from tests.support.report_runs import make_run


def test_summary_of_attributes(tmp_path: Path) -> None:
    run = make_run(tmp_path, task="attributes", full=True)
    summary, evaluation = run.figures(), run.evaluation()
    for name in ("task", "baseline", "finetuned", "gain", "gain_over_champion", "labels", "thresholds", "chosen_on"):
        assert summary[name] == evaluation[name] and summary[name]
    assert summary["finetuned"]["heldout"]["labels"]["Label_1"]["positives"] == 11
    assert not {"probes", "calibration", "compatibility", "correlation"} & set(summary)


def test_summary_of_classes_holds_the_seconds_of_the_network_from_scratch(tmp_path: Path) -> None:
    run = make_run(tmp_path, task="classes", full=True)
    summary, evaluation = run.figures(), run.evaluation()
    for model in ("baseline", "finetuned", "scratch"):
        assert summary[model]["heldout"]["accuracy"] == evaluation[model]["heldout"]["accuracy"]
        assert "confusion" not in summary[model]["heldout"] and "classes" in summary[model]["heldout"]
    assert summary["gain_over_scratch"] == evaluation["gain_over_scratch"]
    assert summary["steps"]["scratch"]["seconds"] == 61.5
    plain = make_run(tmp_path / "plain", task="classes").figures()
    assert "scratch" not in plain and "scratch" not in plain["steps"]


def test_page_of_attributes_tells_every_label(tmp_path: Path) -> None:
    told = told_by(make_run(tmp_path, task="attributes", full=True))
    for words in (
        "Figures are means over the labels that have enough images to tell, 5 of 6.",
        "AUC 93.00 % from 84.00 % +9.00 95 %: +4.00 to +14.00",
        "Against the champion, the model promoted until now, accuracy went from",
        "Held-out people under noise:60",
        "Thresholds were chosen on 210 validation images",
        "Label_1 11 1,199 0.400 0.400 92.96 % from 83.96 % 89.0 to 96.0",
        "Label_5 too few 2 1,195 – – – from –",
        "Label_1: 84.0 % → 93.0 %",  # a bar of the AUC
        "Label_5: – % → – %",
        "of 900 training images, and of the 1,200 that the first epoch drew",
        "Label_1: 1.4 % → 10.1 %",  # a bar of the sampling
        "labels labelled predicted",
        "✓ Label_1 ✗ Label_2: missed ✗ Label_4: not there",
        "✓ none of the labels",
        "✗ Label_1: not there score 0.987",
        "✗ Label_2: missed score 0.004",
        "Left of the dotted line the head was trained alone.",
        "AUC 0 % 20 %",  # of the validation, by epoch
        "9 identities: 6 trained on, 3 held out.",
    ):
        assert words in told, words
    assert "The small network from scratch" not in told


def test_page_of_classes_compares_three_ways(tmp_path: Path) -> None:
    told = told_by(make_run(tmp_path, task="classes", full=True))
    for words in (
        "which none of them was trained on, of 8 classes.",
        "Held-out images under noise:60",
        "Against the champion Against the network from scratch",
        "Accuracy 84.00 93.00 +9.00 +4.00 to +14.00 90.00 +3.00 −2.00 to +8.00 70.00 +23.00 +18.00 to +28.00",
        "feature extraction sface 84.00 % 83.00 % 82.00 % 0.400 1 2.5",
        "fine-tuned sface 93.00 % 92.00 % 91.00 % 0.175 3 7.5",
        "from scratch small_cnn 70.00 % 69.00 % 68.00 % 0.750 3 7.5",
        "the numbers are images",
        "true class taken for images of the class feature extraction fine-tuned from scratch",
        "fine-tuned 0.610 40 83.00 % 4.00 % 97.00 %",
        "Thresholds were chosen on 210 validation images of known classes.",
        f"✗ refused is {HOSTILE}",
        "✗ person 1 is",
        "Images per class",
        "9 classes: 8 trained on, 9 with held-out images.",
        "Crops 9 of 36 crops, evenly over the table, no class twice.",
        "The small network from scratch Best epoch 2 of 3",
    ):
        assert words in told, words


def test_page_of_classes_without_a_network_from_scratch_compares_two(tmp_path: Path) -> None:
    told = told_by(make_run(tmp_path, task="classes"))
    assert "Two ways to a classifier" in told and "from scratch" not in told.partition("Skip to")[2]


def test_many_classes_have_a_table_of_the_most_confused(tmp_path: Path) -> None:
    told = told_by(make_run(tmp_path, task="classes", full=True, identities=70))
    assert "Rows are true classes" not in told and "Confused most often" in told
    assert "The 60 of 69 classes with the lowest F1" in told and "The rarest classes are shown." in told
    assert "Classes by their number of images" in told


def test_unknown_that_was_not_asked_for_has_no_section(tmp_path: Path) -> None:
    run = make_run(tmp_path, task="classes")
    models = {model: run.evaluation()[model] for model in ("baseline", "finetuned")}
    for sets in models.values():
        for figures in sets.values():
            figures["unknown"] = None
    run.change_evaluation(**models)
    assert "The unknown" not in told_by(run)


def test_figures_that_no_label_has_enough_images_for_are_dashes(tmp_path: Path) -> None:
    run = make_run(tmp_path, task="attributes", degradation="none", labels=6)
    finetuned = run.evaluation()["finetuned"]
    finetuned["heldout"]["auc"] = None
    run.change_evaluation(finetuned=finetuned)
    assert "AUC 84.00 – –" in told_by(run)


def test_a_fallback_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, task="attributes")
    fallback = "sface, since resnet50's weights could not be had"
    edit(tmp_path / "model" / "model.json", lambda config: config["training"].update(fallback=fallback))
    assert f"Started otherwise than asked: {fallback}" in told_by(run)


def test_outputs_of_two_tasks_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, task="classes", full=True)
    for name in ("model", "scratch"):
        path = tmp_path / name / "model.json"
        config = json.loads(path.read_text())
        write_json(path, config | {"task": "attributes"})
        with pytest.raises(KubefaceError, match="a model is for task attributes, its evaluation for classes"):
            run.report()
        write_json(path, config)
    config["training"]["split"] = "0" * 64
    write_json(path, config)
    with pytest.raises(KubefaceError, match="worked on another split"):
        run.report()
    with pytest.raises(KubefaceError, match="scratch_model and the metrics of scratch go together"):
        run.with_outputs(scratch_model=None).report()


def test_correlations_stand_above_and_predictions_below_the_diagonal() -> None:
    phi = LabelCorrelation(labels=["a", "b", "c"], true=[[1, 0.5, None]] * 3, predicted=[[-0.2, -0.2, None]] * 3)
    drawn, pairs = correlation(phi)
    assert drawn is not None
    count = {shade.style: shade.path.count("M") for shade in drawn.shades}
    assert count == {"above": 1, "below": 3, "absent": 2}
    assert pairs == [CorrelatedPair(("a", "b"), 0.5, -0.2)]
    assert correlation(LabelCorrelation(labels=["a"], true=[[1]], predicted=[[1]])) == (None, [])


def figures(labels: list[str], confusion: list[list[int]] | None = None) -> ClassesFigures:
    """Figures of classes, perhaps with a confusion matrix of their own."""
    made = ClassesFigures.model_validate(class_figures(labels, 0.9))
    return made.model_copy(update={"confusion": confusion}) if confusion else made


def test_confused_pairs_are_those_of_the_fine_tuned_model() -> None:
    names = ["a", "b", "c"]
    after = figures(names, [[5, 0, 2], [3, 4, 0], [0, 0, 0]])
    before = figures(names, [[1, 3, 3], [0, 7, 0], [0, 0, 0]])
    first, second = confused(names, {"baseline": before, "finetuned": after})
    assert (first.true, first.predicted, first.counts["finetuned"]) == ("b", "a", 3)
    assert (second.true, second.predicted, second.images) == ("a", "c", 7)
    assert second.counts == {"baseline": 3, "finetuned": 2}


def test_confusion_is_drawn_with_numbers_without_and_not_at_all() -> None:
    names = [f"n{number}" for number in range(41)]

    def drawn(count: int) -> Any:
        return maps(names[:count], {"finetuned": figures(names[:count])}).get("finetuned")

    assert drawn(20).texts and not drawn(21).texts and drawn(40) and drawn(41) is None
    assert {shade.style for shade in drawn(21).shades} == {"above", "below"}


def test_bars_are_shares_and_the_rarest_come_last() -> None:
    (panel,) = pair_panels({"a": (0.9, 0.95), "b": (None, 0.5), "c": (None, None)}, ("baseline", "finetuned"))
    assert [len(bar.blocks) for bar in panel.bars] == [2, 1, 0]
    assert panel.bars[0].blocks[1].width == round(0.95 * (BAR_RIGHT - BAR_LEFT), 1)
    assert [bar.text for bar in panel.bars] == ["95.0", "50.0", "–"]
    before = {f"n{number}": number for number in range(70)}
    panels = sampling_panels(Sampling(images=100, drawn=50, before=before, after={"n0": 5}))
    names = [bar.name for panel in panels for bar in panel.bars]
    assert (names[0], names[-1], len(names)) == ("n59", "n0", 60)
    assert panels[-1].bars[-1].description == "0.0 % → 10.0 %"
