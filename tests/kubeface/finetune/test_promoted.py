"""Handing on the promoted model: when, what is copied, and what the result and model.json say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kubeface.finetune.promoted import find_promoted, hand_on
from kubeface.records.champion import ChampionRecord
from kubeface.records.model import ModelRecord
from kubeface.runtime.errors import KubefaceError
from tests.kubeface.finetune.conftest import Run, Train
from tests.support.tables import splitting

VERSION = "0123456789ab-cdef0123"


def promote(run: Run, home: Path) -> Path:
    """Writes a model as promote does: a flat version, and champion.json."""
    version = home / VERSION
    version.mkdir(parents=True)
    for path in run.folder.rglob("*"):
        if path.is_file() and path.name in ("model.safetensors", "model.json", "identities.json", "history.json"):
            shutil.copyfile(path, version / path.name)
    for name in ("start.onnx", "model.onnx", "passport.json", "threshold.json"):
        (version / name).write_text(name)
    ChampionRecord(version=VERSION, uri=str(version), number=1).write(home / "champion.json")
    return home


@pytest.fixture
def first(train_once: Train) -> Run:
    return train_once()


@pytest.fixture
def home(first: Run, tmp_path: Path) -> Path:
    return promote(first, tmp_path / "models" / "face")


def record_of(run: Run) -> ModelRecord:
    return ModelRecord.read(run.folder / "model.json")


def test_the_same_training_is_not_done_twice(
    train: Train, first: Run, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    again = train("again", champion=str(home))
    assert capsys.readouterr().out.splitlines() == [
        f"finetune: hands on {home / VERSION} instead of training: it was trained on this very split with these very "
        "options"
    ]
    assert (again.result.trained, again.result.epochs) == (0, 0)
    other = {"trained", "epochs", "rows_in"}
    assert again.result.model_dump(exclude=other) == first.result.model_dump(exclude=other)
    names = {str(path.relative_to(again.folder)) for path in again.folder.rglob("*") if path.is_file()}
    assert names == {
        "model.safetensors", "model.onnx", "start.onnx", "model.json", "identities.json", "logs/history.json",
    }  # fmt: skip
    assert (again.folder / "model.safetensors").read_bytes() == (first.folder / "model.safetensors").read_bytes()
    assert not again.folder.with_name("again.checkpoints").exists()
    record, before = record_of(again), record_of(first)
    assert not record.trained and record.reason == "it was trained on this very split with these very options"
    assert before.trained and "trained" not in json.loads((first.folder / "model.json").read_text())
    assert record.model_copy(update={"trained": True, "reason": ""}) == before
    # What does not change the outcome is no reason to train.
    assert train("other", champion=str(home), keep_checkpoints=1, save_minutes=5.0).result.trained == 0


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"lr": 2e-4}, {"degradation": "blur:2"}, {"guard": True}, {"task": "classes", "distill": 0.0}],
    ids=lambda change: next(iter(change)),
)
def test_another_training_is_done(change: dict[str, Any], train: Train, home: Path) -> None:
    again = train("again", champion=str(home), **change)
    assert again.result.trained == 1 and record_of(again).trained


@pytest.mark.parametrize(
    ("parts", "choices"),
    [
        ({"s1": "ttv", "s3": "ttv"}, {}),
        ({"s1": "h", "s3": "ttv", "s5": "ttv"}, {"decision": "keep"}),  # somebody whom it knows is held out
        ({"s1": "ttv", "s3": "ttv"}, {"decision": "keep", "task": "classes"}),  # it may know the images held out
    ],
    ids=["train", "people", "classes"],
)
def test_a_training_of_another_split_is_done(
    parts: dict[str, str], choices: dict[str, Any], train: Train, home: Path, aligned_table: Path, tmp_path: Path
) -> None:
    assert json.loads((home / VERSION / "identities.json").read_text("utf-8")) == ["s1", "s3", "s5"]
    divided = splitting(aligned_table, tmp_path / "split", parts)
    assert train("again", champion=str(home), split=divided, **choices).result.trained == 1


def test_keep_hands_on_whatever_the_options(
    train: Train, first: Run, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = train("kept", champion=str(home), decision="keep", seed=5)
    assert kept.result.trained == 0 and kept.result.best_epoch == first.result.best_epoch
    assert record_of(kept).reason == "the data have not changed enough for another training"
    assert "finetune: hands on" in capsys.readouterr().out


def test_where_nothing_is_promoted_a_model_is_trained(train: Train, tmp_path: Path) -> None:
    assert find_promoted("") is None
    assert train(champion=str(tmp_path / "models"), decision="keep").result.trained == 1


def test_a_model_that_could_not_be_evaluated_again_is_trained_anew(
    train: Train, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / VERSION / "start.onnx").unlink()
    assert train("again", champion=str(home)).result.trained == 1
    assert f"{home / VERSION} has no start.onnx to be evaluated against: a new model is" in capsys.readouterr().out


def test_damage_is_named(home: Path, tmp_path: Path) -> None:
    promoted = find_promoted(str(home))
    assert promoted is not None
    (home / VERSION / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(KubefaceError, match=r"model\.safetensors is missing or is not the file that model\.json"):
        hand_on(promoted, tmp_path / "out", "no reason")
    assert not (tmp_path / "out").exists()
    (home / "champion.json").write_text("{torn")
    with pytest.raises(KubefaceError, match=r"champion\.json is not valid JSON"):
        find_promoted(str(home))
