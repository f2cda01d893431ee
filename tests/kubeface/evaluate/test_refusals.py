"""What an evaluation refuses: wrong settings, tables and models, before it begins where that can be."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubeface.runtime.errors import KubefaceError
from tests.support.evaluating import QUICK, evaluate, read
from tests.support.exported import configured
from tests.support.tables import rows_of, splitting, write_rows

Refused = Callable[..., None]


@pytest.fixture
def refused(aligned_table: Path, split_table: Path, mended: Path, tmp_path: Path) -> Refused:
    """Checks that an evaluation is refused in one line that says so (a pattern), and leaves nothing."""

    def check(said: str, table: Path = aligned_table, divided: Path = split_table, **options: Any) -> None:
        before = set(tmp_path.iterdir())
        with pytest.raises(KubefaceError, match=said):
            evaluate(table, divided, options.pop("model", mended), tmp_path / "out", **QUICK | options)
        assert set(tmp_path.iterdir()) == before

    return check


@pytest.fixture
def model(mended: Path, tmp_path: Path) -> Path:
    """A model folder to spoil."""
    return Path(shutil.copytree(mended, tmp_path / "model"))


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
def test_wrong_setting_is_named(wrong: dict[str, Any], said: str, refused: Refused) -> None:
    refused(re.escape(said), **wrong)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"s1": "ttttt"}, "holds out 0 people, at least 2 are needed"),
        ({"s1": "hhhhh", "s2": "ttttt"}, "holds out 1 people, at least 2 are needed"),
        ({"s1": "hhh", "s2": "hhh"}, "15 pairs of held-out people are too few to measure on"),
        ({f"s{n}": "h" for n in range(1, 7)}, "no held-out person has two images"),
    ],
)
def test_too_few_held_out_people(
    parts: dict[str, str], said: str, aligned_table: Path, refused: Refused, tmp_path: Path
) -> None:
    refused(said, divided=splitting(aligned_table, tmp_path / "split", parts))


def test_split_of_another_table(aligned_table: Path, refused: Refused, tmp_path: Path) -> None:
    rows = (row | {"image_id": row["image_id"][::-1]} for row in rows_of(aligned_table))
    other = write_rows(tmp_path / "other", "aligned", rows)
    refused("other lacks images that the split names: run split on this table", other)


def test_people_who_were_trained_on_are_refused(
    heldout: dict[str, tuple[str, Any]], model: Path, refused: Refused
) -> None:
    held = min(name for name, _ in heldout.values())
    (model / "identities.json").write_text(json.dumps(["somebody", held]))
    refused(f"1 held-out people of .* was trained on, {held} first", model=model)


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
    spoil: Callable[[Path], Any], said: str, model: Path, refused: Refused
) -> None:
    spoil(model)
    refused(said, model=model)
    if said.startswith("model") or "without" in said:  # start.onnx is nobody's business once a model is promoted
        refused(said, champion=str(model))


def reworded(folder: Path, change: dict[str, Any] | None) -> None:
    """Another entry on ONNX in model.json; none with None."""
    training = read(folder, "model.json")["training"]
    configured(folder, training=training | {"onnx": change and training["onnx"] | change})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lfw_archive": "a.tar", "lfw_pairs": "/nowhere.txt"}, r"nowhere\.txt"),
        ({"bin_sets": "/nowhere/agedb_30.bin"}, r"nowhere/agedb_30\.bin does not exist"),
        ({"gate": {"target": "agedb_30"}}, "target is 'agedb_30', which is not measured: use one of heldout$"),
    ],
)
def test_a_wrong_set_is_said_before_the_work(
    wrong: dict[str, Any], said: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubeface.evaluate.step.load_models", lambda *_: pytest.fail("the work began"))
    refused(said, **wrong)


def test_model_that_is_none(model: Path, refused: Refused) -> None:
    refused(r"nowhere/model\.json is missing", model=model.with_name("nowhere"))
    configured(model, training={})
    refused(r"model\.json tells of no training", model=model)
