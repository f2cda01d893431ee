"""The evaluation on real faces: three held-out people, 15 crops, 105 pairs."""

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from kubeface.evaluate.provenance import EvaluationResult
from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB, encode_png
from kubeface.metrics.verification import decisions, verification
from kubeface.models.model import load_model, load_pretrained
from kubeface.tables.table import Table, TableWriter
from tests.kubeface.conftest import PEOPLE, SmallLfw
from tests.support.commands import run_without
from tests.support.evaluating import QUICK, digests, evaluate, read
from tests.support.tables import rows_of

SETS, MODELS = ("heldout", "heldout_clean"), ("baseline", "finetuned")
FIGURES = {
    "accuracy", "accuracy_standard_error", "threshold", "auc", "eer", "tar_at_far", "genuine_pairs", "impostor_pairs",
}  # fmt: skip
NOISY = QUICK | {"degradation": "noise:60", "probes": "clean lowres:6", "fmr": 0.1}


@pytest.fixture(scope="module")
def evaluated(
    aligned_table: Path, split_table: Path, tuned: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, EvaluationResult]:
    """The evaluation of the short training on noisy crops, and what the step returned."""
    out = tmp_path_factory.mktemp("evaluated") / "evaluation"
    return out, evaluate(aligned_table, split_table, tuned, out, **NOISY)


@pytest.fixture(scope="module")
def with_champion(
    aligned_table: Path, split_table: Path, mended: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, EvaluationResult]:
    """The evaluation of a model that is the promoted one, and what the step returned."""
    out = tmp_path_factory.mktemp("with_champion") / "evaluation"
    options = QUICK | {"degradation": "noise:60", "probes": "clean"}
    return out, evaluate(aligned_table, split_table, mended, out, champion=str(mended), **options)


@pytest.fixture(scope="module")
def on_every_set(
    aligned_table: Path, split_table: Path, mended: Path, heldout: dict[str, tuple[str, RGB]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """The evaluation of mended weights without a degradation, on own pairs, a .bin set and groups too."""
    folder = tmp_path_factory.mktemp("on_every_set")
    table = Table(aligned_table, "aligned")
    with TableWriter(folder / "grouped", "aligned", "test", table.manifest.settings) as writer:
        for row in rows_of(table):
            writer.add(row | {"groups": json.dumps({"camera": "door" if row["identity"] < "s4" else "yard"})})
    ids = sorted(heldout)
    sources = {row["image_id"]: row["source"] for row in rows_of(table, ["image_id", "source"])}
    own = [
        f"{ids[a]},{sources[ids[b]]},{int(heldout[ids[a]][0] == heldout[ids[b]][0])}\n"
        for a in range(len(ids))
        for b in range(a)
        if (a + b) % 2
    ]
    (folder / "own.csv").write_text("left,right,same\n" + "".join(own))
    crops = [heldout[name][1] for name in sorted(ids, key=lambda name: heldout[name][0])]
    faces = [encode_png(crop) for crop in (*crops[:2], *crops[5:7], crops[0], crops[5], crops[1], crops[10])] * 5
    (folder / "cfp_fp.bin").write_bytes(pickle.dumps((faces, [True, True, False, False] * 5), protocol=4))
    evaluate(
        folder / "grouped", split_table, mended, folder / "out", pairs=str(folder / "own.csv"),
        bin_sets=str(folder / "cfp_fp.bin"), **QUICK,
    )  # fmt: skip
    return folder / "out"


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
    told = returned.model_dump(mode="json")
    assert told["better"] == found["gate"]["better"]
    for key in ("auc", "tar"):
        entry = found["gain"]["heldout"][key]
        assert [told[f"{model}_{key}"] for model in MODELS] == pytest.approx([entry["before"], entry["after"]])
        assert {bound: told[bound.replace("gain", f"gain_{key}")] for bound in entry if "gain" in bound} == {
            bound: entry[bound] for bound in entry if "gain" in bound
        }
    assert told["clean_loss"] == -found["gain"]["heldout_clean"]["auc"]["gain"]
    assert not list(folder.parent.glob(".*"))
    # nothing of low resolution is added where none is measured
    assert not {"low_resolution", "resolutions", "hardest_cross"} & set(found) and "sizes" not in found["settings"]
    assert not (folder / "scores_cross.parquet").exists() and not (folder / "sizes").exists()


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


def test_mended_model_is_better_on_every_set(on_every_set: Path, heldout: dict[str, tuple[str, RGB]]) -> None:
    found = read(on_every_set)
    assert found["degradation"] == "none"
    assert set(found["gain"]) == set(found["baseline"]) == {"heldout", "pairs", "cfp_fp"}
    assert found["finetuned"]["heldout"]["auc"] > 0.95
    assert found["gate"]["better"] is True
    assert found["gate"]["reason"].startswith("better on 3 held-out people: AUC ")
    assert {check["name"] for check in found["gate"]["checks"]} >= {"heldout auc", "pairs", "cfp_fp"}
    assert found["gain"]["heldout"]["auc"]["gain_low"] > 0
    assert found["identification"]["heldout"]["finetuned"]["rank1"] == 1.0
    same = [heldout[ids[a]][0] == heldout[ids[b]][0]
            for ids in [sorted(heldout)] for a in range(len(ids)) for b in range(a) if (a + b) % 2]  # fmt: skip
    figures = found["finetuned"]["pairs"]
    assert (figures["genuine_pairs"], figures["impostor_pairs"]) == (sum(same), len(same) - sum(same))
    assert found["finetuned"]["cfp_fp"]["auc"] == 1.0 > found["baseline"]["cfp_fp"]["auc"]
    assert {row["group"] for row in found["groups"]["camera"]["rows"]} == {"door", "yard"}
    assert sum(row["images"] for row in found["groups"]["camera"]["rows"]) == 15
    for path in (on_every_set / "samples").iterdir():
        with Image.open(path) as picture:
            np.testing.assert_array_equal(np.array(picture), heldout[path.stem][1])


@pytest.mark.slow
def test_spoilt_model_is_worse_on_held_out_people_and_on_lfw(
    aligned_table: Path, split_table: Path, spoilt: Path, on_every_set: Path, small_lfw: SmallLfw, tmp_path: Path
) -> None:
    """The published weights are what it started from; of the mended model the damaged ones were."""
    evaluate(
        aligned_table, split_table, spoilt, tmp_path / "out", gate={"max_loss_lfw": 0.02}, **QUICK,
        lfw_archive=str(small_lfw.archive), lfw_pairs=str(small_lfw.pairs),
    )  # fmt: skip
    better, worse = read(on_every_set), read(tmp_path / "out")
    assert worse["gate"]["better"] is False
    for before, after in (MODELS, MODELS[::-1]):
        assert worse[before]["heldout"] == better[after]["heldout"]
    for key in ("auc", "tar"):
        there, back = better["gain"]["heldout"][key], worse["gain"]["heldout"][key]
        assert back["gain"] == pytest.approx(-there["gain"])
        assert back["gain_low"] == pytest.approx(-there["gain_high"])
        assert back["gain_high"] < 0
    assert worse["lfw"] == {"pairs": 16, "images": 18, "detector": "mtcnn", "fallback": []}
    for model in MODELS:
        assert set(worse[model]["lfw"]) == FIGURES | {"flip"}
    published, damaged = (worse[model]["lfw"] for model in MODELS)
    assert published["auc"] == 1.0 and damaged["auc"] < 1.0
    assert published["accuracy"] > damaged["accuracy"] + 0.02
    (check,) = [check for check in worse["gate"]["checks"] if check["name"] == "lfw"]
    assert check["passed"] is False
    text = f"{100 * published['accuracy']:.2f} % → {100 * damaged['accuracy']:.2f} %"
    assert text in worse["gate"]["reason"]
    assert set(read(tmp_path / "out", "roc.json")["lfw"]) == set(MODELS)
    lost = [pair for pair in worse["forgotten"] if pair["set"] == "lfw"]
    assert lost and lost[0]["left_identity"] in PEOPLE
    for pair in lost:
        assert (tmp_path / "out" / "pairs" / f"{pair['left'].replace('/', '__')}.png").is_file()


def test_the_champion_is_compared_with_too(with_champion: tuple[Path, EvaluationResult], mended: Path) -> None:
    """Better than the damaged weights it started from, but no better than the promoted model, which is the same."""
    found = read(with_champion[0])
    assert found["champion"] == found["finetuned"] != found["baseline"]
    assert found["gain_over_champion"]["heldout"]["auc"]["gain"] == 0
    assert found["models"]["champion"]["uri"] == str(mended)
    failed = {check["name"] for check in found["gate"]["checks"] if not check["passed"]}
    assert failed == {"champion auc", "champion tar"} and not found["gate"]["better"]
    assert found["compatibility"]["old"] == "champion"


@pytest.mark.slow
def test_it_runs_without_torch_and_gives_the_same_bytes(
    with_champion: tuple[Path, EvaluationResult], aligned_table: Path, split_table: Path, mended: Path,
    small_lfw: SmallLfw, tmp_path: Path,
) -> None:  # fmt: skip
    tables = ("--aligned", str(aligned_table), "--split", str(split_table), "--model", str(mended))
    further = ("--champion", str(mended), "--bootstrap", "100", "--probes", "clean", "--degradation", "noise:60")
    sets = ("--archive", str(small_lfw.archive), "--pairs", str(small_lfw.pairs), "--detector", "retinaface")
    done, measured, failed = run_without(
        ("torch", "torchvision", "timm", "facenet_pytorch", "h5py", "safetensors"),
        ("evaluate", *tables, "--out", str(tmp_path / "out"), "--device", "cpu", *further),
        ("lfw", *sets, "--model", str(mended), "--device", "cpu"),
        ("lfw", *sets),
    )
    folder, returned = with_champion
    assert done.figures | {"seconds": 0} == returned.model_dump(mode="json") | {"seconds": 0}
    assert digests(tmp_path / "out") == digests(folder)
    found = measured.figures
    assert (found["rows_in"], found["rows_out"], found["fallback"], found["auc"]) == (18, 16, [], 1.0)
    assert "pairs scored 16 of 16, 18 images" in measured.out
    assert "images without a face, centre crop used 0\n" in measured.out
    assert f"accuracy {100 * found['accuracy']:.2f} % ± {100 * found['accuracy_standard_error']:.2f}" in measured.out
    assert f"accuracy with flip {100 * found['flip']['accuracy']:.2f} %" in measured.out
    assert (failed.code, len(failed.err.splitlines())) == (1, 1)
    assert failed.err.startswith("error: sface is no model folder, and weights that are none need torch (")
    assert "give --model a folder of finetune or a promoted version" in failed.err
