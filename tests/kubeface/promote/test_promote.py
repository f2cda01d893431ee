"""Promotion: only what is better, whole, and at the same address for the same model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubeface.finetune.promoted import find_promoted, hand_on
from kubeface.promote.champion import find_champion
from kubeface.promote.options import PromoteOptions
from kubeface.promote.passport import verify
from kubeface.promote.step import PromoteResult, promote
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import read_options
from kubeface.storage import objects
from kubeface.storage.folders import sha256_file
from tests.support.evaluations import resolutions
from tests.support.json_files import edit
from tests.support.promoted_models import LABELS, make, write_data

OTHER = {"backbone": "sface", "weights_sha256": "0" * 64, "onnx_sha256": "0" * 64}


def published(folder: Path, name: str = "gate-3") -> PromoteOptions:
    return PromoteOptions(name=name, destination=str(folder / "models"))


def promotion_of(out: Path) -> dict[str, object]:
    return dict(json.loads((out / "promotion.json").read_text("utf-8")))


def promoted(folder: Path, model: Path, evaluation: Path, name: str = "gate-3") -> Path:
    """Promotes a model; returns the folder of the version."""
    promote(model, evaluation, folder / "out", options=published(folder, name))
    return Path(str(promotion_of(folder / "out")["uri"]))


def refused(folder: Path, said: str, model: Path, evaluation: Path, name: str = "gate-3") -> None:
    """Expects that a promotion is refused and leaves nothing."""
    with pytest.raises(KubefaceError, match=said):
        promote(model, evaluation, folder / "out", options=published(folder, name))
    assert not (folder / "out").exists()


def test_a_better_model_is_written_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True)
    (model / "mtcnn.zip").write_bytes(b"detector")
    (model / "checkpoints").mkdir()
    (evaluation / "threshold.json").write_text(json.dumps({"threshold": 0.41}))
    figures = promote(model, evaluation, tmp_path / "out", options=published(tmp_path))
    assert figures == PromoteResult(rows_in=8, rows_out=8, promoted=True, trained=True)
    promotion = promotion_of(tmp_path / "out")
    weights, measured = (sha256_file(path) for path in (model / "model.safetensors", evaluation / "evaluation.json"))
    assert promotion["version"] == f"{weights[:12]}-{measured[:8]}"
    assert promotion["uri"] == f"{tmp_path / 'models'}/gate-3/{promotion['version']}"
    assert (promotion["champion"], promotion["lost_to"], promotion["registered"]) == (None, None, {})
    written = Path(str(promotion["uri"]))
    assert {p.name: sha256_file(p) for p in written.iterdir()} == promotion["sha256"]
    names = (
        "model.safetensors model.json mtcnn.zip identities.json threshold.json metrics.json model_card.md passport.json"
    )
    assert {p.name for p in written.iterdir()} == set(names.split())
    for name in ("metrics.json", "model_card.md", "passport.json"):
        assert (written / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert find_champion(str(tmp_path / "models"), "gate-3") == promotion["uri"]
    assert verify(str(written)).whole


def test_the_exported_model_goes_with_it_and_its_starting_model_too(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True)
    for name in ("model.onnx", "start.onnx"):
        (model / name).write_bytes(name.encode())
    sha256 = sha256_file(model / "model.onnx")
    edit(model / "model.json", lambda record: record["training"].update(onnx={"sha256": sha256}))
    edit(evaluation / "evaluation.json", lambda found: found["models"]["finetuned"].update(onnx_sha256=sha256))
    written = promoted(tmp_path, model, evaluation)
    assert (written / "model.onnx").read_bytes() == b"model.onnx"
    assert (written / "start.onnx").read_bytes() == b"start.onnx"  # for a run that hands it on and evaluates it again


def with_network(model: Path) -> Path:
    """A model folder whose model was trained with a super-resolution network."""
    (model / "superresolution.onnx").write_bytes(b"network")
    (model / "superresolution.json").write_text("{}")
    (model / "checkpoints").mkdir()
    for name in ("best", "last"):
        (model / "checkpoints" / f"{name}.safetensors").write_bytes(name.encode())
    network = {"name": "edsr@12ab", "scale": 8, "sha256": sha256_file(model / "superresolution.onnx")}
    edit(model / "model.json", lambda record: record.update(superresolution=network | {"identities": ["Ann"]}))
    return model


def test_a_low_resolution_model_takes_its_network_and_its_head_with_it(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True, **resolutions())
    written = promoted(tmp_path, with_network(model), evaluation)
    assert (written / "superresolution.onnx").read_bytes() == b"network"
    assert (written / "superresolution.json").is_file()
    assert (written / "best.safetensors").read_bytes() == b"best"  # backbone and head, to go on training
    assert json.loads((written / "identities.json").read_text()) == ["a", "b"]  # the people of the head's rows
    assert (written / "model.safetensors").read_bytes() == b"weights"  # the backbone alone, to recognise with
    assert verify(str(written)).whole
    network = {"name": "edsr@12ab", "scale": 8, "sha256": sha256_file(model / "superresolution.onnx")}
    assert json.loads((written / "passport.json").read_text("utf-8"))["superresolution"] == network
    assert "resolutions" in json.loads((written / "metrics.json").read_text("utf-8"))


def test_a_network_that_is_missing_or_another_one_is_refused(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True)
    (with_network(model) / "superresolution.onnx").write_bytes(b"other")
    refused(tmp_path, r"superresolution\.onnx is not the network that model\.json names", model, evaluation)
    (model / "superresolution.onnx").unlink()
    refused(tmp_path, r"superresolution\.onnx is missing", model, evaluation)
    assert not (tmp_path / "models").exists()


def test_metrics_hold_what_was_measured_and_nobodys_name(tmp_path: Path) -> None:
    pair: dict[str, Any] = {
        "left": "Ann/1.jpg", "right": "Bob/2.jpg", "left_identity": "Ann", "right_identity": "Bob", "before": 0.3,
        "after": 0.5,
    }  # fmt: skip
    lost = pair | {"set": "heldout", "kind": "genuine", "threshold_before": 0.2, "threshold_after": 0.6}
    ratio = {"fmr": 1.0, "fnmr": None}
    groups = {"camera": {"rows": [], "worst_ratio": {"baseline": ratio, "finetuned": ratio}}}
    hardest = {"genuine": [pair], "impostor": []}
    model, evaluation = make(tmp_path, better=True, hardest=hardest, forgotten=[lost], groups=groups, probes=[])
    promote(model, evaluation, tmp_path / "out", options=published(tmp_path))
    text = (tmp_path / "out" / "metrics.json").read_text("utf-8")
    assert set(json.loads(text)) == {"task", "baseline", "finetuned", "gain", "gate", "groups"}
    assert "Ann" not in text


def test_the_same_promotion_has_the_same_address_and_changes_nothing(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True)
    for name in ("one", "two"):
        promote(model, evaluation, tmp_path / name, options=published(tmp_path))
        written = {p: p.read_bytes() for p in (tmp_path / "models").rglob("*") if p.is_file()}
        if name == "one":
            first, times = written, {p: p.stat().st_mtime_ns for p in written if p.suffix}
    assert written == first and {p: p.stat().st_mtime_ns for p in times} == times
    for name in ("promotion.json", "passport.json", "model_card.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert len(json.loads((tmp_path / "models" / "gate-3" / "champion.json").read_text())["history"]) == 1


def test_a_version_that_was_damaged_or_left_half_written_is_written_again(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True)
    written = promoted(tmp_path, model, evaluation)
    (written / "model.json").unlink()
    (written / "model.safetensors").write_bytes(b"torn")
    promote(model, evaluation, tmp_path / "two", options=published(tmp_path))
    assert verify(str(written)).whole


def test_an_evaluation_or_threshold_of_another_model_is_refused(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path / "a", better=True, models={"finetuned": OTHER})
    refused(tmp_path, r"evaluation\.json is of another model", model, evaluation)
    model, evaluation = make(tmp_path / "b", better=True)
    (evaluation / "threshold.json").write_text(json.dumps({"weights_sha256": "0" * 64}))
    refused(tmp_path, r"threshold\.json is of another model", model, evaluation)
    _, other = make(tmp_path / "classes", better=True, task="classes")
    model, evaluation = make(tmp_path / "attributes", better=True, task="attributes")
    refused(tmp_path, r"evaluation\.json is of another model", model, other)
    edit(model / "model.json", lambda record: record["training"].update(onnx={"sha256": "1" * 64}))  # another head
    refused(tmp_path, r"evaluation\.json is of another model", model, evaluation)
    (evaluation / "evaluation.json").unlink()
    refused(tmp_path, r"evaluation\.json is missing", model, evaluation)
    assert not (tmp_path / "models").exists()


def test_a_model_that_is_not_better_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, evaluation = make(tmp_path, better=False)
    figures = promote(model, evaluation, tmp_path / "out", options=published(tmp_path))
    assert figures.promoted is False and figures.rows_out == 0
    assert not (tmp_path / "models").exists()
    promotion = json.loads((tmp_path / "out" / "promotion.json").read_text("utf-8"))
    assert promotion["uri"] is None and promotion["promoted"] is False
    assert "not promoted: not better on 13 held-out people" in capsys.readouterr().out
    assert (tmp_path / "out" / "model_card.md").is_file()


def test_model_json_goes_last_and_the_champion_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, evaluation = make(tmp_path, better=True)
    order: list[str] = []
    upload, replace = objects.upload, objects.replace

    def record_upload(path: Path, uri: str) -> None:
        order.append(path.name)
        upload(path, uri)

    def record_replace(uri: str, data: bytes, etag: str) -> bool:
        order.append(uri.split("/")[-1])
        return replace(uri, data, etag)

    monkeypatch.setattr(objects, "upload", record_upload)
    monkeypatch.setattr(objects, "replace", record_replace)
    promote(model, evaluation, tmp_path / "out", options=published(tmp_path))
    assert order[-3:] == ["passport.json", "model.json", "champion.json"] and len(order) == 7


@pytest.mark.parametrize("killed_at", range(7))
def test_a_kill_leaves_no_torn_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int) -> None:
    model, evaluation = make(tmp_path, better=True)
    models = str(tmp_path / "models")
    left = [killed_at]

    def counted(action: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return action(*arguments)

        return run

    with monkeypatch.context() as patch:
        for name in ("upload", "replace"):
            patch.setattr(objects, name, counted(getattr(objects, name)))
        with pytest.raises(KeyboardInterrupt):
            promote(model, evaluation, tmp_path / "out", options=published(tmp_path))
    assert find_champion(models, "gate-3") == "" and not (tmp_path / "out").exists()
    promote(model, evaluation, tmp_path / "out", options=published(tmp_path))
    assert verify(find_champion(models, "gate-3")).whole


def test_a_destination_that_cannot_be_written_to_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    refused(tmp_path, "cannot be written", *make(tmp_path, better=True))


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b"])
def test_a_name_that_would_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KubefaceError, match=r"promote\.name is '.*': string should match pattern"):
        read_options(PromoteOptions, {"name": name}, "promote.")
    with pytest.raises(KubefaceError, match="name is"):
        find_champion(str(tmp_path), name)


def test_without_a_destination_it_is_asked_for(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True)
    with pytest.raises(KubefaceError, match="destination is empty: give s3://bucket/models or a folder"):
        promote(model, evaluation, tmp_path / "out")


REASON = "the data and options are those that it was trained with"


def handed_on(folder: Path, models: Path) -> Path:
    """The model folder of a run in which finetune handed on the promoted model instead of training."""
    promoted = find_promoted(str(models))
    assert promoted is not None
    hand_on(promoted, folder, REASON)
    return folder


def test_a_model_that_was_handed_on_stays_in_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, evaluation = make(tmp_path, better=True)
    (model / "start.onnx").write_bytes(b"start")
    promote(model, evaluation, tmp_path / "one", options=published(tmp_path))
    uri = find_champion(str(tmp_path / "models"), "gate-3")
    before = {path: path.read_bytes() for path in (tmp_path / "models").rglob("*") if path.is_file()}
    gathered, _ = write_data(tmp_path)
    kept = handed_on(tmp_path / "kept", tmp_path / "models" / "gate-3")
    capsys.readouterr()
    result = promote(kept, evaluation, tmp_path / "two", gathered, options=published(tmp_path), champion=uri)
    assert result == PromoteResult(rows_in=0, rows_out=0, promoted=False, trained=False)
    promotion = promotion_of(tmp_path / "two")
    assert promotion["promoted"] is promotion["trained"] is False and promotion["uri"] == promotion["champion"] == uri
    version = uri.rpartition("/")[2]
    said = f"this model is in force already, as version {version}: {REASON}"
    assert promotion["reason"] == said and f"promote: not promoted: {said}" in capsys.readouterr().out
    # data.json too is that of the last training: drift is measured against it.
    assert {path: path.read_bytes() for path in (tmp_path / "models").rglob("*") if path.is_file()} == before
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["promotion.json"]


def test_of_a_model_that_was_handed_on_and_replaced_meanwhile_nothing_is_claimed(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path / "a", better=True)
    (model / "start.onnx").write_bytes(b"start")
    promote(model, evaluation, tmp_path / "one", options=published(tmp_path))
    uri = find_champion(str(tmp_path / "models"), "gate-3")
    kept = handed_on(tmp_path / "kept", tmp_path / "models" / "gate-3")
    other = make(tmp_path / "b", better=True, weights=b"other")
    promote(*other, tmp_path / "two", options=published(tmp_path), champion=uri)
    now = find_champion(str(tmp_path / "models"), "gate-3")
    promote(kept, evaluation, tmp_path / "three", options=published(tmp_path), champion=uri)
    promotion = promotion_of(tmp_path / "three")
    assert promotion["uri"] == now != uri
    assert str(promotion["reason"]).startswith(f"nothing was trained, and {now.rpartition('/')[2]} is in force now")


@pytest.mark.parametrize("better", [True, False])
def test_the_data_is_left_for_the_next_run_whatever_the_gate_says(tmp_path: Path, better: bool) -> None:
    model, evaluation = make(tmp_path, better=better)
    gathered, audited = write_data(tmp_path)
    promote(model, evaluation, tmp_path / "out", gathered, audited, options=published(tmp_path))
    left = json.loads((tmp_path / "models" / "gate-3" / "data.json").read_text())
    assert left["shards"] == {"0/1": "f"} and left["drift"] == {"worst": 1}


@pytest.mark.parametrize("task", ["attributes", "classes"])
def test_a_model_of_another_task_goes_with_its_head_and_labels(tmp_path: Path, task: str) -> None:
    model, evaluation = make(tmp_path, better=True, task=task)
    (evaluation / "threshold.json").write_text(json.dumps({"task": task}))
    written = promoted(tmp_path, model, evaluation, "faces")
    names = {path.name for path in written.iterdir()}
    assert {"labels.json", "head.safetensors", "identities.json", "threshold.json"} < names
    assert verify(str(written)).whole
    metrics = json.loads((written / "metrics.json").read_text())
    figures = metrics["finetuned"]["heldout"]
    assert (metrics["task"], metrics["labels"]) == (task, LABELS) and "confusion" not in figures
    assert ("scratch" in metrics, "thresholds" in metrics) == (task == "classes", task == "attributes")
    passport = json.loads((written / "passport.json").read_text())
    assert set(passport["files"]) >= {"labels.json", "head.safetensors"}
    told = passport["metrics"]["finetuned"]["heldout"]
    assert told["accuracy"] == figures["accuracy"] and "labels" not in told and "classes" not in told


def test_a_champion_of_another_task_is_refused_and_stays(tmp_path: Path) -> None:
    models = str(tmp_path / "models")
    promote(
        *make(tmp_path / "a", better=True, task="attributes"), tmp_path / "one", options=published(tmp_path, "faces")
    )
    standing = find_champion(models, "faces")
    wanted = r"models/faces is promoted for task attributes, this model is for classes: use another name"
    for task, said in (("classes", wanted), ("recognition", "this model is for recognition")):
        model, evaluation = make(tmp_path / task, better=True, task=task)
        with pytest.raises(KubefaceError, match=said):
            promote(model, evaluation, tmp_path / "out", options=published(tmp_path, "faces"), champion=standing)
    assert find_champion(models, "faces") == standing and not (tmp_path / "out").exists()
    promote(*make(tmp_path / "b", better=True, task="classes"), tmp_path / "out", options=published(tmp_path, "others"))
    assert find_champion(models, "others")


def test_a_champion_whose_model_json_is_damaged_is_written_again(tmp_path: Path) -> None:
    model, evaluation = make(tmp_path, better=True, task="classes")
    written = promoted(tmp_path, model, evaluation, "faces")
    (written / "model.json").write_text("{torn")
    promote(model, evaluation, tmp_path / "two", options=published(tmp_path, "faces"))
    assert verify(str(written)).whole
