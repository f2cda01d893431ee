"""What an evaluation refuses: wrong settings, tables and models, before it begins where that can be."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubeface.runtime.errors import KubefaceError
from kubeface.tables.table import Table, TableWriter
from tests.support.evaluating import QUICK, evaluate, read
from tests.support.tables import rows_of


def dealt(table: Path, out: Path, parts: dict[str, list[str]]) -> Path:
    """A split table with the images of each person dealt out as listed; the rest is excluded."""
    seen: dict[str, int] = {}
    with TableWriter(out, "split", "test", {}) as writer:
        for row in Table(table, "aligned").columns(["image_id", "identity"]).to_pylist():
            number = seen[row["identity"]] = seen.get(row["identity"], -1) + 1
            wanted = parts.get(row["identity"], [])
            writer.add(row | {"split": wanted[number] if number < len(wanted) else "excluded"})
    return out


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
        ({"gate": {"target": "heldout_cross"}}, "gate: target is 'heldout_cross', which is not measured"),
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
        for row in rows_of(aligned_table):
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
