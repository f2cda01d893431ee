"""Saving, loading and running face models."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from kubeface.faces.images import RGB
from kubeface.models.backbones import Preprocessing
from kubeface.models.backbones.sface import SFace
from kubeface.models.model import (
    FaceModel,
    choose_device,
    digest,
    load_model,
    load_pretrained,
    load_start,
    save_model,
)
from kubeface.models.weights import load_state
from kubeface.records.model import TrainingRecord
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import sha256_file


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


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes model.json in place."""
    config = json.loads((folder / "model.json").read_text())
    change(config)
    (folder / "model.json").write_text(json.dumps(config))


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


def test_recognition_has_no_head(saved: Path, changed: FaceModel, tmp_path: Path) -> None:
    config = json.loads((saved / "model.json").read_text())
    assert config["task"] == "recognition" and "head_sha256" not in config
    assert not (saved / "head.safetensors").exists()


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


def without(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("blocks.0.bn.")}


def with_others(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"other.weight": torch.ones(2)}


def reshaped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"fc.weight": torch.ones(64, 50_176), "fc.bias": torch.ones(64)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without, r"4 missing \(blocks\.0\.bn\.bias, .*running_mean, .*running_var, …\)$"),
        (with_others, r"1 unexpected \(other\.weight\)$"),
        (reshaped, r"2 of another shape \(fc\.bias, fc\.weight\)$"),
        (lambda state: reshaped(with_others(without(state))), r"4 missing .*; 1 unexpected .*; 2 of another shape"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    sface: FaceModel, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str
) -> None:
    path = tmp_path / "weights.pt"
    torch.save(change(dict(sface.network.state_dict())), path)
    with pytest.raises(KubefaceError, match=said) as caught:
        load_pretrained("sface", str(path))
    assert str(caught.value).startswith(f"{path} does not fit the backbone: ")


def test_refused_state_changes_nothing() -> None:
    network = nn.Linear(2, 2)
    before = network.weight.detach().clone()
    with pytest.raises(KubefaceError, match=r"here does not fit .*1 missing \(bias\)"):
        load_state(network, {"weight": torch.zeros(2, 2)}, "here")
    assert torch.equal(network.weight, before)


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled_but_tensors(tmp_path: Path) -> None:
    torch.save({"weight": _Trap(tmp_path / "sprung")}, tmp_path / "weights.pt")
    with pytest.raises(KubefaceError, match=r"weights\.pt"):
        load_pretrained("sface", str(tmp_path / "weights.pt"))
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "weights.pt", weights_only=False)
    assert (tmp_path / "sprung").exists()  # the trap works


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("data", [b"", b"no weights at all", bytes(range(256)), b"\x80\x02}q\x00X\x05", b"PK\x03\x04"])
def test_files_that_hold_no_weights(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(data)
    with pytest.raises(KubefaceError, match=rf"weights{suffix} ") as caught:
        load_pretrained("sface", str(path))
    assert "\n" not in str(caught.value)


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


def test_missing_weights_file(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"none\.safetensors does not exist"):
        load_pretrained("sface", str(tmp_path / "none.safetensors"))


# --- model folders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "model.v1.2", "model with spaces"])
def test_saved_model_embeds_alike(
    changed: FaceModel, saved: Path, sface: FaceModel, crops: RGB, tmp_path: Path, name: str
) -> None:
    expected = changed.embed(crops)
    assert np.abs(expected - sface.embed(crops)).max() > 0.01  # it is not the published model that comes back
    folder = saved.rename(tmp_path / name)
    for loaded in (load_model(folder), load_pretrained("sface", str(folder))):
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


@pytest.mark.parametrize("place", [8, 5000, -1])
def test_flipped_byte_is_found(saved: Path, place: int) -> None:
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
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
    rewrite(saved, lambda config: config[part].update({key: value}))
    with pytest.raises(KubefaceError, match=r"model\.json: the model was trained with another preprocessing"):
        load_model(saved)


@pytest.mark.parametrize("key", ["backbone", "preprocessing", "alignment", "weights_sha256"])
def test_incomplete_model_json(saved: Path, key: str) -> None:
    rewrite(saved, lambda config: config.pop(key))
    with pytest.raises(KubefaceError):
        load_model(saved)


def test_unknown_or_unexpected_backbone_of_a_folder(saved: Path) -> None:
    with pytest.raises(KubefaceError, match="holds backbone 'sface', the run asks for 'inception_resnet_v1'"):
        load_pretrained("inception_resnet_v1", str(saved))
    rewrite(saved, lambda config: config.update(backbone="arcface"))
    with pytest.raises(KubefaceError, match="backbone 'arcface' is unknown"):
        load_model(saved)


def test_weights_of_another_network_in_a_folder(saved: Path) -> None:
    path = saved / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(2)}, path)
    rewrite(saved, lambda config: config.update(weights_sha256=sha256_file(path)))
    with pytest.raises(KubefaceError, match=r"model\.safetensors does not fit .* missing .* 1 unexpected \(weight\)"):
        load_model(saved)


def test_missing_parts_of_a_folder(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"nowhere/model\.json is missing"):
        load_pretrained("sface", str(tmp_path / "nowhere"))
    (saved / "model.safetensors").unlink()
    with pytest.raises(KubefaceError, match=r"model\.safetensors is missing"):
        load_pretrained("sface", str(saved))


# --- running --------------------------------------------------------------------------------------------------------


def test_embeddings_are_unit_vectors_that_differ(sface: FaceModel, crops: RGB) -> None:
    embeddings = sface.embed(crops)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (6, 128)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert (embeddings @ embeddings.T - np.eye(6)).max() < 0.999


def test_embeddings_do_not_depend_on_the_batch(sface: FaceModel, crops: RGB) -> None:
    together = sface.embed(crops)
    np.testing.assert_allclose(together[::-1], sface.embed(crops[::-1].copy()), atol=1e-5)
    np.testing.assert_allclose(together[2:3], sface.embed(crops[2:3]), atol=1e-5)


def test_flip_mirrors_the_crop(sface: FaceModel, crops: RGB) -> None:
    flipped = sface.embed(crops, flip=True)
    np.testing.assert_array_equal(flipped, sface.embed(crops[:, :, ::-1].copy()))
    assert np.abs(flipped - sface.embed(crops)).max() > 1e-3


def test_embedding_runs_in_evaluation_mode(sface: FaceModel, crops: RGB) -> None:
    """A network left in training mode would drop units and learn statistics."""
    expected = sface.embed(crops)
    sface.network.train()
    np.testing.assert_array_equal(sface.embed(crops), expected)


def test_folded_batch_norm_is_batch_norm() -> None:
    torch.manual_seed(0)
    network: Any = SFace()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    network.eval()
    maps = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        for block in list(network.blocks)[:4]:
            expected = block.act(block.bn(block.conv(maps)))
            maps = block(maps)
            torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_preparation_by_the_formula(sface: FaceModel, order: str) -> None:
    model = replace(sface, preprocessing=Preprocessing(8, order, 100.0, 50.0))
    crops = torch.arange(2 * 3 * 64).reshape(2, 3, 8, 8) % 256
    prepared = model.prepare(crops.to(torch.uint8))
    expected = (crops.float() - 100) / 50
    torch.testing.assert_close(prepared, expected if order == "rgb" else expected[:, [2, 1, 0]])
    assert prepared.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_preparation_by_channel(sface: FaceModel, order: str) -> None:
    """Mean and deviation are in the order in which the backbone wants the channels."""
    mean, std = (1.0, 20.0, 100.0), (2.0, 4.0, 8.0)
    model = replace(sface, preprocessing=Preprocessing(8, order, mean, std))
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
    model = replace(sface, preprocessing=Preprocessing(16, "rgb", 0.0, 1.0))
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(KubefaceError, match="torch sees no GPU"):
        choose_device("cuda")
