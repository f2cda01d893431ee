"""Keras checkpoints read into PyTorch, against Keras itself.

Keras runs in a process of its own (`write_models`), since it would load its backend into this one.
"""

import copy
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from kubeface import cli
from kubeface.faces.images import RGB
from kubeface.models.backbones import backbone_named
from kubeface.models.backbones.keras import input_size, read_keras
from kubeface.models.backbones.resnet import resnet50_keras
from kubeface.models.keras_import import import_keras
from kubeface.models.model import FaceModel, load_pretrained
from kubeface.records.model import Preprocessing
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import sha256_file

Config = dict[str, Any]
Read = Callable[[str], dict[str, Tensor]]
MODELS = ("nested", "flat", "pooled", "sequential")


@pytest.fixture(scope="module")
def crops(faces: tuple[RGB, np.ndarray]) -> RGB:
    return faces[0][::3]


@pytest.fixture(scope="module")
def models(crops: RGB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that `write_models` fills."""
    folder = tmp_path_factory.mktemp("keras")
    np.save(folder / "crops.npy", crops)
    command = [sys.executable, "-m", "tests.support.keras_models", str(folder)]
    subprocess.run(command, env=os.environ | {"KERAS_BACKEND": "torch"}, cwd=Path(__file__).parents[3], check=True)
    yield folder
    shutil.rmtree(folder)  # half a gigabyte


@pytest.fixture(scope="module")
def read(models: Path) -> Read:
    """Reads an archive once; nobody may change what it gives."""
    return cache(lambda name: read_keras(models / f"{name}.keras"))


@pytest.fixture
def changed(models: Path, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes a copy of an archive with its config or its weights changed."""
    made = tmp_path / "changed.keras"

    def change(
        name: str,
        config: Callable[[Config], None] = lambda config: None,
        weights: Callable[[h5py.File], None] | None = None,
    ) -> Path:
        with zipfile.ZipFile(models / f"{name}.keras") as old, zipfile.ZipFile(made, "w") as new:
            described = json.loads(old.read("config.json"))
            config(described)
            new.writestr("config.json", json.dumps(described))
            copied = io.BytesIO(old.read("model.weights.h5"))
            if weights:
                with h5py.File(copied, "r+") as file:
                    weights(file)
            new.writestr("model.weights.h5", copied.getbuffer())
        return made

    yield change
    made.unlink(missing_ok=True)


@pytest.fixture
def config(models: Path) -> Config:
    """The config.json of `nested`."""
    with zipfile.ZipFile(models / "nested.keras") as archive:
        return dict(json.loads(archive.read("config.json")))


def layers_of(config: Config) -> Iterator[Config]:
    for layer in config["config"]["layers"]:
        yield layer
        if "layers" in layer["config"]:
            yield from layers_of(layer)


def layer_named(config: Config, name: str) -> Config:
    return next(layer for layer in layers_of(config) if layer["config"]["name"] == name)


def embeddings(state: dict[str, Tensor], crops: RGB) -> np.ndarray:
    network = resnet50_keras(state)
    network.load_state_dict(state)
    images = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - 127.5) / 128
    with torch.no_grad():
        found: np.ndarray = network.eval()(images).numpy()
    return found


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Of the embeddings less their mean: what random weights make of different faces is nearly the same."""
    parts = [values - values.mean(0) for values in (unit(found), unit(expected))]
    return np.asarray((unit(parts[0]) * unit(parts[1])).sum(1))


def unit(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_keras_own(models: Path, read: Read, crops: RGB, name: str) -> None:
    found, expected = embeddings(read(name), crops), np.load(models / f"{name}.npy")
    assert len(crops) >= 9
    assert {value.dtype for key, value in read(name).items() if "tracked" not in key} == {torch.float32}
    assert found.shape == expected.shape == (len(crops), 2048 if name == "flat" else 64)
    assert (unit(found) * unit(expected)).sum(1).min() >= 0.999999
    assert cosines(found, expected).min() >= 0.9999
    if name != "sequential":  # whose embeddings Keras brings to unit length
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_the_comparison_would_notice_mistakes(models: Path, read: Read, crops: RGB) -> None:
    state, expected = read("nested"), np.load(models / "nested.npy")
    for name, wrong in (
        ("layer2.1.bn2.running_mean", state["layer2.1.bn2.running_mean"] + 0.1),
        ("layer3.0.conv2.weight", state["layer3.0.conv2.weight"].mT),
        ("layer4.2.bn3.running_var", state["layer4.2.bn3.weight"]),
        ("layer1.0.bn3.weight", state["layer1.0.downsample.1.weight"]),
        ("embedding.1.weight", torch.ones(64)),
    ):
        assert cosines(embeddings(state | {name: wrong}, crops), expected).min() < 0.9999, name


def test_the_variables_are_where_they_belong(models: Path, read: Read) -> None:
    state = read("pooled")
    with zipfile.ZipFile(models / "pooled.keras") as archive, h5py.File(archive.open("model.weights.h5")) as file:
        stem = [file[f"layers/functional/layers/conv2d/vars/{index}"][:] for index in (0, 1)]
        norm = [file[f"layers/functional/layers/batch_normalization/vars/{index}"][:] for index in range(4)]
        dense = [file[f"layers/dense/vars/{index}"][:] for index in (0, 1)]
    np.testing.assert_array_equal(state["conv1.weight"], stem[0].transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(state["bn1.weight"], norm[0])
    np.testing.assert_array_equal(state["bn1.bias"], norm[1])
    np.testing.assert_array_equal(state["bn1.running_mean"], norm[2] - stem[1])
    np.testing.assert_array_equal(state["bn1.running_var"], norm[3])
    np.testing.assert_array_equal(state["embedding.0.weight"], dense[0].T)
    np.testing.assert_array_equal(state["embedding.0.bias"], dense[1])


def test_another_epsilon_goes_into_the_weight(read: Read, changed: Callable[..., Path]) -> None:
    def raise_epsilon(config: Config) -> None:
        layer_named(config, "conv3_block1_0_bn")["config"]["epsilon"] = 0.5

    before, after = read("nested"), read_keras(changed("nested", raise_epsilon))
    different = [name for name in before if not torch.equal(before[name], after[name])]
    assert different == ["layer2.0.downsample.1.weight"]
    variance, weight = before["layer2.0.downsample.1.running_var"], before[different[0]]
    keras_factor = weight / torch.sqrt(variance + 0.5)
    torch.testing.assert_close(after[different[0]] / torch.sqrt(variance + 1.001e-5), keras_factor)


def test_the_order_of_summands_does_not_matter(read: Read, changed: Callable[..., Path]) -> None:
    def swap_summands(config: Config) -> None:
        for layer in layers_of(config):
            if layer["class_name"] == "Add":
                layer["inbound_nodes"][0]["args"][0].reverse()

    before, after = read("nested"), read_keras(changed("nested", swap_summands))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_input_size(models: Path) -> None:
    sizes = {name: input_size(models / f"{name}.keras") for name in MODELS}
    assert sizes == {"nested": 112, "flat": None, "pooled": 112, "sequential": 112}
    with pytest.raises(KubefaceError, match=r"oblong\.keras takes images of 112×96 pixels: only square ones serve"):
        input_size(models / "oblong.keras")


@pytest.mark.parametrize("name", ["nested", "flat"])
@pytest.mark.parametrize("windows", [False, True])
def test_tf_keras_archives(models: Path, read: Read, changed: Callable[..., Path], name: str, windows: bool) -> None:
    """tf.keras 2.12: other names and numbers of groups, no layers' names, calls as lists of [name, node, tensor, …]."""

    def older_config(config: Config) -> None:
        for layer in layers_of(config):
            layer["module"] = (layer["module"] or "").replace("keras.src.models", "keras.engine") or None
            if "batch_shape" in layer["config"]:
                layer["config"]["batch_input_shape"] = layer["config"].pop("batch_shape")
            if layer["inbound_nodes"]:
                sources = layer["inbound_nodes"][0]["args"][0]
                sources = sources if isinstance(sources, list) else [sources]
                layer["inbound_nodes"] = [[[*source["config"]["keras_history"], {}] for source in sources]]
            if layer["class_name"] == "Activation":
                function = {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "relu"}
                layer["config"]["activation"] = function
            if layer["class_name"] == "BatchNormalization":
                layer["config"]["axis"] = [3] if layer["config"]["axis"] == 3 else [1]

    def older_weights(file: h5py.File) -> None:
        def rename(around: h5py.Group) -> None:
            around.move("layers", "older")
            layers = around["older"]
            for own in sorted(layers, key=lambda own: -int(own.rpartition("_")[2]) if own[-1].isdigit() else 1):
                stem, _, number = own.rpartition("_")
                if "layers" in layers[own]:
                    rename(layers[own])
                layers[f"{own}/vars"].attrs.clear()
                new = f"{stem}_{2 * int(number)}" if number.isdigit() else own
                around.move(f"older/{own}", f"older/new {new}")
            for own in list(layers):
                slash = "\\" if windows else "/"
                around.move(f"older/{own}", f"_layer_checkpoint_dependencies{slash}{own.removeprefix('new ')}")

        rename(file)

    older = changed(name, older_config, older_weights)
    before, after = read(name), read_keras(older)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert input_size(models / f"{name}.keras") == input_size(older)


def test_a_last_dense_layer_is_the_classifier_of_a_trained_one(models: Path, changed: Callable[..., Path]) -> None:
    def single(config: Config, activation: str, loss: str) -> None:
        """Leaves the embedding's Dense layer as the last one."""
        config["config"]["layers"].pop()
        config["config"]["output_layers"] = ["dense", 0, 0]
        config["config"]["layers"][-1]["config"]["activation"] = activation
        config["compile_config"] = {"loss": loss}

    def drop(file: h5py.File) -> None:
        del file["layers/dense_1"]

    def layers(activation: str, loss: str) -> set[str]:
        path = changed("pooled", lambda config: single(config, activation, loss), drop)
        return {name for name in read_keras(path) if name.startswith("embedding.")}

    assert layers("linear", "triplet_loss") == {"embedding.0.weight", "embedding.0.bias"}
    assert layers("linear", "sparse_categorical_crossentropy") == set()
    assert layers("softmax", "triplet_loss") == set()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenet", r"no ResNet50 of keras\.applications: ReLU '.*conv_pw_13_relu' stands where Activation is"),
        ("resnet101", r"no ResNet50 of keras\.applications: strides of Conv2D 'resnet101/conv4_block18_1_conv' is"),
        ("resnet50v2", r"no ResNet50 of keras\.applications: .*'.*post_bn' stands where Add is needed"),
        ("flatten", r"no GlobalAveragePooling2D behind its backbone, .* Flatten 'flatten', Dense 'dense"),
        ("maximum", r"no GlobalAveragePooling2D .* GlobalMaxPooling2D 'global_max_pooling2d'"),
        ("rescaling", r"Rescaling '.*rescaling' stands where InputLayer is needed"),
        ("activated", r"Dense 'dense.*' behind the pooling is not understood"),
        ("lambda", r"Lambda 'lambda' behind the pooling is not understood"),
        ("custom", r"custom CosFace 'cos_face.*' behind the pooling is not understood"),
        ("normalised", r"UnitNormalization 'unit_norm.*' behind the pooling is not understood"),
        ("siamese", r"Functional 'resnet50.*' is applied 2 times, once is understood"),
        ("branches", r"feeds Dense 'dense.*' and Dense 'dense.*', one layer is understood"),
    ],
)
def test_other_models(models: Path, name: str, message: str) -> None:
    with pytest.raises(KubefaceError, match=message) as caught:
        read_keras(models / f"{name}.keras")
    assert str(models / f"{name}.keras") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "setting", "value", "message"),
    [
        ("conv4_block1_1_conv", "strides", [1, 1], r"strides of Conv2D 'resnet50.*/conv4_block1_1_conv' is \[1, 1\]"),
        ("conv2_block1_2_conv", "padding", "valid", "padding of Conv2D .* is valid, same is needed"),
        ("conv2_block1_2_conv", "filters", 32, "filters of Conv2D .* is 32, 64 is needed"),
        ("conv2_block1_1_relu", "activation", "elu", "activation of Activation .* is elu, relu is needed"),
        ("conv1_bn", "axis", 1, "axis of BatchNormalization .* is 1, 3 is needed"),
        ("global_average_pooling2d", "keepdims", True, "keepdims of GlobalAveragePooling2D .* is True"),
        ("conv3_block3_add", "", "conv3_block1_out", r"_add' adds .*conv3_block2_out' and .*conv3_block1_out'"),
    ],
)
def test_another_resnet(config: Config, tmp_path: Path, name: str, setting: str, value: object, message: str) -> None:
    layer = layer_named(config, name)
    if setting:
        layer["config"][setting] = value
    else:  # wired in another way
        layer["inbound_nodes"][0]["args"][0][0]["config"]["keras_history"][0] = value
    with pytest.raises(KubefaceError, match=message):
        read_keras(archive(tmp_path / "it.keras", config_json=json.dumps(config).encode()))


def test_a_custom_layer_that_is_no_classifier(changed: Callable[..., Path]) -> None:
    def change(file: h5py.File) -> None:
        del file["layers/cos_face/vars/0"]
        file["layers/cos_face/vars/0"] = np.zeros((3, 3), np.float32)

    with pytest.raises(KubefaceError, match=r"custom CosFace 'cos_face.*' at the end has no weights of 64×classes"):
        read_keras(changed("nested", weights=change))


# --- damaged and made-up archives -----------------------------------------------------------------------------------


TRUNK = "layers/functional/layers"


def replace(file: h5py.File, **settings: Any) -> None:
    name = f"{TRUNK}/conv2d/vars/1"
    values = file[name][:]
    del file[name]
    settings = {"data": values} | settings
    file.create_dataset(name, **settings)


def swap(file: h5py.File) -> None:
    file.move(f"{TRUNK}/conv2d_20", "swapped")
    file.move(f"{TRUNK}/conv2d_26", f"{TRUNK}/conv2d_20")
    file.move("swapped", f"{TRUNK}/conv2d_26")


def link(file: h5py.File) -> None:
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = h5py.ExternalLink("/etc/passwd", "/")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda file: file.pop(f"{TRUNK}/conv2d_20"), r"has 52 Conv2D layers around Conv2D '.*', config\.json has 53"),
        (
            lambda file: file.pop(f"{TRUNK}/conv2d_20/vars/1"),
            r"has \[\(.*\)\] for Conv2D '.*', needed are \[\(.*\), \(.*\)\]",
        ),
        (swap, r"has 'conv.*' where config\.json has Conv2D '.*/conv"),
        (link, r"has \[\] for Dense 'dense', needed are \[\(2048, 64\)\]"),
        (lambda file: replace(file, data=np.zeros(64, np.int8)), "as int8: save the model"),
        (lambda file: replace(file, data=None, shape=(64,), dtype="f4"), "packed, in another file"),
        (lambda file: replace(file, compression="gzip"), "packed, in another file"),
        (lambda file: replace(file, data=None, shape=(64,), dtype="f4", external=[("/dev/zero", 0, 256)]), "in anot"),
        (lambda file: replace(file, data=np.zeros((64, 1), np.float32)), r"\(64, 1\)\] for Conv2D"),
        (lambda file: file.pop("layers"), "has 0 Functional layers around"),
    ],
)
def test_unfitting_weights(changed: Callable[..., Path], weights: Callable[[h5py.File], object], message: str) -> None:
    with pytest.raises(KubefaceError, match=message):
        read_keras(changed("nested", weights=weights))


def test_damaged_archives(models: Path, tmp_path: Path) -> None:
    data = bytearray((models / "nested.keras").read_bytes())
    path = tmp_path / "damaged.keras"
    for length in (0, 1000, len(data) // 2, len(data) - 10):
        path.write_bytes(data[:length])
        with pytest.raises(KubefaceError, match=r"damaged\.keras is not a readable \.keras archive: "):
            read_keras(path)
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(KubefaceError, match=r"not a readable \.keras archive: Bad CRC-32"):
        read_keras(path)
    path.unlink()


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name.replace("_", "."), data)
    return path


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"", "is not what Keras writes: JSONDecodeError"),
        (b"\xff", "is not what Keras writes: UnicodeDecodeError"),
        (b"[" * 100_000, r"is not a readable \.keras archive"),
        (b"[]", "no functional or Sequential model"),
        (b'{"class_name": "FaceNet", "config": {"name": "face_net"}}', "a subclassed one is refused"),
        (b'{"config": {"layers": []}}', "no GlobalAveragePooling2D"),
        (b'{"config": {"layers": 3}}', "is not what Keras writes: TypeError"),
        (b'{"config": {"layers": [{"class_name": "Dense"}]}}', "is not what Keras writes: KeyError: 'config'"),
        (b" " * (2**24 + 1), r"config\.json would have 16,777,217 bytes, up to 16,777,216 are read"),
    ],
)
@pytest.mark.parametrize("read", [read_keras, input_size])
def test_senseless_configs(tmp_path: Path, read: Callable[[Path], object], config: bytes, message: str) -> None:
    path = archive(tmp_path / "odd.keras", config_json=config)
    with pytest.raises(KubefaceError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_models_that_contain_themselves(tmp_path: Path) -> None:
    def layer(kind: str, name: str, *sources: str) -> Config:
        nodes = [[[source, 0, 0, {}] for source in sources]] if sources else []
        return {"module": "keras.layers", "class_name": kind, "config": {"name": name}, "inbound_nodes": nodes}

    def functional(*layers: Config, output: str) -> Config:
        return {"layers": list(layers), "input_layers": [], "output_layers": [[output, 0, 0]]}

    pooling = layer("GlobalAveragePooling2D", "pool", "inner")
    inner = layer("Functional", "inner", "inner")
    inner["config"] |= functional(layer("InputLayer", "input"), output="input")
    activation = layer("Activation", "relu", "relu")
    for layers in ([pooling, inner], [layer("GlobalAveragePooling2D", "pool", "relu"), activation]):
        config = {"config": functional(*copy.deepcopy(layers), output="pool")}
        path = archive(tmp_path / "circle.keras", config_json=json.dumps(config).encode())
        with pytest.raises(KubefaceError):
            read_keras(path)


def test_no_archive_at_all(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"nowhere\.keras is not a readable \.keras archive: .*No such file"):
        read_keras(tmp_path / "nowhere.keras")
    with h5py.File(tmp_path / "older.keras", "w") as file:
        file["model_weights"] = 1
    with pytest.raises(KubefaceError, match=r"older\.keras is not a readable \.keras archive: File is not a zip file"):
        read_keras(tmp_path / "older.keras")
    with pytest.raises(KubefaceError, match=r"empty\.keras holds no config\.json"):
        read_keras(archive(tmp_path / "empty.keras"))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, r"it\.keras holds no model\.weights\.h5"),
        ({"model_weights_h5": b"no HDF5"}, r"it\.keras is not a readable \.keras archive: "),
        ({"model_weights_h5": bytes(10**7)}, r"model\.weights\.h5 would have 10,000,000 bytes, up to "),
    ],
)
def test_no_weights_or_too_much(config: Config, tmp_path: Path, weights: dict[str, bytes], message: str) -> None:
    with pytest.raises(KubefaceError, match=message):
        read_keras(archive(tmp_path / "it.keras", config_json=json.dumps(config).encode(), **weights))


def test_an_archive_as_pretrained_and_as_folder(models: Path, crops: RGB, tmp_path: Path) -> None:
    """The embeddings are Keras' own: with its usual preparation, and in a folder with the one given."""
    usual, own = (np.load(models / f"{name}.npy") for name in ("usual", "pooled"))
    archive, folder = models / "pooled.keras", tmp_path / "folder"

    def agrees(model: FaceModel, expected: np.ndarray) -> bool:
        assert (model.embedding_size, model.preprocessing.size) == (64, 112)
        return bool(cosines(model.embed(crops), expected).min() >= 0.9999)

    straight = load_pretrained("resnet50_keras", str(archive))
    assert straight.preprocessing == backbone_named("resnet50_keras").preprocessing.model_copy(update={"size": 112})
    assert agrees(straight, usual) and not agrees(straight, own)
    options = ["--size", "112", "--color-order", "rgb", "--mean", "127.5", "--std", "128"]
    cli.main(["import-keras", str(archive), "--out", str(folder), *options])
    imported = load_pretrained("resnet50_keras", str(folder))
    assert imported.preprocessing == Preprocessing(size=112, color_order="rgb", mean=127.5, std=128.0)
    assert agrees(imported, own) and not agrees(imported, usual)
    assert imported.start == f"{archive}#sha256={sha256_file(archive)}"
    assert (imported.template, imported.detector) == ("arcface_112", "mtcnn")
    with pytest.raises(KubefaceError, match="exists already"):
        import_keras(str(archive), out=folder)
    with pytest.raises(KubefaceError, match=r"preprocessing\.std"):
        import_keras(str(archive), out=tmp_path / "other", std=[0.0])
    assert not (tmp_path / "other").exists()
