"""The evaluation of classes as a whole: figures, the unknown, verdict, files; leaks and settings refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from kubeface.evaluate.classes import GAINED, PREDICTIONS
from kubeface.evaluate.provenance import EvaluationResult
from kubeface.evaluate.scored import GRID, LARGEST, MISTAKES
from kubeface.records.tasks import CLASSES
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import read_json
from tests.support.evaluating import Change, config, digests, evaluate_classes, not_sampled, read, with_settings
from tests.support.exported import configured
from tests.support.labelled import Photo, Weights, write_model, write_tables

NAMES = ("ruby", "emerald", "sapphire")  # not sorted: the scores' order is the model's own
STRANGERS = ("pearl", "onyx")
# What each class's score makes of red, green and blue.
GOOD = 16 * np.eye(3, dtype=np.float32)
BAD = np.array([[8, 7, 0], [0, 8, 7], [7, 0, 8]], np.float32)  # takes rubies for emeralds now and then
MIDDLING = np.array([[8, 5, 0], [0, 8, 5], [5, 0, 8]], np.float32)
PHOTOS = 80  # of a class: a half trained on, a quarter validated on, a quarter held out
PARTS = ("train", "train", "val", "heldout")
HELDOUT, VALIDATED = len(NAMES) * PHOTOS // 4, len(NAMES) * PHOTOS // 4


def photos() -> list[Photo]:
    """Stones of a class in its colour and others in none, on whom nobody was trained."""
    random = np.random.default_rng(1)

    def colour(sign: Any) -> list[int]:
        found: list[int] = np.clip(110 + sign + random.normal(0, 25, 3), 0, 255).astype(int).tolist()
        return found

    made = [
        Photo(name, colour(60 * np.eye(3)[place]), PARTS[number % 4])
        for number in range(PHOTOS)
        for place, name in enumerate(NAMES)
    ]
    return made + [Photo(name, colour(np.zeros(3)), "heldout") for name in STRANGERS for _ in range(6)]


Tables = tuple[Path, Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return write_tables(tmp_path_factory.mktemp("data"), photos())


def trained(folder: Path, split: Path, weights: Weights = GOOD, start: Weights = BAD) -> Path:
    """A model of the classes that says it was trained with the split."""
    return write_model(folder, NAMES, weights, start, CLASSES, sorted(NAMES), split)


@pytest.fixture(scope="module")
def model(data: Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("models") / "model", data[1])


@pytest.fixture(scope="module")
def scratch(data: Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("models") / "scratch", data[1], MIDDLING)


Evaluated = tuple[Path, EvaluationResult]


@pytest.fixture(scope="module")
def evaluated(data: Tables, model: Path, scratch: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """The folder of an evaluation under noise, and the figures that it returned."""
    out = tmp_path_factory.mktemp("evaluations") / "evaluation"
    return out, evaluate_classes(*data, model, out, scratch, degradation="noise:20", bootstrap=100)


@pytest.fixture(scope="module")
def evaluation(evaluated: Evaluated) -> dict[str, Any]:
    return read(evaluated[0])


def rows_of(folder: Path, name: str, which: str) -> list[dict[str, Any]]:
    """Rows of predictions.parquet of a set and model."""
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    return [row for row in rows if (row["set"], row["model"]) == (name, which)]


def test_it_records_what_was_compared(evaluation: dict[str, Any], model: Path) -> None:
    assert evaluation["task"] == "classes"
    assert evaluation["labels"] == list(NAMES)
    assert (evaluation["people"], evaluation["images"]) == (len(NAMES), HELDOUT)
    assert set(evaluation["models"]) == {"baseline", "finetuned", "scratch"}
    assert evaluation["models"]["finetuned"]["onnx_sha256"] == read_json(model / "model.json")["weights_sha256"]
    assert evaluation["sampling"] == read_json(model / "sampling.json")
    assert evaluation["chosen_on"] == {"split": "val", "images": VALIDATED}
    assert [evaluation["settings"][name] for name in ("bootstrap", "refuse", "seed")] == [100, 0.05, 0]
    for which in evaluation["models"]:
        assert set(evaluation[which]) == {"heldout", "heldout_clean"}
    for key in ("gain", "gain_over_scratch"):
        assert set(evaluation[key]) == {"heldout", "heldout_clean"}
    assert evaluation["gain_over_champion"] == {}


def test_predictions_give_the_figures_again(evaluation: dict[str, Any], evaluated: Evaluated) -> None:
    assert pq.read_schema(evaluated[0] / "predictions.parquet") == PREDICTIONS
    for which in evaluation["models"]:
        for name in ("heldout", "heldout_clean"):
            rows, figures = rows_of(evaluated[0], name, which), evaluation[which][name]
            assert len(rows) == HELDOUT + 12
            known = [row for row in rows if row["y"] in NAMES]
            true, told = [row["y"] for row in known], [row["predicted"] for row in known]
            assert figures["accuracy"] == pytest.approx(np.mean(np.array(true) == told))
            assert figures["macro_f1"] == pytest.approx(f1_score(true, told, average="macro"))
            assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, told))
            assert figures["confusion"] == confusion_matrix(true, told, labels=NAMES).tolist()
            unknown = figures["unknown"]
            assert unknown["images"] == len(rows) - len(known) == 12
            strangers = [row["refused"] for row in rows if row["y"] not in NAMES]
            assert unknown["refused"] == pytest.approx(np.mean(strangers))
            assert unknown["known_refused"] == pytest.approx(np.mean([row["refused"] for row in known]))
            for row in rows:
                assert row["refused"] == (row["score"] < unknown["threshold"])
                assert row["identity"] == row["y"]


def test_the_better_model_passes(evaluation: dict[str, Any], evaluated: Evaluated) -> None:
    for key, other in (("gain", "baseline"), ("gain_over_scratch", "scratch")):
        assert set(evaluation[key]["heldout"]) == set(GAINED)
        for name, entry in evaluation[key]["heldout"].items():
            assert entry["before"] == pytest.approx(evaluation[other]["heldout"][name])
            assert entry["after"] == pytest.approx(evaluation["finetuned"]["heldout"][name])
            assert entry["gain_low"] <= entry["gain"] <= entry["gain_high"]
    gate = evaluation["gate"]
    assert gate["better"]
    assert gate["reason"].startswith(f"better on {HELDOUT} held-out images: accuracy ")
    assert [check["name"] for check in gate["checks"]] == ["heldout accuracy", "heldout macro_f1", "heldout_clean"]
    returned = evaluated[1]
    assert (returned.rows_in, returned.rows_out, returned.identities) == (HELDOUT + 12, HELDOUT, len(NAMES))
    accuracies = [returned.figures[f"{which}_accuracy"] or 0 for which in ("finetuned", "scratch", "baseline")]
    assert accuracies[0] == evaluation["finetuned"]["heldout"]["accuracy"]
    assert accuracies == sorted(set(accuracies), reverse=True)


def test_strangers_are_refused_more_often_than_the_known(evaluation: dict[str, Any]) -> None:
    unknown = evaluation["finetuned"]["heldout"]["unknown"]
    assert unknown["refused"] > unknown["known_refused"] + 0.2
    assert unknown["accuracy_of_accepted"] > 0.5


def test_a_stranger_that_is_not_refused_is_a_mistake(evaluation: dict[str, Any], evaluated: Evaluated) -> None:
    told = pq.read_table(evaluated[0] / "predictions.parquet").to_pylist()
    accepted = [row for row in told if (row["set"], row["model"]) == ("heldout", "finetuned") and not row["refused"]]
    right = sum(row["y"] == row["predicted"] for row in accepted)
    assert evaluation["finetuned"]["heldout"]["unknown"]["accuracy_of_accepted"] == right / len(accepted)


def test_the_threshold_goes_with_the_model(evaluation: dict[str, Any], evaluated: Evaluated, model: Path) -> None:
    threshold = read_json(evaluated[0] / "threshold.json")
    assert threshold["weights_sha256"] == read_json(model / "model.json")["weights_sha256"]
    assert threshold["task"] == "classes"
    assert threshold["unknown"] == evaluation["finetuned"]["heldout"]["unknown"]
    assert threshold["degradation"] == "noise:20"
    thresholds = {evaluation[which]["heldout"]["unknown"]["threshold"] for which in evaluation["models"]}
    assert len(thresholds) == 3  # each model's own


def test_pictures_show_what_is_told(evaluation: dict[str, Any], evaluated: Evaluated) -> None:
    grid, mistakes = evaluation["grid"], evaluation["mistakes"]
    rows = {row["image_id"]: row for row in rows_of(evaluated[0], "heldout", "finetuned")}
    assert len({entry["image_id"] for entry in grid}) == len(grid) == GRID
    assert 0 < len(mistakes) <= MISTAKES
    for entry in (*grid, *mistakes):
        with Image.open(evaluated[0] / entry["file"]) as picture:
            assert max(picture.size) <= LARGEST
    for entry in grid:
        row = rows[entry["image_id"]]
        assert entry["true"] == [row["y"]]
        assert entry["predicted"] == ([] if row["refused"] else [row["predicted"]])
        assert entry["right"] == (entry["predicted"] == ([row["y"]] if row["y"] in NAMES else []))
    for entry in mistakes:
        row = rows[entry["image_id"]]
        assert (entry["label"], entry["true"], entry["predicted"]) == (None, row["y"], row["predicted"])
        assert entry["score"] == pytest.approx(row["score"])
        assert row["y"] != row["predicted"]
        assert not row["refused"]
    scores = [entry["score"] for entry in mistakes]
    assert scores == sorted(scores, reverse=True)
    assert len(list((evaluated[0] / "samples").iterdir())) == 8


def test_the_same_seed_gives_the_same_bytes(
    evaluated: Evaluated, data: Tables, model: Path, scratch: Path, tmp_path: Path
) -> None:
    evaluate_classes(*data, model, tmp_path / "again", scratch, degradation="noise:20", bootstrap=100)
    assert digests(tmp_path / "again") == digests(evaluated[0])


def of(made: list[Photo], folder: Path, **settings: Any) -> dict[str, Any]:
    """evaluation.json of other photographs, with a model that was trained with their split."""
    tables = write_tables(folder, made)
    copied = trained(folder / "model", tables[1])
    evaluate_classes(*tables, copied, folder / "out", **{"bootstrap": 100} | settings)
    return read(folder / "out")


def threshold_of(evaluation: dict[str, Any], which: str = "finetuned") -> Any:
    return evaluation[which]["heldout"]["unknown"]["threshold"]


def test_heldout_images_decide_on_no_threshold(tmp_path: Path) -> None:
    """Other held-out images change the figures and no threshold; other validation images change the threshold."""
    found = {}
    for part in ("none", "heldout", "val"):
        made = [replace(photo, colour=(120, 130, 90)) if photo.part == part else photo for photo in photos()]
        found[part] = of(made, tmp_path / part)
    for which in ("baseline", "finetuned"):
        assert threshold_of(found["heldout"], which) == threshold_of(found["none"], which)
        assert threshold_of(found["val"], which) != threshold_of(found["none"], which)
    figures = {part: entry["finetuned"]["heldout"]["accuracy"] for part, entry in found.items()}
    assert figures["heldout"] < figures["none"] == figures["val"]


def test_more_may_be_refused(tmp_path: Path) -> None:
    found = [of(photos(), tmp_path / f"{share}", refuse=share) for share in (0.0, 0.2, 0.6)]
    thresholds = [threshold_of(entry) for entry in found]
    assert thresholds == sorted(set(thresholds))
    shares = [entry["finetuned"]["heldout"]["unknown"]["refused"] for entry in found]
    assert shares == sorted(shares)


def test_without_strangers_the_refusal_of_the_known_is_told(tmp_path: Path) -> None:
    unknown = of(photos()[: len(NAMES) * PHOTOS], tmp_path)["finetuned"]["heldout"]["unknown"]
    assert (unknown["images"], unknown["refused"]) == (0, None)
    assert 0 <= unknown["known_refused"] < 0.5


def test_without_validation_images_nobody_is_refused(tmp_path: Path) -> None:
    made = [replace(photo, part="train") if photo.part == "val" else photo for photo in photos()]
    found = of(made, tmp_path)
    assert found["chosen_on"] == {"split": "val", "images": 0}
    assert found["finetuned"]["heldout"]["unknown"] is None
    assert read_json(tmp_path / "out" / "threshold.json")["unknown"] is None
    assert not any(row["refused"] for row in rows_of(tmp_path / "out", "heldout", "finetuned"))
    assert not any(row["right"] for row in found["grid"] if row["true"][0] in STRANGERS)


def test_images_of_a_person_are_drawn_together(tmp_path: Path) -> None:
    """Where the groups tell who it is, people are drawn: with two held out a draw has one of them, or both."""
    made = [
        replace(photo, labels={"person": f"owner {number % 2} of {photo.part}"})
        for number, photo in enumerate(photos())
    ]
    entry = of(made, tmp_path)["gain"]["heldout"]["accuracy"]
    rows = {which: rows_of(tmp_path / "out", "heldout", which) for which in ("baseline", "finetuned")}
    owned = [
        np.mean(
            [
                (after["y"] == after["predicted"]) - (before["y"] == before["predicted"])
                for before, after in zip(rows["baseline"], rows["finetuned"], strict=True)
                if after["y"] in NAMES and int(after["image_id"]) % 2 == owner
            ]
        )
        for owner in range(2)
    ]
    assert (entry["gain_low"], entry["gain_high"]) == (pytest.approx(min(owned)), pytest.approx(max(owned)))
    assert entry["gain_low"] < entry["gain"] < entry["gain_high"]


def test_the_images_of_one_person_prove_nothing(tmp_path: Path) -> None:
    made = [replace(photo, labels={"person": f"owner of {photo.part}"}) for photo in photos()]
    with pytest.raises(KubefaceError, match="one person's: hold out more"):
        of(made, tmp_path)
    assert not (tmp_path / "out").exists()


def test_somebody_on_both_sides_is_refused(tmp_path: Path) -> None:
    made = [replace(photo, labels={"person": "collector"}) for photo in photos()]
    with pytest.raises(KubefaceError, match=r"1 people of .* are both trained on and held out, collector first"):
        of(made, tmp_path)


def test_a_worse_model_does_not_pass_and_the_champion_is_asked(data: Tables, tmp_path: Path) -> None:
    """A champion of another split whose classes stand in another order."""
    order = [2, 0, 1]
    names = [NAMES[place] for place in order]
    champion = write_model(tmp_path / "champion", names, GOOD[:, order], BAD[:, order], CLASSES, sorted(NAMES))
    worse = trained(tmp_path / "worse", data[1], BAD, GOOD)
    evaluate_classes(*data, worse, tmp_path / "out", champion=str(champion), bootstrap=100)
    found = read(tmp_path / "out")
    assert not found["gate"]["better"]
    assert {"heldout accuracy", "champion accuracy"} <= {c["name"] for c in found["gate"]["checks"] if not c["passed"]}
    assert found["champion"]["heldout"]["confusion"] == found["baseline"]["heldout"]["confusion"]
    assert found["gain_over_champion"]["heldout"]["accuracy"]["gain"] < 0
    assert found["models"]["champion"]["uri"] == str(champion)
    assert "heldout_people_trained_on" not in found["models"]["champion"]
    assert "scratch" not in found


def of_another_split(model: Path) -> None:
    configured(model, training=read_json(model / "model.json")["training"] | {"split": "7" * 64})


def scratch_of(*names: str) -> Change:
    """A network from scratch of these classes, which says nothing of its split."""
    return lambda model: {"scratch": write_model(model.with_name("small"), names, GOOD, BAD, CLASSES)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_another_split, r"/model was trained with another split than .*split, .*: evaluate with the split that"),
        (scratch_of(*NAMES), "/small was trained with another split than"),
        (scratch_of(*NAMES[:2], "opal"), "scratch model knows other labels than .*opal"),
        (not_sampled, "sampling.json"),
        (config(task="attributes"), "is a model of attributes, this evaluation is of classes"),
        (with_settings(bootstrap=99), "bootstrap is 99"),
        (with_settings(refuse=1.0), "refuse is 1.0: input should be less than 1"),
        (with_settings(refuse=-0.1), "refuse is -0.1: input should be greater than or equal to 0"),
        (with_settings(gate={"metrics": "auc"}), "gate.metrics is 'auc': name some of accuracy, macro_f1, "),
        (with_settings(gate={"target": "heldout_clean"}), "target is 'heldout_clean', which is not measured"),
    ],
)
def test_it_refuses_what_it_cannot_measure(change: Change, message: str, data: Tables, tmp_path: Path) -> None:
    model = trained(tmp_path / "model", data[1])
    settings = change(model)
    with pytest.raises(KubefaceError, match=message):
        evaluate_classes(*data, model, tmp_path / "out", **{"bootstrap": 100} | (settings or {}))
    assert not (tmp_path / "out").exists()


def test_strangers_alone_are_not_enough(tmp_path: Path) -> None:
    made = [photo for photo in photos() if photo.part != "heldout" or photo.identity in STRANGERS]
    with pytest.raises(KubefaceError, match=r"holds out no image of a class that .*model knows: raise heldout_fract"):
        of(made, tmp_path)
