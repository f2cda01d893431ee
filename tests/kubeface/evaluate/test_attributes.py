"""The evaluation of attributes as a whole: figures, thresholds, verdict, files; leaks and settings refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from kubeface.evaluate.attributes import PREDICTIONS, EvaluateAttributesResult
from kubeface.evaluate.label_figures import GAINED, MEANS, MIN_IMAGES, predict
from kubeface.evaluate.scored import GRID, LARGEST, MISTAKES
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import read_json, write_json
from tests.support.evaluating import Change, config, digests, evaluate_attributes, not_sampled, read, with_settings
from tests.support.labelled import Photo, write_model, write_tables

LABELS = ("Smiling", "Glasses", "Rare", "Constant", "Unknown")
# Red tells of a smile, green of glasses, blue of what is rare; the model that was started from looks at all of them.
GOOD = np.array([[20, 0, 0, 0, 0], [0, 20, 0, 0, 0], [0, 0, 20, 1, 1]], np.float32)
BAD = np.array([[6, 4, 4, 0, 0], [6, 4, 4, 0, 0], [6, 4, 4, 1, 1]], np.float32)
PEOPLE, PHOTOS = 36, 4
PARTS = ("train", "val", "heldout")
TRAINED = [f"p{number:02d}" for number in range(0, PEOPLE, 3)]


def photos() -> list[Photo]:
    """36 people with four photographs each, a third of the people in each part; colours are labels and noise."""
    random = np.random.default_rng(0)
    made = []
    for person in range(PEOPLE):
        for number in range(PHOTOS):
            labels = {"Smiling": int(random.random() < 0.5), "Glasses": int(random.random() < 0.3)}
            labels["Rare"] = int(person % 12 < 3 and number == 0)
            signs = np.array([2 * labels[name] - 1 for name in LABELS[:3]])
            colour = np.clip(128 + 30 * signs + random.normal(0, 25, 3), 0, 255).astype(int).tolist()
            told: dict[str, object] = {**labels, "Constant": 1, "camera": "door"}
            told["Unknown"] = person % 2 if person >= PEOPLE - 6 else ""
            if random.random() < 0.1:
                told["Glasses"] = ""
            made.append(Photo(f"p{person:02d}", colour, PARTS[person % 3], told))
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tables(tmp_path_factory.mktemp("data"), photos())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model", LABELS, GOOD, BAD, trained_on=TRAINED)


Evaluated = tuple[Path, EvaluateAttributesResult]


@pytest.fixture(scope="module")
def evaluated(data: tuple[Path, Path], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """The folder of an evaluation under noise, and the figures that it returned."""
    out = tmp_path_factory.mktemp("evaluations") / "evaluation"
    return out, evaluate_attributes(*data, model, out, degradation="noise:20", bootstrap=100)


@pytest.fixture(scope="module")
def evaluation(evaluated: Evaluated) -> dict[str, Any]:
    return read(evaluated[0])


def test_it_records_what_was_compared(evaluation: dict[str, Any], model: Path) -> None:
    assert evaluation["task"] == "attributes"
    assert evaluation["labels"] == list(LABELS)
    assert (evaluation["people"], evaluation["images"]) == (PEOPLE // 3, PEOPLE // 3 * PHOTOS)
    assert set(evaluation["models"]) == {"baseline", "finetuned"}
    assert evaluation["models"]["finetuned"]["onnx_sha256"] == read_json(model / "model.json")["weights_sha256"]
    assert evaluation["models"]["baseline"]["start"] == "published weights"
    assert evaluation["sampling"] == read_json(model / "sampling.json")
    assert evaluation["settings"]["bootstrap"] == 100
    assert set(evaluation["finetuned"]) == set(evaluation["gain"]) == {"heldout", "heldout_clean"}


def test_labels_are_measured_where_there_are_enough(evaluation: dict[str, Any]) -> None:
    figures = evaluation["finetuned"]["heldout"]
    assert {name for name, entry in figures["labels"].items() if not entry["too_few"]} == {"Smiling", "Glasses"}
    assert figures["measured_labels"] == 2
    for name in MEANS:
        assert figures[name] == pytest.approx(np.mean([figures["labels"][label][name] for label in LABELS[:2]]))
    smiling = figures["labels"]["Smiling"]
    assert smiling["auc_low"] < smiling["auc"] < smiling["auc_high"]
    assert figures["labels"]["Rare"]["auc"] > 0.5  # shown
    assert figures["labels"]["Rare"]["auc_low"] is None
    assert figures["labels"]["Constant"]["auc"] is None
    assert figures["labels"]["Unknown"]["positives"] + figures["labels"]["Unknown"]["negatives"] == 2 * PHOTOS


def test_the_better_model_passes(evaluation: dict[str, Any], evaluated: Evaluated) -> None:
    gain = evaluation["gain"]["heldout"]
    assert list(gain) == sorted(GAINED)
    for name, entry in gain.items():
        assert entry["before"] == pytest.approx(evaluation["baseline"]["heldout"][name])
        assert entry["after"] == pytest.approx(evaluation["finetuned"]["heldout"][name])
        assert entry["gain_low"] <= entry["gain"] <= entry["gain_high"]
    gate = evaluation["gate"]
    assert gate["better"]
    assert gate["reason"].startswith("better on 48 held-out images of 12 people: AUC ")
    assert [check["name"] for check in gate["checks"]] == ["heldout auc", "heldout_clean"]
    assert gate["rule"]["metrics"] == "auc"
    returned = evaluated[1]
    assert (returned.rows_in, returned.rows_out, returned.labels) == (48, 48, 2)
    for which in ("baseline", "finetuned"):
        assert returned.figures[f"{which}_auc"] == evaluation[which]["heldout"]["auc"]
        assert returned.model_dump()[f"{which}_f1"] == evaluation[which]["heldout"]["f1"]


def test_predictions_give_the_figures_again(evaluation: dict[str, Any], evaluated: Evaluated) -> None:
    table = pq.read_table(evaluated[0] / "predictions.parquet")
    assert table.schema == PREDICTIONS
    rows = table.to_pylist()
    assert len(rows) == 48 * len(LABELS) * 2 * 2
    for which in ("baseline", "finetuned"):
        for label in LABELS[:2]:
            told = [r for r in rows if (r["set"], r["model"], r["label"]) == ("heldout", which, label)]
            known = [r for r in told if r["y"] is not None]
            figures = evaluation[which]["heldout"]["labels"][label]
            assert roc_auc_score([r["y"] for r in known], [r["score"] for r in known]) == pytest.approx(figures["auc"])
            assert np.mean([r["y"] == r["predicted"] for r in known]) == pytest.approx(figures["accuracy"])
            scores = np.array([r["score"] for r in told], np.float32)
            assert [r["predicted"] for r in told] == predict(scores, figures["threshold"]).tolist()
    assert any(row["y"] is None for row in rows if row["label"] == "Glasses")
    assert {row["source"] for row in rows if row["identity"] == "p02"} == {f"{number}.png" for number in range(8, 12)}


def test_thresholds_go_with_the_model(evaluation: dict[str, Any], evaluated: Evaluated, model: Path) -> None:
    threshold = read_json(evaluated[0] / "threshold.json")
    assert threshold["weights_sha256"] == read_json(model / "model.json")["weights_sha256"]
    assert threshold["onnx_sha256"] == evaluation["models"]["finetuned"]["onnx_sha256"]
    assert threshold["task"] == "attributes"
    assert threshold["labels"] == evaluation["thresholds"]["finetuned"]
    assert evaluation["chosen_on"] == {"split": "val", "images": 48, "too_few": ["Rare", "Constant", "Unknown"]}
    assert [threshold["labels"][name] for name in ("Rare", "Constant", "Unknown")] == [0.5] * 3
    assert evaluation["thresholds"]["baseline"]["Smiling"] != threshold["labels"]["Smiling"]


def test_pictures_show_what_is_told(evaluation: dict[str, Any], evaluated: Evaluated) -> None:
    grid, mistakes = evaluation["grid"], evaluation["mistakes"]
    assert len(grid) == GRID
    assert len({entry["image_id"] for entry in grid}) == GRID
    assert 0 < len(mistakes) <= MISTAKES
    for entry in (*grid, *mistakes):
        with Image.open(evaluated[0] / entry["file"]) as picture:
            assert max(picture.size) <= LARGEST
    for entry in grid:
        assert entry["right"] == (entry["true"] == entry["predicted"])
    sure = [entry["score"] if entry["predicted"] else 1 - entry["score"] for entry in mistakes]
    assert sure == sorted(sure, reverse=True)
    for entry in mistakes:
        assert entry["true"] != entry["predicted"]
        threshold = evaluation["thresholds"]["finetuned"][entry["label"]]
        assert entry["predicted"] == (entry["score"] >= threshold)
    assert len(list((evaluated[0] / "samples").iterdir())) == 8
    assert {path.parent.name for path in evaluated[0].rglob("*.png")} == {"grid", "mistakes", "samples"}


def test_correlation_is_of_the_heldout_images(evaluation: dict[str, Any]) -> None:
    told = evaluation["correlation"]
    assert told["labels"] == list(LABELS)
    assert told["true"][0][0] == pytest.approx(1)
    assert told["true"][0][3] is told["true"][3][3] is None
    assert 0.5 < told["predicted"][2][2] <= 1


def test_the_same_seed_gives_the_same_bytes(
    evaluated: Evaluated, data: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    evaluate_attributes(*data, model, tmp_path / "again", degradation="noise:20", bootstrap=100)
    assert digests(tmp_path / "again") == digests(evaluated[0])


def test_heldout_labels_decide_on_no_threshold(evaluated: Evaluated, model: Path, tmp_path: Path) -> None:
    """Other labels of held-out images change figures and no threshold; other validation labels change thresholds."""

    def turned(photo: Photo, part: str) -> Photo:
        if photo.part != part:
            return photo
        return replace(photo, labels={**photo.labels, "Smiling": 1 - int(str(photo.labels["Smiling"]))})

    found = {}
    for part in ("heldout", "val"):
        tables = write_tables(tmp_path / part, [turned(photo, part) for photo in photos()])
        evaluate_attributes(*tables, model, tmp_path / f"of {part}", degradation="noise:20", bootstrap=100)
        found[part] = read(tmp_path / f"of {part}")
    before = read(evaluated[0])
    assert found["heldout"]["thresholds"] == before["thresholds"]
    assert found["heldout"]["finetuned"]["heldout"]["auc"] < before["finetuned"]["heldout"]["auc"]
    assert found["val"]["thresholds"]["finetuned"]["Smiling"] != before["thresholds"]["finetuned"]["Smiling"]
    assert found["val"]["finetuned"]["heldout"]["auc"] == before["finetuned"]["heldout"]["auc"]


def test_unlabelled_images_are_left_out_and_a_person_of_several_names_counts_once(model: Path, tmp_path: Path) -> None:
    """Where the groups say who it is, people are drawn, not the images' own names."""
    made = [
        replace(photo, identity=f"image {number}", labels={**photo.labels, "person": photo.identity})
        for number, photo in enumerate(photos())
    ]
    blank = next(number for number, photo in enumerate(made) if photo.part == "heldout")
    made[blank] = replace(made[blank], labels={"camera": "door", "person": made[blank].labels["person"]})
    returned = evaluate_attributes(*write_tables(tmp_path, made), model, tmp_path / "out", bootstrap=100)
    assert (returned.rows_in, returned.rows_out) == (48, 47)
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert f"{blank:016d}" not in rows["image_id"].to_pylist()
    assert read(tmp_path / "out")["people"] == returned.identities == PEOPLE // 3


def test_a_worse_model_does_not_pass_and_the_champion_is_asked(
    data: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    """A champion with other weights whose labels stand in another order."""
    order = [1, 0, 2, 3, 4]
    champion = write_model(tmp_path / "champion", [LABELS[place] for place in order], GOOD[:, order], BAD[:, order])
    worse = write_model(tmp_path / "worse", LABELS, BAD, GOOD, trained_on=TRAINED)
    evaluate_attributes(*data, worse, tmp_path / "out", champion=str(champion), bootstrap=100)
    found = read(tmp_path / "out")
    assert not found["gate"]["better"]
    assert {"heldout auc", "champion auc"} <= {c["name"] for c in found["gate"]["checks"] if not c["passed"]}
    assert found["champion"]["heldout"]["auc"] == pytest.approx(found["baseline"]["heldout"]["auc"])
    assert found["gain_over_champion"]["heldout"]["auc"]["gain"] < 0
    assert found["models"]["champion"]["uri"] == str(champion)


def other_champion(model: Path, _: list[Photo]) -> dict[str, Any]:
    labels = (*LABELS[:-1], "Hat")
    return {"champion": str(write_model(model.with_name("champion"), labels, GOOD, BAD))}


def trained_on_heldout(model: Path, _: list[Photo]) -> None:
    write_json(model / "identities.json", ["p02"])


def known_person(_: Path, made: list[Photo]) -> None:
    """Somebody who is trained on and held out under two names."""
    for name in ("p00", "p02"):
        place = next(number for number, photo in enumerate(made) if photo.identity == name)
        made[place] = replace(made[place], labels={**made[place].labels, "person": "Ann"})


def one_person(_: Path, made: list[Photo]) -> None:
    for number, photo in enumerate(made):
        if photo.part == "heldout":
            made[number] = replace(photo, labels={**photo.labels, "person": "Ann"})


def few_heldout(_: Path, made: list[Photo]) -> None:
    places = [number for number, photo in enumerate(made) if photo.part == "heldout"]
    for number in places[2 * (MIN_IMAGES - 1) :]:
        made[number] = replace(made[number], part="excluded")


def unlabelled(_: Path, made: list[Photo]) -> None:
    made[:] = [replace(photo, labels=dict.fromkeys(LABELS, "")) for photo in made]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (trained_on_heldout, "1 held-out people of .*split are people that .*model was trained on, p02 first"),
        (known_person, "1 people of .*split are both trained on and held out, Ann first"),
        (one_person, "one image, or one person's: hold out more"),
        (few_heldout, "none of Smiling, Glasses, Rare, … has enough held-out images"),
        (unlabelled, "no held-out image has a label that the model knows"),
        (not_sampled, "sampling.json"),
        (config(task="recognition"), "is a model of recognition, this evaluation is of attributes"),
        (config(training={}), "tells of no training: give finetune's folder"),
        (with_settings(bootstrap=99), "bootstrap is 99: input should be greater than or equal to 100"),
        (with_settings(degradation="fog"), "fog"),
        (with_settings(gate={"metrics": "tar"}), "gate.metrics is 'tar': name some of auc, average_precision, f1, "),
        (with_settings(gate={"target": "heldout_clean"}), "target is 'heldout_clean', which is not measured"),
        (other_champion, "champion model knows other labels .* Hat"),
    ],
)
def test_it_refuses_what_it_cannot_measure(change: Change, message: str, model: Path, tmp_path: Path) -> None:
    copied = write_model(tmp_path / "model", LABELS, GOOD, BAD, trained_on=TRAINED)
    made = photos()
    settings = change(copied, made)
    tables = write_tables(tmp_path, made)
    with pytest.raises(KubefaceError, match=message):
        evaluate_attributes(*tables, copied, tmp_path / "out", **{"bootstrap": 100} | (settings or {}))
    assert not (tmp_path / "out").exists()
