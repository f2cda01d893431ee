"""Promotion: only what is better, whole, and at the same address for the same model."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.faces import storage
from components.faces.errors import KubefaceError
from components.faces.folders import sha256_file
from components.promote.step import promote

FIGURES = {
    "accuracy": 0.98,
    "auc": 0.991,
    "eer": 0.04,
    "tar_at_far": {"0.1": 0.97, "0.01": 0.9},
}


def make(folder: Path, better: bool) -> tuple[Path, Path]:
    """A model folder and an evaluation folder."""
    model, evaluation = folder / "model", folder / "evaluation"
    model.mkdir()
    evaluation.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "identities.json").write_text('["a", "b"]')
    config: dict[str, Any] = {
        "backbone": "sface",
        "embedding_size": 128,
        "preprocessing": {"size": 112, "color_order": "rgb", "mean": 127.5, "std": 128.0},
        "alignment": {"template": "arcface_112", "size": 112},
        "start": "somewhere",
        "start_license": "Apache-2.0",
        "weights_sha256": sha256_file(model / "model.safetensors"),
        "training": {"images": 216, "identities": 27, "degradation": "noise:60"},
    }
    (model / "model.json").write_text(json.dumps(config))
    measured = {
        "baseline": {"heldout": FIGURES | {"auc": 0.85}},
        "finetuned": {"heldout": FIGURES, "lfw": FIGURES | {"tar_at_far": {"0.001": 0.98}}},
        "gain": {},
        "gate": {"better": better, "reason": f"{'better' if better else 'not better'} on 13 held-out people: AUC"},
        "people": 13,
        "images": 130,
        "pairs": 8385,
    }
    measured["baseline"]["lfw"] = measured["finetuned"]["lfw"]
    (evaluation / "evaluation.json").write_text(json.dumps(measured))
    return model, evaluation


def test_a_better_model_is_written_with_card_and_metrics(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True)
    figures = promote(model, evaluation, tmp_path / "out", "gate-3", str(tmp_path / "models"))
    assert figures == {"rows_in": 5, "rows_out": 5, "promoted": True}
    promotion = json.loads((tmp_path / "out" / "promotion.json").read_text("utf-8"))
    version = sha256_file(model / "model.safetensors")[:12]
    assert promotion["version"] == version
    assert promotion["uri"] == f"{tmp_path / 'models'}/gate-3/{version}"
    written = Path(promotion["uri"])
    assert {p.name: sha256_file(p) for p in written.iterdir()} == promotion["sha256"]
    assert set(promotion["sha256"]) == {
        "model.safetensors",
        "model.json",
        "identities.json",
        "metrics.json",
        "model_card.md",
    }
    card = (written / "model_card.md").read_text("utf-8")
    for told in (
        "gate-3",
        "27 people",
        "13 other people",
        "noise:60",
        "Apache-2.0",
        "| heldout | baseline |",
        "85.00 %",
    ):
        assert told in card
    assert "| lfw | finetuned | 98.00 % | 99.10 % | 4.00 % | – | – | 98.00 % |" in card


def test_the_same_model_has_the_same_address(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True)
    for name in ("one", "two"):
        promote(model, evaluation, tmp_path / name, "gate-3", str(tmp_path / "models"))
    assert len(list((tmp_path / "models" / "gate-3").iterdir())) == 1
    assert (tmp_path / "one" / "promotion.json").read_bytes() == (tmp_path / "two" / "promotion.json").read_bytes()


def test_a_model_that_is_not_better_is_not_written_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, evaluation = make(tmp_path, better=False)
    figures = promote(model, evaluation, tmp_path / "out", "gate-3", str(tmp_path / "models"))
    assert figures["promoted"] is False and figures["rows_out"] == 0
    assert not (tmp_path / "models").exists()
    promotion = json.loads((tmp_path / "out" / "promotion.json").read_text("utf-8"))
    assert promotion["uri"] is None and promotion["promoted"] is False
    assert "not promoted: not better on 13 held-out people" in capsys.readouterr().out
    assert (tmp_path / "out" / "model_card.md").is_file()


def test_model_json_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, evaluation = make(tmp_path, better=True)
    order: list[str] = []
    monkeypatch.setattr(storage, "upload", lambda path, uri: order.append(path.name))
    promote(model, evaluation, tmp_path / "out", "gate-3", "s3://bucket/models")
    assert order[-1] == "model.json" and len(order) == 5


def test_a_destination_that_cannot_be_written_to_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True)
    (tmp_path / "models").write_text("a file")
    with pytest.raises(KubefaceError, match="cannot be written"):
        promote(model, evaluation, tmp_path / "out", "gate-3", str(tmp_path / "models"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b"])
def test_a_name_that_would_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    model, evaluation = make(tmp_path, better=True)
    with pytest.raises(KubefaceError, match="name is"):
        promote(model, evaluation, tmp_path / "out", name, str(tmp_path / "models"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True)
    (evaluation / "evaluation.json").unlink()
    with pytest.raises(KubefaceError, match=r"evaluation\.json is missing"):
        promote(model, evaluation, tmp_path / "out", "gate-3", str(tmp_path / "models"))


@pytest.mark.parametrize("better", [True, False])
def test_the_data_is_left_for_the_next_run_and_erasure_stands_in_the_card(tmp_path: Path, better: bool) -> None:
    model, evaluation = make(tmp_path, better=better)
    erasure = {"marks": ["1f" * 16, "2e" * 16], "files_left_out": 41, "rows_found": 0, "rows_checked": 271}
    for name, data in (
        ("gathered", {"shards": {"0/1": "f"}, "erasure": erasure}),
        ("audited", {"drift": {"worst": 1}}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.json").write_text(json.dumps(data))
    told = {"gathered": tmp_path / "gathered", "audited": tmp_path / "audited"}
    promote(model, evaluation, tmp_path / "out", "gate-3", str(tmp_path / "models"), **told)
    left = json.loads((tmp_path / "models" / "gate-3" / "data.json").read_text())
    assert left == {"shards": {"0/1": "f"}, "erasure": erasure, "drift": {"worst": 1}}
    card = (tmp_path / "out" / "model_card.md").read_text("utf-8")
    assert "41 images were left out" in card and "0 of them are among the 271 images that remained" in card
    assert f"- `{'1f' * 16}`" in card and f"- `{'2e' * 16}`" in card


def test_a_card_without_erasure_speaks_of_none(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True)
    promote(model, evaluation, tmp_path / "out", "gate-3", str(tmp_path / "models"))
    assert "rasure" not in (tmp_path / "out" / "model_card.md").read_text("utf-8")
