"""Saving, loading and running face models."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import safetensors.torch
import torch

from kubeface.faces.images import RGB
from kubeface.models.model import (
    FaceModel,
    choose_device,
    digest,
    load_model,
    load_pretrained,
    load_start,
    save_model,
)
from kubeface.records.model import Preprocessing, TrainingRecord
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import sha256_file
from tests.support.json_files import edit


@pytest.fixture(scope="module")
def changed() -> FaceModel:
    """A model whose weights are nobody's but its own."""
    model = load_pretrained("sface")
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    return model


@pytest.fixture(scope="module")
def written(changed: FaceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(changed, folder, TrainingRecord(epochs=1))
    return folder


@pytest.fixture
def saved(written: Path, tmp_path: Path) -> Path:
    """A model folder to do with as one likes."""
    return Path(shutil.copytree(written, tmp_path / "model"))


# --- tasks and heads -------------------------------------------------------------------------------------------------


def test_a_head_is_saved_beside_the_backbone(tmp_path: Path) -> None:
    model, _ = load_start("small_cnn", scratch=True)
    head = {"weight": torch.randn(3, 128, dtype=torch.float64).t().contiguous().t(), "bias": torch.zeros(3)}
    save_model(model, tmp_path, TrainingRecord(epochs=1), "attributes", head)
    config = json.loads((tmp_path / "model.json").read_text())
    assert (config["task"], config["head_sha256"]) == ("attributes", sha256_file(tmp_path / "head.safetensors"))
    stored = safetensors.torch.load_file(tmp_path / "head.safetensors")
    assert {name: value.dtype for name, value in stored.items()} == {"weight": torch.float32, "bias": torch.float32}
    assert torch.equal(stored["weight"], head["weight"].float())
    assert digest(load_model(tmp_path).network) == digest(model.network)


# --- weights files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "form"),
    [
        (".safetensors", "{path}"),
        (".safetensors", "file://{path}"),
        (".safetensors", "file://{path}#sha256={sha256}"),
        (".pt", "{path}#sha256={sha256}"),
        (".pth", "{path}"),
    ],
)
def test_weights_file_by_path_and_uri(
    changed: FaceModel, crops: RGB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, form: str
) -> None:
    monkeypatch.setenv("KUBEFACE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / f"weights{suffix}"
    state = {name: value.contiguous() for name, value in changed.network.state_dict().items()}
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    uri = form.format(path=path, sha256=sha256_file(path))
    model = load_pretrained("sface", uri)
    np.testing.assert_array_equal(model.embed(crops), changed.embed(crops))
    assert (model.start, model.license) == (uri, "as given by its publisher")


def test_wrong_checksum_of_a_file(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEFACE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(KubefaceError, match=f"expected {'0' * 64}"):
        load_pretrained("sface", f"{saved / 'model.safetensors'}#sha256={'0' * 64}")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_weights(saved: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = safetensors.torch.load_file(saved / "model.safetensors")
    torch.save(state, path) if suffix == ".pt" else safetensors.torch.save_file(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(KubefaceError, match="is not a readable weights file"):
        load_pretrained("sface", str(path))


def test_file_without_a_state_dict(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "weights.pt")
    with pytest.raises(KubefaceError, match="holds a list where a state dict is needed"):
        load_pretrained("sface", str(tmp_path / "weights.pt"))
    with pytest.raises(KubefaceError, match=r"none\.safetensors does not exist"):
        load_pretrained("sface", str(tmp_path / "none.safetensors"))


# --- model folders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.v1.2", "model with spaces"])
def test_saved_model_embeds_alike(
    changed: FaceModel, saved: Path, sface: FaceModel, crops: RGB, tmp_path: Path, name: str
) -> None:
    expected = changed.embed(crops)
    assert np.abs(expected - sface.embed(crops)).max() > 0.01  # it is not the published model that comes back
    folder = saved.rename(tmp_path / name)
    uris = (str(folder), folder.as_uri())
    for loaded in (load_model(folder), *(load_pretrained("sface", uri) for uri in uris)):
        assert loaded.embed(crops).tobytes() == expected.tobytes()
        assert (loaded.start, loaded.license) == (changed.start, changed.license)


def test_saving_again_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    save_model(load_model(saved), again, TrainingRecord(epochs=1))
    for name in ("model.safetensors", "model.json"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


def test_what_model_json_tells(saved: Path, changed: FaceModel) -> None:
    config = json.loads((saved / "model.json").read_text())
    assert config["weights_sha256"] == sha256_file(saved / "model.safetensors")
    assert config["backbone"] == "sface"
    assert config["preprocessing"] == {"size": 112, "color_order": "rgb", "mean": 127.5, "std": 128.0}
    assert config["alignment"] == {"template": "arcface_112", "size": 112, "detector": "mtcnn"}
    assert (config["embedding_size"], config["start"], config["training"]) == (128, changed.start, {"epochs": 1})
    assert config["task"] == "recognition" and "head_sha256" not in config
    assert not (saved / "head.safetensors").exists()


def test_flipped_byte_is_found(saved: Path) -> None:
    path = saved / "model.safetensors"
    data = path.read_bytes()
    for place in (8, 5000, len(data) - 1):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(KubefaceError, match=r"model\.safetensors is missing or is not the file"):
            load_model(saved)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("preprocessing", "size", 160),
        ("preprocessing", "color_order", "bgr"),
        ("preprocessing", "mean", 0.0),
        ("preprocessing", "std", 255.0),
        ("alignment", "template", "centre"),
        ("alignment", "size", 160),
    ],
)
def test_other_preprocessing_is_refused(saved: Path, part: str, key: str, value: object) -> None:
    edit(saved / "model.json", lambda config: config[part].update({key: value}))
    with pytest.raises(KubefaceError, match=r"model\.json: the model was trained with another preprocessing"):
        load_model(saved)


@pytest.mark.parametrize("key", ["backbone", "preprocessing", "alignment", "embedding_size", "weights_sha256"])
def test_incomplete_model_json(saved: Path, key: str) -> None:
    edit(saved / "model.json", lambda config: config.pop(key))
    with pytest.raises(KubefaceError, match=rf"model\.json is not what this release reads \({key}.*\): [^\n]*$"):
        load_model(saved)


def test_folders_that_do_not_hold_what_is_asked_for(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"nowhere/model\.json is missing"):
        load_pretrained("sface", str(tmp_path / "nowhere"))
    with pytest.raises(KubefaceError, match="holds backbone 'sface', the run asks for 'inception_resnet_v1'"):
        load_pretrained("inception_resnet_v1", str(saved))
    edit(saved / "model.json", lambda config: config.update(backbone="arcface"))
    with pytest.raises(KubefaceError, match="backbone 'arcface' is unknown"):
        load_model(saved)


def test_weights_of_another_network_in_a_folder(saved: Path) -> None:
    path = saved / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(2)}, path)
    edit(saved / "model.json", lambda config: config.update(weights_sha256=sha256_file(path)))
    with pytest.raises(KubefaceError, match=r"model\.safetensors does not fit .* missing .* 1 unexpected \(weight\)"):
        load_model(saved)
    path.unlink()
    with pytest.raises(KubefaceError, match=r"model\.safetensors is missing"):
        load_pretrained("sface", str(saved))


# --- running --------------------------------------------------------------------------------------------------------


def test_embeddings_are_unit_vectors_that_differ(sface: FaceModel, crops: RGB) -> None:
    embeddings = sface.embed(crops)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (6, 128)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert (embeddings @ embeddings.T - np.eye(6)).max() < 0.999
    flipped = sface.embed(crops, flip=True)
    np.testing.assert_array_equal(flipped, sface.embed(crops[:, :, ::-1].copy()))
    assert np.abs(flipped - embeddings).max() > 1e-3


def test_embeddings_do_not_depend_on_the_batch(sface: FaceModel, crops: RGB) -> None:
    together = sface.embed(crops)
    np.testing.assert_allclose(together[::-1], sface.embed(crops[::-1].copy()), atol=1e-5)
    np.testing.assert_allclose(together[2:3], sface.embed(crops[2:3]), atol=1e-5)


def test_embedding_runs_in_evaluation_mode(sface: FaceModel, crops: RGB) -> None:
    """A network left in training mode would drop units and learn statistics."""
    expected = sface.embed(crops)
    sface.network.train()
    np.testing.assert_array_equal(sface.embed(crops), expected)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize(("mean", "std"), [((1.0, 20.0, 100.0), (2.0, 4.0, 8.0)), ((100.0,) * 3, (50.0,) * 3)])
def test_preparation_by_the_formula(
    sface: FaceModel, order: Literal["rgb", "bgr"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    """Mean and deviation are in the order in which the backbone wants the channels; one number serves them all."""
    own = (mean[0], std[0]) if len({*mean}) == 1 else (mean, std)
    model = replace(sface, preprocessing=Preprocessing(size=8, color_order=order, mean=own[0], std=own[1]))
    crops = torch.arange(2 * 3 * 64).reshape(2, 3, 8, 8) % 256
    given = crops.float()
    for form in (crops.to(torch.uint8), given):
        prepared = model.prepare(form)
        for channel in range(3):
            theirs = channel if order == "rgb" else 2 - channel
            expected = (crops[:, theirs].float() - mean[channel]) / std[channel]
            torch.testing.assert_close(prepared[:, channel], expected)
        assert prepared.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(given, crops.float())  # what was given is as it was


def test_preparation_scales_to_the_size_of_the_backbone(sface: FaceModel) -> None:
    model = replace(sface, preprocessing=Preprocessing(size=16, color_order="rgb", mean=0.0, std=1.0))
    ramp = torch.arange(8).repeat(1, 3, 8, 1) * 10
    prepared = model.prepare(ramp.to(torch.uint8))
    assert prepared.shape == (1, 3, 16, 16)
    row = prepared[0, 0, 5]
    assert torch.all(row.diff() >= 0) and row[0] == 0 and row[-1] == 70
    assert row.mean() == pytest.approx(35)


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(KubefaceError, match="device 'tpu' is unknown"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(KubefaceError, match="torch sees no GPU"):
            choose_device("cuda")
