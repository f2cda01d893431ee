"""The evaluation on real faces: three held-out people, 15 crops, 105 pairs."""

import csv
import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from kubeface.evaluate.provenance import EvaluationResult
from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB, decode_rgb, encode_png
from kubeface.metrics.verification import decisions, verification
from kubeface.models.model import load_model, load_pretrained
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.table import Table, TableWriter
from tests.kubeface.conftest import PEOPLE, SmallLfw
from tests.support.evaluating import evaluate, lfw

ROOT = Path(__file__).resolve().parents[3]
SETS, MODELS = ("heldout", "heldout_clean"), ("baseline", "finetuned")
FIGURES = {
    "accuracy", "accuracy_standard_error", "threshold", "auc", "eer", "tar_at_far", "genuine_pairs", "impostor_pairs",
}  # fmt: skip
QUICK: dict[str, Any] = {"bootstrap": 100, "device": "cpu", "probes": "none"}
NOISY = QUICK | {"degradation": "noise:60", "probes": "clean lowres:6", "fmr": 0.1}


def read(folder: Path, name: str = "evaluation.json") -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / name).read_text())
    return value


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def evaluated(
    aligned_table: Path, split_table: Path, tuned: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, EvaluationResult]:
    """The evaluation of the short training on noisy crops, and what the step returned."""
    out = tmp_path_factory.mktemp("evaluated") / "evaluation"
    return out, evaluate(aligned_table, split_table, tuned, out, **NOISY)


@pytest.fixture(scope="module")
def heldout(aligned_table: Path, split_table: Path) -> dict[str, tuple[str, RGB]]:
    """Person and crop of each held-out image."""
    parts = Table(split_table, "split").columns(["image_id", "split"]).to_pylist()
    wanted = {row["image_id"] for row in parts if row["split"] == "heldout"}
    return {
        row["image_id"]: (row["identity"], decode_rgb(row["image"]))
        for rows in Table(aligned_table, "aligned").row_groups()
        for row in rows
        if row["image_id"] in wanted
    }


def dealt(table: Path, out: Path, parts: dict[str, list[str]]) -> Path:
    """A split table with the images of each person dealt out as listed; the rest is excluded."""
    seen: dict[str, int] = {}
    with TableWriter(out, "split", "test", {}) as writer:
        for row in Table(table, "aligned").columns(["image_id", "identity"]).to_pylist():
            number = seen[row["identity"]] = seen.get(row["identity"], -1) + 1
            wanted = parts.get(row["identity"], [])
            writer.add(row | {"split": wanted[number] if number < len(wanted) else "excluded"})
    return out


# --- what it leaves -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluation_is_complete(
    evaluated: tuple[Path, EvaluationResult], aligned_table: Path, split_table: Path, heldout: dict[str, Any]
) -> None:
    folder, returned = evaluated
    found = read(folder)
    for model in MODELS:
        assert set(found[model]) == set(SETS)
        for figures in found[model].values():
            assert set(figures) == FIGURES | {"flip"}
            assert set(figures["flip"]) == FIGURES
            assert (figures["genuine_pairs"], figures["impostor_pairs"]) == (30, 75)
            assert figures != figures["flip"]
    assert set(found["gain"]) == set(SETS)
    for entry in found["gain"].values():
        assert set(entry) == {"auc", "tar", "accuracy"}
    assert (found["people"], found["images"], found["pairs"]) == (3, 15, 105) and len(heldout) == 15
    assert found["degradation"] == "noise:60"
    assert found["gate_far"] == 0.1  # 75 impostors tell no smaller rate
    assert list(found["baseline"]["heldout"]["tar_at_far"]) == ["0.1"]
    assert (found["aligned"], found["split"]) == (
        Table(aligned_table, "aligned").sha256,
        Table(split_table, "split").sha256,
    )
    assert set(found["gate"]) == {"better", "reason", "checks", "rule"}
    assert (returned.rows_in, returned.rows_out, returned.identities) == (15, 105, 3)
    for model in MODELS:
        for key in ("accuracy", "auc", "eer"):
            assert returned.figures[f"{model}_{key}"] == found[model]["heldout"][key]
    assert not list(folder.parent.glob(".*"))


def test_scores_are_cosines_of_the_embeddings(
    evaluated: tuple[Path, EvaluationResult], tuned: Path, heldout: dict[str, tuple[str, RGB]]
) -> None:
    rows = pq.read_table(evaluated[0] / "scores.parquet").to_pylist()
    names = sorted(heldout)
    clean = np.stack([heldout[name][1] for name in names])
    noise = Degradation.parse("noise:60")
    noisy = np.stack([noise(heldout[name][1], "probe", name) for name in names])
    models = {"baseline": load_pretrained("sface"), "finetuned": load_model(tuned)}
    for model, network in models.items():
        for which, crops in (("heldout", noisy), ("heldout_clean", clean)):
            cosine = (lambda e: e @ e.T)(network.embed(crops))
            for row in rows:
                expected = cosine[names.index(row["left"]), names.index(row["right"])]
                assert row[f"{which}_{model}"] == pytest.approx(expected, abs=1e-5)


def test_scores_name_every_pair_once(
    evaluated: tuple[Path, EvaluationResult], heldout: dict[str, tuple[str, RGB]]
) -> None:
    rows = pq.read_table(evaluated[0] / "scores.parquet").to_pylist()
    pairs = {frozenset((row["left"], row["right"])) for row in rows}
    assert pairs == {frozenset((a, b)) for a in heldout for b in heldout if a < b}
    assert len(rows) == len(pairs) == 105
    for row in rows:
        assert row["same"] == (heldout[row["left"]][0] == heldout[row["right"]][0])


def test_figures_follow_from_the_scores(evaluated: tuple[Path, EvaluationResult]) -> None:
    found, scores = read(evaluated[0]), pq.read_table(evaluated[0] / "scores.parquet").to_pydict()
    same = np.array(scores["same"])
    for model in MODELS:
        for name in SETS:
            measured = np.array(scores[f"{name}_{model}"])
            figures = found[model][name]
            assert figures["auc"] == pytest.approx(roc_auc_score(same, measured), abs=1e-9)
            expected = verification(measured, same)
            assert figures["accuracy"] == pytest.approx(expected.accuracy)
            assert figures["eer"] == pytest.approx(expected.eer)
            assert figures["threshold"] == pytest.approx(expected.threshold, abs=1e-6)
    for name in SETS:
        for key, rate in (("auc", lambda f: f["auc"]), ("tar", lambda f: f["tar_at_far"]["0.1"])):
            entry = found["gain"][name][key]
            assert entry["before"] == pytest.approx(rate(found["baseline"][name]))
            assert entry["after"] == pytest.approx(rate(found["finetuned"][name]))
            assert entry["gain"] == pytest.approx(entry["after"] - entry["before"])
    assert found["baseline"]["heldout"]["auc"] < found["baseline"]["heldout_clean"]["auc"]


def test_curves_and_thresholds(evaluated: tuple[Path, EvaluationResult]) -> None:
    roc, found = read(evaluated[0], "roc.json"), read(evaluated[0])
    with open(evaluated[0] / "thresholds.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["set", "model", "threshold", "fmr", "fnmr", "accuracy"]
    for name in SETS:
        for model in MODELS:
            points = roc[name][model]
            assert np.trapezoid(points["tmr"], points["fmr"]) == pytest.approx(found[model][name]["auc"], abs=1e-6)
            rows = [row for row in table if (row["set"], row["model"]) == (name, model)]
            assert len(rows) == 21
            fmr, fnmr = ([float(row[key]) for row in rows] for key in ("fmr", "fnmr"))
            assert fmr == sorted(fmr, reverse=True) and fnmr == sorted(fnmr)
            accuracies = [(30 * (1 - b) + 75 * (1 - a)) / 105 for a, b in zip(fmr, fnmr, strict=True)]
            assert [float(row["accuracy"]) for row in rows] == pytest.approx(accuracies)


def test_hardest_pairs(evaluated: tuple[Path, EvaluationResult], heldout: dict[str, tuple[str, RGB]]) -> None:
    hardest = read(evaluated[0])["hardest"]
    rows = pq.read_table(evaluated[0] / "scores.parquet").to_pylist()
    for kind, same in (("genuine", True), ("impostor", False)):
        expected = sorted((row["heldout_finetuned"] for row in rows if row["same"] is same), reverse=not same)
        assert [pair["after"] for pair in hardest[kind]] == pytest.approx(expected[:8])
        for pair in hardest[kind]:
            people = (heldout[pair["left"]][0], heldout[pair["right"]][0])
            assert people == (pair["left_identity"], pair["right_identity"])
            assert (people[0] == people[1]) is same
            (row,) = [row for row in rows if (row["left"], row["right"]) == (pair["left"], pair["right"])]
            assert pair["before"] == pytest.approx(row["heldout_baseline"])


def test_pictures(evaluated: tuple[Path, EvaluationResult], heldout: dict[str, tuple[str, RGB]]) -> None:
    folder, _ = evaluated
    noise = Degradation.parse("noise:60")
    found = read(folder)
    shown = [pair for pairs in found["hardest"].values() for pair in pairs] + found["forgotten"]
    named = {pair[side].replace("/", "__") for pair in shown for side in ("left", "right")}
    assert {path.stem for path in (folder / "pairs").iterdir()} == named
    for name in named:
        crop = heldout[name.removeprefix("clean__")][1]
        with Image.open(folder / "pairs" / f"{name}.png") as picture:
            seen = crop if name.startswith("clean__") else noise(crop, "probe", name)
            np.testing.assert_array_equal(np.array(picture), seen)
    samples = list((folder / "samples").iterdir())
    assert len(samples) == 8
    for path in samples:
        with Image.open(path) as picture:
            clean, bad = np.split(np.array(picture), 2, axis=1)
        np.testing.assert_array_equal(clean, heldout[path.stem][1])
        np.testing.assert_array_equal(bad, noise(clean, "probe", path.stem))


@pytest.mark.slow
def test_same_input_same_bytes(
    evaluated: tuple[Path, EvaluationResult], aligned_table: Path, split_table: Path, tuned: Path, tmp_path: Path
) -> None:
    again = evaluate(aligned_table, split_table, tuned, tmp_path / "again", **NOISY)
    assert digests(tmp_path / "again") == digests(evaluated[0])
    assert again == evaluated[1]


# --- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_unchanged_model_is_not_better(aligned_table: Path, split_table: Path, unchanged: Path, tmp_path: Path) -> None:
    evaluate(aligned_table, split_table, unchanged, tmp_path / "out", degradation="noise:60", **QUICK)
    found = read(tmp_path / "out")
    assert found["baseline"] == found["finetuned"]
    for entry in (figures for gains in found["gain"].values() for figures in gains.values()):
        assert entry["gain"] == entry["gain_low"] == entry["gain_high"] == 0.0
    assert found["gate"]["better"] is False
    assert {check["name"]: check["passed"] for check in found["gate"]["checks"]} == {
        "heldout auc": False,
        "heldout tar": False,
        "heldout_clean": True,
    }
    scores = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    for name in SETS:
        assert scores[f"{name}_baseline"] == scores[f"{name}_finetuned"]


@pytest.mark.slow
def test_mended_model_is_better_and_spoilt_one_is_not(
    aligned_table: Path, split_table: Path, mended: Path, spoilt: Path, tmp_path: Path
) -> None:
    """The baseline is what the training started from: damaged weights once, the published ones the other time."""
    evaluate(aligned_table, split_table, mended, tmp_path / "mended", **QUICK)
    better = read(tmp_path / "mended")
    assert better["gate"]["better"] is True
    assert better["gate"]["reason"].startswith("better on 3 held-out people: AUC ")
    assert better["gain"]["heldout"]["auc"]["gain_low"] > 0
    evaluate(aligned_table, split_table, spoilt, tmp_path / "spoilt", **QUICK)
    worse = read(tmp_path / "spoilt")
    assert worse["gate"]["better"] is False
    assert (worse["baseline"], worse["finetuned"]) == (better["finetuned"], better["baseline"])
    for key in ("auc", "tar"):
        there, back = better["gain"]["heldout"][key], worse["gain"]["heldout"][key]
        assert back["gain"] == pytest.approx(-there["gain"])
        assert back["gain_low"] == pytest.approx(-there["gain_high"])
        assert back["gain_high"] < 0


def test_without_degradation_there_is_one_set(
    aligned_table: Path, split_table: Path, unchanged: Path, heldout: dict[str, tuple[str, RGB]], tmp_path: Path
) -> None:
    evaluate(aligned_table, split_table, unchanged, tmp_path / "out", **QUICK)
    found = read(tmp_path / "out")
    assert set(found["gain"]) == set(found["baseline"]) == {"heldout"}
    assert found["degradation"] == "none"
    assert found["finetuned"]["heldout"]["auc"] > 0.95
    for path in (tmp_path / "out" / "samples").iterdir():
        with Image.open(path) as picture:
            np.testing.assert_array_equal(np.array(picture), heldout[path.stem][1])


# --- LFW ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_lfw_beside_the_held_out_people(
    aligned_table: Path, split_table: Path, spoilt: Path, small_lfw: SmallLfw, tmp_path: Path
) -> None:
    evaluate(
        aligned_table, split_table, spoilt, tmp_path / "out", gate={"max_loss_lfw": 0.02}, **QUICK,
        lfw_archive=str(small_lfw.archive), lfw_pairs=str(small_lfw.pairs),
    )  # fmt: skip
    found = read(tmp_path / "out")
    assert found["lfw"] == {"pairs": 16, "images": 18, "detector": "mtcnn", "fallback": []}
    for model in MODELS:
        assert set(found[model]["lfw"]) == FIGURES | {"flip"}
    before, after = (found[model]["lfw"] for model in MODELS)
    assert before["auc"] == 1.0 and after["auc"] < 1.0
    assert before["accuracy"] > after["accuracy"] + 0.02
    (check,) = [check for check in found["gate"]["checks"] if check["name"] == "lfw"]
    assert check["passed"] is False
    assert f"{100 * before['accuracy']:.2f} % → {100 * after['accuracy']:.2f} %" in found["gate"]["reason"]
    assert set(read(tmp_path / "out", "roc.json")["lfw"]) == set(MODELS)
    lost = [pair for pair in found["forgotten"] if pair["set"] == "lfw"]
    assert lost and lost[0]["left_identity"] in PEOPLE
    for pair in lost:
        assert (tmp_path / "out" / "pairs" / f"{pair['left'].replace('/', '__')}.png").is_file()


def test_lfw_of_one_model(small_lfw: SmallLfw, mended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = lfw(str(small_lfw.archive), str(small_lfw.pairs), str(mended), detector="retinaface", device="cpu")
    assert (found.rows_in, found.rows_out, found.fallback, found.auc) == (18, 16, [], 1.0)
    told = capsys.readouterr().out
    assert "pairs scored 16 of 16, 18 images" in told
    assert "images without a face, centre crop used 0\n" in told
    assert f"accuracy {100 * found.accuracy:.2f} % ± {100 * found.accuracy_standard_error:.2f}" in told
    assert found.flip and f"accuracy with flip {100 * found.flip.accuracy:.2f} %" in told


# --- what else is told ----------------------------------------------------------------------------------------------


def test_paired_tests_follow_from_the_scores(evaluated: tuple[Path, EvaluationResult]) -> None:
    found, scores = read(evaluated[0]), pq.read_table(evaluated[0] / "scores.parquet").to_pydict()
    same = np.array(scores["same"])
    for name in SETS:
        before, after = (decisions(np.array(scores[f"{name}_{model}"], float), same)[0] == same for model in MODELS)
        told = found["paired"][name]
        assert told["mcnemar"]["only_before"] == np.sum(before & ~after) == sum(told["forgotten"].values())
        assert told["mcnemar"]["only_after"] == np.sum(after & ~before) == sum(told["learned"].values())
        assert len([pair for pair in found["forgotten"] if pair["set"] == name]) <= np.sum(before & ~after)
        for model in MODELS:
            told = found["histograms"][name][model]
            assert (sum(told["genuine"]), sum(told["impostor"])) == (30, 75)


def test_probes_calibration_and_the_rest(evaluated: tuple[Path, EvaluationResult], tuned: Path) -> None:
    found, threshold = read(evaluated[0]), read(evaluated[0], "threshold.json")
    clean, small = found["probes"]
    assert (clean["probe"], small["probe"]) == ("clean", "lowres:6")
    for model in MODELS:
        assert clean[model]["auc"] == pytest.approx(found[model]["heldout_clean"]["auc"], abs=1e-9)
        assert found["identification"]["heldout"][model]["gallery"] == 3
        assert found["calibration"][model]["fmr"] == 0.1 and found["calibration"][model]["supported"]
    assert small["baseline"]["auc"] < clean["baseline"]["auc"]
    assert threshold["weights_sha256"] == read(tuned, "model.json")["weights_sha256"]
    assert threshold["threshold"] == found["calibration"]["finetuned"]["threshold"]
    assert threshold["degradation"] == "noise:60"
    assert found["compatibility"]["comparable"] and found["compatibility"]["old"] == "baseline"
    assert found["groups"] == {} and found["gain_over_champion"] == {}


@pytest.mark.slow
def test_the_champion_is_compared_with_too(
    aligned_table: Path, split_table: Path, mended: Path, tmp_path: Path
) -> None:
    """Better than the damaged weights it started from, but no better than the promoted model, which is the same."""
    evaluate(aligned_table, split_table, mended, tmp_path / "out", champion=str(mended), **QUICK)
    found = read(tmp_path / "out")
    assert found["champion"] == found["finetuned"] != found["baseline"]
    assert found["gain_over_champion"]["heldout"]["auc"]["gain"] == 0
    assert found["models"]["champion"]["uri"] == str(mended)
    failed = {check["name"] for check in found["gate"]["checks"] if not check["passed"]}
    assert failed == {"champion auc", "champion tar"} and not found["gate"]["better"]
    assert found["compatibility"]["old"] == "champion"


@pytest.mark.slow
def test_own_pairs_groups_and_a_bin_set(
    faces_table: Path, aligned_table: Path, split_table: Path, mended: Path, heldout: dict[str, tuple[str, RGB]],
    tmp_path: Path,
) -> None:  # fmt: skip
    grouped = tmp_path / "grouped"
    with TableWriter(grouped, "aligned", "test", Table(aligned_table, "aligned").manifest.settings) as writer:
        for rows in Table(aligned_table, "aligned").row_groups():
            for row in rows:
                writer.add(row | {"groups": json.dumps({"camera": "door" if row["identity"] < "s4" else "yard"})})
    ids = sorted(heldout)
    sources = {row["image_id"]: row["source"]
               for row in Table(aligned_table, "aligned").columns(["image_id", "source"]).to_pylist()}  # fmt: skip
    named = [(ids[a], sources[ids[b]], heldout[ids[a]][0] == heldout[ids[b]][0])
             for a in range(len(ids)) for b in range(a) if (a + b) % 2]  # fmt: skip
    own = tmp_path / "own.csv"
    own.write_text("left,right,same\n" + "".join(f"{left},{right},{int(same)}\n" for left, right, same in named))
    crops = [heldout[name][1] for name in sorted(ids, key=lambda name: heldout[name][0])]
    faces = [encode_png(crop) for crop in (*crops[:2], *crops[5:7], crops[0], crops[5], crops[1], crops[10])] * 5
    (tmp_path / "cfp_fp.bin").write_bytes(pickle.dumps((faces, [True, True, False, False] * 5), protocol=4))
    evaluate(
        grouped, split_table, mended, tmp_path / "out", pairs=str(own), bin_sets=str(tmp_path / "cfp_fp.bin"), **QUICK
    )
    found = read(tmp_path / "out")
    assert set(found["gain"]) == {"heldout", "pairs", "cfp_fp"}
    figures = found["finetuned"]["pairs"]
    assert figures["genuine_pairs"] == sum(same for *_, same in named)
    assert figures["genuine_pairs"] + figures["impostor_pairs"] == len(named)
    assert found["finetuned"]["cfp_fp"]["auc"] == 1.0 > found["baseline"]["cfp_fp"]["auc"]
    assert {row["group"] for row in found["groups"]["camera"]["rows"]} == {"door", "yard"}
    assert sum(row["images"] for row in found["groups"]["camera"]["rows"]) == 15
    assert {check["name"] for check in found["gate"]["checks"]} >= {"heldout auc", "pairs", "cfp_fp"}


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lfw_archive": "lfw.tar"}, "lfw_archive and lfw_pairs go together"),
        ({"lfw_pairs": "pairs.txt"}, "lfw_archive and lfw_pairs go together"),
        ({"gate": {"max_loss": -0.01}}, "gate.max_loss is -0.01: "),
        ({"gate": {"target": "lfw"}}, "gate: target is 'lfw', which is not measured"),
        ({"fmr": 1.0}, "fmr is 1.0: input should be less than 1"),
        ({"probes": "fog"}, "probes: degradation 'fog' is unknown"),
        ({"bin_sets": "a/lfw.bin b/lfw.bin"}, "bin_sets is 'a/lfw.bin b/lfw.bin': it names lfw_bin twice"),
        ({"pairs": "/nowhere/own.csv"}, "/nowhere/own.csv does not exist"),
        ({"champion": "/nowhere/model"}, "/nowhere/model/model.json"),
        ({"bootstrap": 99}, "bootstrap is 99"),
        ({"max_pairs": 999}, "max_pairs is 999"),
        ({"degradation": "fog"}, "degradation 'fog' is unknown"),
        ({"device": "tpu"}, "device is 'tpu': input should be 'auto', 'cpu' or 'cuda'"),
        ({"lfw_archive": "/nowhere/lfw.tar", "lfw_pairs": "/nowhere/pairs.txt"}, "/nowhere/pairs.txt does not exist"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_setting_is_named(
    wrong: dict[str, Any], said: str, aligned_table: Path, split_table: Path, mended: Path, tmp_path: Path
) -> None:
    with pytest.raises(KubefaceError) as caught:
        evaluate(aligned_table, split_table, mended, tmp_path / "out", **QUICK | wrong)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"s1": ["train"] * 5}, "holds out 0 people, at least 2 are needed"),
        ({"s1": ["heldout"] * 5, "s2": ["train"] * 5}, "holds out 1 people, at least 2 are needed"),
        ({"s1": ["heldout"] * 3, "s2": ["heldout"] * 3}, "15 pairs of held-out people are too few to measure on"),
        ({f"s{n}": ["heldout"] for n in range(1, 7)}, "no held-out person has two images"),
    ],
)
def test_too_few_held_out_people(
    parts: dict[str, list[str]], said: str, aligned_table: Path, mended: Path, tmp_path: Path
) -> None:
    divided = dealt(aligned_table, tmp_path / "split", parts)
    with pytest.raises(KubefaceError, match=said):
        evaluate(aligned_table, divided, mended, tmp_path / "out", **QUICK)
    assert {path.name for path in tmp_path.iterdir()} == {"split"}


def test_split_of_another_table(aligned_table: Path, split_table: Path, mended: Path, tmp_path: Path) -> None:
    with TableWriter(tmp_path / "other", "aligned", "test", {}) as writer:
        for rows in Table(aligned_table, "aligned").row_groups():
            for row in rows[:-1]:
                writer.add(row | {"image_id": row["image_id"][::-1]})
    with pytest.raises(KubefaceError, match="other lacks images that the split names: run split on this table"):
        evaluate(tmp_path / "other", split_table, mended, tmp_path / "out", **QUICK)
    assert {path.name for path in tmp_path.iterdir()} == {"other"}


def test_people_who_were_trained_on_are_refused(
    aligned_table: Path, split_table: Path, mended: Path, tmp_path: Path
) -> None:
    rows = Table(split_table, "split").columns(["identity", "split"]).to_pylist()
    held = min(row["identity"] for row in rows if row["split"] == "heldout")
    folder = Path(shutil.copytree(mended, tmp_path / "model"))
    (folder / "identities.json").write_text(json.dumps(["somebody", held]))
    with pytest.raises(KubefaceError, match=f"1 held-out people of .* was trained on, {held} first"):
        evaluate(aligned_table, split_table, folder, tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "start.onnx").unlink(), r"start\.onnx does not exist"),
        (lambda folder: (folder / "model.onnx").unlink(), r"model\.onnx does not exist"),
        (
            lambda folder: shutil.copyfile(folder / "model.onnx", folder / "start.onnx"),
            r"start\.onnx is not the file that model\.json describes",
        ),
        (
            lambda folder: reworded(folder, {"sha256": "0" * 64}),
            r"model\.onnx is not the file that model\.json describes",
        ),
        (lambda folder: reworded(folder, {"start": None}), r"has no start\.onnx, the model that it was trained from"),
        (lambda folder: reworded(folder, None), r"was fine-tuned without ONNX, .*: fine-tune with --onnx$"),
    ],
)
def test_a_model_that_is_not_the_one_described_is_refused(
    spoil: Callable[[Path], Any], said: str, aligned_table: Path, split_table: Path, mended: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(mended, tmp_path / "model"))
    spoil(folder)
    with pytest.raises(KubefaceError, match=said) as caught:
        evaluate(aligned_table, split_table, folder, tmp_path / "out", **QUICK)
    assert "\n" not in str(caught.value)
    if said.startswith("model") or "without" in said:  # start.onnx is nobody's business once a model is promoted
        with pytest.raises(KubefaceError, match=said):
            evaluate(aligned_table, split_table, mended, tmp_path / "out", champion=str(folder), **QUICK)
    assert not (tmp_path / "out").exists()


def reworded(folder: Path, change: dict[str, Any] | None) -> None:
    """Another entry on ONNX in model.json; none with None."""
    config = read(folder, "model.json")
    config["training"]["onnx"] = None if change is None else config["training"]["onnx"] | change
    (folder / "model.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lfw_archive": "a.tar", "lfw_pairs": "/nowhere.txt"}, r"nowhere\.txt"),
        ({"bin_sets": "/nowhere/agedb_30.bin"}, r"nowhere/agedb_30\.bin does not exist"),
        ({"gate": {"target": "agedb_30"}}, "target is 'agedb_30', which is not measured: use one of heldout$"),
    ],
)
def test_a_wrong_set_is_said_before_the_work(
    wrong: dict[str, Any], said: str, aligned_table: Path, split_table: Path, mended: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("kubeface.evaluate.step.load_models", lambda *_: pytest.fail("the work began"))
    with pytest.raises(KubefaceError, match=said):
        evaluate(aligned_table, split_table, mended, tmp_path / "out", **QUICK | wrong)


def test_model_that_is_none(aligned_table: Path, split_table: Path, mended: Path, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"nowhere/model\.json is missing"):
        evaluate(aligned_table, split_table, tmp_path / "nowhere", tmp_path / "out", **QUICK)
    folder = Path(shutil.copytree(mended, tmp_path / "model"))
    config = read(folder, "model.json")
    (folder / "model.json").write_text(json.dumps(config | {"training": {}}))
    with pytest.raises(KubefaceError, match=r"model\.json tells of no training"):
        evaluate(aligned_table, split_table, folder, tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


# --- without torch --------------------------------------------------------------------------------------------------

# A None in sys.modules would be taken for torch by scipy, which looks there whether somebody imported it.
WITHOUT_TORCH = """
import runpy, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "facenet_pytorch", "h5py", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
import components.evaluate.component, kubeface.evaluate.step
runpy.run_module("kubeface", run_name="__main__", alter_sys=True)
"""


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_the_step_runs_without_torch(
    aligned_table: Path, split_table: Path, mended: Path, small_lfw: SmallLfw, tmp_path: Path
) -> None:
    tables = ("--aligned", str(aligned_table), "--split", str(split_table), "--model", str(mended))
    further = ("--champion", str(mended), "--bootstrap", "100", "--probes", "clean", "--degradation", "noise:60")
    done = without_torch("evaluate", *tables, "--out", str(tmp_path / "out"), *further)
    assert done.returncode == 0, done.stderr
    evaluate(aligned_table, split_table, mended, tmp_path / "with", champion=str(mended), **NOISY | {
        "probes": "clean", "fmr": 0.001
    })  # fmt: skip
    assert digests(tmp_path / "out") == digests(tmp_path / "with")
    sets = ("--archive", str(small_lfw.archive), "--pairs", str(small_lfw.pairs), "--detector", "retinaface")
    done = without_torch("lfw", *sets, "--model", str(mended))
    assert done.returncode == 0, done.stderr
    assert "pairs scored 16 of 16" in done.stdout
    done = without_torch("lfw", *sets)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("error: sface is no model folder, and weights that are none need torch (")
    assert "give --model a folder of finetune or a promoted version" in done.stderr
