"""Weights of a face model that was trained with Keras' ResNet50, out of its .keras archive, without Keras.

A .keras archive is a zip with config.json (the graph of layers) and model.weights.h5 (their variables). Nothing in it
is executed: the graph is compared with what is known, and what is not known is refused. The layout of both files is
that of keras/src/saving/saving_lib.py and serialization_lib.py, Keras 3.0 to 3.15 and tf.keras 2.12 to 2.15.
"""

import json
import lzma
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kubeface.models.backbones.resnet import KERAS_DEFAULT_EPSILON, KERAS_EPSILON, POOLED, STAGES, resnet50_keras
from kubeface.runtime.errors import KubefaceError, require

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.weights.h5"
MAX_CONFIG_BYTES = 16 * 2**20  # a ResNet50's has 0.2 MB
MAX_EXPANSION = 20  # weights hardly shrink, and Keras stores them as they are: more than this is a zip bomb
Json = dict[str, Any]  # an object of config.json
Place = tuple[tuple[str, int, int], ...]
IDLE = ("Dropout", "Flatten")  # what does nothing to a pooled vector when the model is applied


def read_keras(path: Path) -> dict[str, Tensor]:
    """The state dict for `resnet50_keras` out of a .keras archive, float32.

    Read is a ResNet50 of keras.applications (`include_top=False`), as a sub-model or with its layers in the model
    itself, functional or Sequential; behind it global average pooling, then any number of Dense layers without an
    activation and of BatchNormalizations, then perhaps UnitNormalization, which changes no cosine. What follows is
    the classifier and is left out: a custom layer with a matrix embedding×classes (CosFace, ArcFace …; it may take
    the labels too), or a Dense layer that has or is followed by softmax, that has another Dense layer before it, or
    that ends a model compiled with a cross-entropy; any other belongs to the embedding. Dropout is left out too.

    Names are torchvision's (`conv1.weight`, `layer1.0.bn1.running_mean` …), and `embedding.<i>.*` for layer i
    behind the pooling (linear or batch norm). A convolution's bias goes into the running mean of the batch norm
    behind it. A batch norm's epsilon is the one that `resnet50_keras` has; another one goes into the weight.

    Raises:
        KubefaceError: the archive cannot be read, its model is another one, or weights are missing.
    """
    with _archive(path) as archive:
        model = Model(path, _config(archive, path))
        pairs, pooling, _ = model.trunk()
        embedding, classifier = model.head(pooling)
        with _weights(archive, path) as weights:
            state: dict[str, Tensor] = {}
            for names, convolution, norm in pairs:
                state |= weights.convolution(*names, convolution, norm)
            width = POOLED
            for index, layer in enumerate(embedding):
                if layer.kind == "Dense":
                    state |= weights.linear(f"embedding.{index}", layer, width)
                    width = layer.settings["units"]
                else:
                    state |= weights.batch_norm(f"embedding.{index}", layer, width, KERAS_DEFAULT_EPSILON)
            if classifier is not None:
                weights.check_classifier(classifier, width)
    return state


def input_size(path: Path) -> int | None:
    """Side in pixels of the square images that a .keras archive's ResNet50 takes; None where any size will do.

    Raises:
        KubefaceError: the archive cannot be read, its model is another one, or its images are not square.
    """
    with _archive(path) as archive:
        _, _, images = Model(path, _config(archive, path)).trunk()
        shape = images.settings.get("batch_shape") or images.settings["batch_input_shape"]  # Keras 3, tf.keras
        _, height, width, channels = shape
        require(channels == 3, f"{path} takes images of {channels} channels: only RGB or BGR images serve")
        if height is None or width is None:
            return None
        require(height == width, f"{path} takes images of {height}×{width} pixels: only square ones serve")
        return int(height)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens the zip; whatever a damaged or made-up file stumbles over becomes one line."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise KubefaceError(f"{path} is not a readable .keras archive: {reason}") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # JSON that Keras would not write
        reason = (str(error).splitlines() or [""])[0]
        raise KubefaceError(f"{path} is not what Keras writes: {type(error).__name__}: {reason}") from error


def _member(archive: zipfile.ZipFile, path: Path, name: str, limit: int) -> zipfile.ZipInfo:
    require(name in archive.namelist(), f"{path} holds no {name}: it is not a whole .keras archive")
    info = archive.getinfo(name)
    require(info.file_size <= limit, f"{path}: {name} would have {info.file_size:,} bytes, up to {limit:,} are read")
    return info


def _config(archive: zipfile.ZipFile, path: Path) -> Json:
    config = json.loads(archive.read(_member(archive, path, CONFIG_FILE, MAX_CONFIG_BYTES)))
    require(
        isinstance(config, dict) and isinstance(config.get("config"), dict) and "layers" in config["config"],
        f"{path}: {CONFIG_FILE} holds no functional or Sequential model: a subclassed one is refused",
    )
    return dict(config)


# --- the graph ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A layer in config.json."""

    name: str  # with the names of the sub-models around it, `resnet50/conv1_conv`
    kind: str  # its class, behind the word custom if that is not one of Keras' own
    custom: bool
    settings: Json
    inputs: list[str]  # names of the layers it takes its input from
    # For each model around it and for itself the class, the index among the layers of this class there, their number.
    place: Place

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'"


Pair = tuple[tuple[str, str], Layer, Layer]  # torchvision's names of a convolution and its batch norm, and both


class Model:
    """The graph in config.json, with the layers of sub-models in the place of these."""

    def __init__(self, path: Path, config: Json) -> None:
        self.path = path
        self.loss = (config.get("compile_config") or {}).get("loss")
        self.layers: dict[str, Layer] = {}
        self._same: dict[str, str] = {}  # a sub-model is its last layer, its input is what is put into it
        self._open(config["config"], "", (), None)
        self._next: dict[str, list[Layer]] = {name: [] for name in self.layers}
        for layer in self.layers.values():
            for source in self._sources(layer):
                self._next[source.name].append(layer)

    def _open(self, config: Json, prefix: str, place: Place, fed: str | None) -> str:
        """Notes the layers of a model that is fed by layer `fed`; gives the name of its last one."""
        entries, functional = config["layers"], "input_layers" in config
        kinds = [entry["class_name"] for entry in entries]
        last = fed
        for index, entry in enumerate(entries):
            kind, settings = entry["class_name"], entry["config"]
            name = prefix + str(entry.get("name") or settings["name"])
            nodes = entry["inbound_nodes"] if functional else []
            require(len(nodes) <= 1, f"{self.path}: {kind} '{name}' is applied {len(nodes)} times, once is understood")
            inputs = [prefix + origin for origin in _origins(nodes)] if functional else [last] if last else []
            here = (*place, (kind, kinds[:index].count(kind), kinds.count(kind)))
            if isinstance(settings.get("layers"), list):
                require(len(inputs) <= 1, f"{self.path}: model '{name}' takes {len(inputs)} inputs, one is understood")
                self._same[name] = self._open(settings, f"{name}/", here, inputs[0] if inputs else None)
            elif kind == "InputLayer" and fed:
                self._same[name] = fed
            else:
                custom = str(entry.get("module")).split(".")[0] not in ("keras", "tf_keras", "keras_core")
                self.layers[name] = Layer(name, f"custom {kind}" if custom else kind, custom, settings, inputs, here)
            last = name
        ends = [prefix + origin for origin in _origins(config["output_layers"])] if functional else [str(last)]
        outputs = f"{self.path}: model '{prefix[:-1]}' has {len(ends)} outputs, one is understood"
        require(not place or len(ends) == 1, outputs)
        return ends[0]

    def _find(self, name: str) -> Layer:
        for _ in self._same:  # as many steps as there are names: a circle ends
            name = self._same.get(name, name)
        return self.layers[name]

    def _sources(self, layer: Layer) -> list[Layer]:
        return [self._find(name) for name in layer.inputs]

    def _source(self, layer: Layer) -> Layer:
        sources = self._sources(layer)
        require(len(sources) == 1, f"{self.path}: {layer} takes {len(sources)} inputs, one is understood")
        return sources[0]

    def _need(self, layer: Layer, kind: str, **allowed: tuple[Any, ...]) -> Layer:
        """The layer, if it is of this kind and each setting named has one of the values allowed."""
        problem = f"{self.path} holds no ResNet50 of keras.applications"
        require(layer.kind == kind, f"{problem}: {layer} stands where {kind} is needed")
        for setting, values in allowed.items():
            found = layer.settings.get(setting, values[0])  # older versions lack some
            if isinstance(found, dict):
                found = found.get("config")  # an activation function: its name
            require(found in values, f"{problem}: {setting} of {layer} is {found}, {values[0]} is needed")
        return layer

    def _relu(self, layer: Layer) -> Layer:
        """What goes into a ReLU."""
        return self._source(self._need(layer, "Activation", activation=("relu",)))

    def _conv_norm(self, norm: Layer, names: tuple[str, str], stride: int, pairs: list[Pair]) -> Layer:
        """Notes a batch norm and the convolution before it; gives what goes into the convolution."""
        filters, _, side, _ = _shapes()[f"{names[0]}.weight"]
        self._need(norm, "BatchNormalization", axis=(3, -1, [3]))
        convolution = self._need(
            self._source(norm),
            "Conv2D",
            filters=(filters,),
            kernel_size=([side, side],),
            strides=([stride, stride],),
            padding={1: ("valid", "same"), 3: ("same",), 7: ("valid",)}[side],
            dilation_rate=([1, 1],),
            groups=(1,),
            activation=("linear",),
            data_format=("channels_last",),
        )
        pairs.append((names, convolution, norm))
        return self._source(convolution)

    def _is_main(self, layer: Layer) -> bool:
        """Whether a summand is the end of a block's three convolutions; else it is the shortcut."""
        kinds = []
        for _ in range(4):
            kinds.append(layer.kind)
            sources = self._sources(layer)
            if len(sources) != 1:
                break
            layer = sources[0]
        return kinds == ["BatchNormalization", "Conv2D", "Activation", "BatchNormalization"]

    def trunk(self) -> tuple[list[Pair], Layer, Layer]:
        """The ResNet50, found from its pooling backwards: convolutions with batch norms, the pooling, the input."""
        poolings = [layer for layer in self.layers.values() if layer.kind == "GlobalAveragePooling2D"]
        end = ", ".join(str(layer) for layer in list(self.layers.values())[-4:])
        require(
            bool(poolings), f"{self.path} has no GlobalAveragePooling2D behind its backbone, its last layers are {end}"
        )
        pooling = self._need(poolings[-1], "GlobalAveragePooling2D", keepdims=(False,), data_format=("channels_last",))
        pairs: list[Pair] = []
        layer = self._source(pooling)
        for stage, blocks in reversed(list(enumerate(STAGES, 1))):
            for block in reversed(range(blocks)):
                prefix, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                add = self._need(self._relu(layer), "Add")
                summands = self._sources(add)
                require(len(summands) == 2, f"{self.path}: {add} has {len(summands)} summands, a ResNet50's have 2")
                main, shortcut = sorted(summands, key=self._is_main, reverse=True)
                main = self._conv_norm(main, (f"{prefix}.conv3", f"{prefix}.bn3"), 1, pairs)
                main = self._conv_norm(self._relu(main), (f"{prefix}.conv2", f"{prefix}.bn2"), 1, pairs)
                layer = self._conv_norm(self._relu(main), (f"{prefix}.conv1", f"{prefix}.bn1"), stride, pairs)
                if block == 0:
                    names = f"{prefix}.downsample.0", f"{prefix}.downsample.1"
                    shortcut = self._conv_norm(shortcut, names, stride, pairs)
                require(
                    shortcut is layer,
                    f"{self.path} holds no ResNet50 of keras.applications: {add} adds {layer} and {shortcut}",
                )
        layer = self._need(layer, "MaxPooling2D", pool_size=([3, 3],), strides=([2, 2],), padding=("valid",))
        layer = self._need(self._source(layer), "ZeroPadding2D", padding=([[1, 1], [1, 1]],))
        layer = self._conv_norm(self._relu(self._source(layer)), ("conv1", "bn1"), 2, pairs)
        layer = self._need(layer, "ZeroPadding2D", padding=([[3, 3], [3, 3]],))
        return pairs, pooling, self._need(self._source(layer), "InputLayer")

    def head(self, pooling: Layer) -> tuple[list[Layer], Layer | None]:
        """The layers behind the pooling that make the embedding, and a classifier that is a custom layer."""
        chain = [pooling]
        while following := self._next[chain[-1].name]:
            names = " and ".join(map(str, following))
            require(
                len(following) == 1 and following[0] not in chain,
                f"{self.path}: {chain[-1]} feeds {names}, one layer is understood",
            )
            chain.append(following[0])
        chain = [layer for layer in chain[1:] if layer.kind not in IDLE]
        probabilities = False
        while chain and chain[-1].kind in ("Softmax", "Activation") and _activation(chain[-1]) == "softmax":
            chain.pop()
            probabilities = True
        custom = chain.pop() if chain and chain[-1].custom else None
        if custom is None and chain and chain[-1].kind == "Dense":
            denses = sum(layer.kind == "Dense" for layer in chain)
            classifies = "crossentropy" in json.dumps(self.loss).lower()
            if probabilities or denses > 1 or classifies or _activation(chain[-1]) == "softmax":
                chain.pop()
        if chain and chain[-1].kind == "UnitNormalization" and chain[-1].settings["axis"] in (1, -1):
            chain.pop()
        for layer in chain:
            understood = (layer.kind == "Dense" and _activation(layer) == "linear") or (
                layer.kind == "BatchNormalization" and layer.settings["axis"] in (1, -1, [1])
            )
            require(
                understood,
                f"{self.path}: {layer} behind the pooling is not understood: "
                "BatchNormalization and Dense without an activation are, and one custom layer at the end",
            )
        return chain, custom


def _origins(data: Any) -> list[str]:
    """The layers named in the arguments of a call: Keras 3's `__keras_tensor__`, tf.keras' [name, node, tensor, …]."""
    if isinstance(data, dict):
        if data.get("class_name") == "__keras_tensor__":
            return [data["config"]["keras_history"][0]]
        return [name for value in data.values() for name in _origins(value)]
    if isinstance(data, list):
        if len(data) >= 3 and isinstance(data[0], str) and type(data[1]) is type(data[2]) is int:
            return [data[0], *_origins(data[3:])]
        return [name for value in data for name in _origins(value)]
    return []


def _activation(layer: Layer) -> Any:
    """Name of a layer's activation function; a Softmax layer has the one that it is named after."""
    found = layer.settings.get("activation", layer.kind.lower())
    return found.get("config") if isinstance(found, dict) else found


# --- the variables --------------------------------------------------------------------------------------------------


@contextmanager
def _weights(archive: zipfile.ZipFile, path: Path) -> Iterator["Weights"]:
    import h5py

    info = _member(archive, path, WEIGHTS_FILE, MAX_EXPANSION * path.stat().st_size)
    with tempfile.TemporaryFile() as copy, archive.open(info) as member:
        shutil.copyfileobj(member, copy, 2**20)
        copy.seek(0)
        with h5py.File(copy, "r") as file:
            yield Weights(path, file)


class Weights:
    """The variables in model.weights.h5.

    Those of a layer are the data sets `layers/<class>/vars/0`, `1` …; the second layer of a class is `<class>_1`, and a
    sub-model has `layers/…` of its own. tf.keras 2.12 and 2.13 say `_layer_checkpoint_dependencies` for `layers`, leave
    out numbers and write backslashes on Windows. Later Keras 3 notes the layer's name beside its variables.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._children: dict[str, list[str]] = {}
        self._named: dict[str, str] = {}
        self._variables: dict[str, list[Any]] = {}

        def note(name: str, item: Any) -> None:
            name = name.replace("\\", "/").replace("_layer_checkpoint_dependencies", "layers")
            around, _, own = name.rpartition("/")
            if hasattr(item, "shape"):
                self._variables.setdefault(around.removesuffix("/vars"), []).append(item)
            elif own == "vars":
                self._named[around] = str(item.attrs.get("name", ""))
            else:
                self._children.setdefault(around, []).append(own)

        file.visititems(note)  # links, which may lead to other files, are not followed

    def _group(self, layer: Layer) -> str:
        group = ""
        for kind, index, count in layer.place:
            group = f"{group}/layers".lstrip("/")
            stem = _snake_case(kind)
            numbers = sorted(
                int(match[1] or 0)
                for own in self._children.get(group, [])
                if (match := re.fullmatch(rf"{re.escape(stem)}(?:_(\d+))?", own))
            )
            require(
                len(numbers) == count,
                f"{self.path}: {WEIGHTS_FILE} has {len(numbers)} {kind} layers around {layer}, "
                f"{CONFIG_FILE} has {count}",
            )
            group += f"/{stem}_{numbers[index]}" if numbers[index] else f"/{stem}"
        named = self._named.get(group) or layer.name.rpartition("/")[2]
        require(
            f"/{layer.name}".endswith(f"/{named}"),
            f"{self.path}: {WEIGHTS_FILE} has '{named}' where {CONFIG_FILE} has {layer}",
        )
        return group

    def _read(self, layer: Layer, *shapes: tuple[int, ...]) -> list[NDArray[np.float32]]:
        """A layer's variables in Keras' order, if they have these shapes."""
        found = sorted(self._variables.get(self._group(layer), []), key=lambda item: int(item.name.rpartition("/")[2]))
        require(
            [item.shape for item in found] == list(shapes),
            f"{self.path}: {WEIGHTS_FILE} has {[item.shape for item in found]} for {layer}, needed are {list(shapes)}",
        )
        for item in found:
            # Only what is stored as it is: a small file can declare more than memory holds, or name another file.
            plain = not item.external and item.id.get_storage_size() == item.nbytes
            require(
                plain and item.dtype.kind == "f",
                f"{self.path}: {WEIGHTS_FILE} has {layer} packed, in another file or as {item.dtype}: "
                "save the model with Keras and float32 variables",
            )
        return [np.asarray(item, np.float32) for item in found]

    def convolution(self, convolution: str, norm: str, layer: Layer, following: Layer) -> dict[str, Tensor]:
        """A convolution without bias, and the batch norm behind it."""
        filters, channels, height, width = _shapes()[f"{convolution}.weight"]
        biased = layer.settings["use_bias"]
        kernel, *bias = self._read(layer, (height, width, channels, filters), *[(filters,)] * biased)
        state = self.batch_norm(norm, following, filters, KERAS_EPSILON)
        if bias:  # γ (x + b − μ) / σ = γ (x − (μ − b)) / σ
            state[f"{norm}.running_mean"] -= torch.from_numpy(bias[0])
        weight = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        return {f"{convolution}.weight": torch.from_numpy(weight)} | state

    def batch_norm(self, name: str, layer: Layer, width: int, epsilon: float) -> dict[str, Tensor]:
        """A batch norm over `width` channels for a module with this epsilon."""
        scaled, centred = layer.settings["scale"], layer.settings["center"]
        found = self._read(layer, *[(width,)] * (2 + scaled + centred))
        weight = found.pop(0) if scaled else np.ones(width, np.float32)
        bias = found.pop(0) if centred else np.zeros(width, np.float32)
        mean, variance = found
        theirs = layer.settings["epsilon"]
        if theirs != epsilon:  # γ / √(σ² + ε′) = γ √((σ² + ε) / (σ² + ε′)) / √(σ² + ε)
            weight = weight * np.sqrt((variance + np.float64(epsilon)) / (variance + np.float64(theirs)))
        values = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
        state = {f"{name}.{key}": torch.from_numpy(np.asarray(value, np.float32)) for key, value in values.items()}
        return state | {f"{name}.num_batches_tracked": torch.tensor(0)}

    def linear(self, name: str, layer: Layer, width: int) -> dict[str, Tensor]:
        """A linear layer of `width` inputs."""
        units = layer.settings["units"]
        kernel, *bias = self._read(layer, (width, units), *[(units,)] * layer.settings["use_bias"])
        state = {f"{name}.weight": torch.from_numpy(np.ascontiguousarray(kernel.T))}
        return state | {f"{name}.bias": torch.from_numpy(value) for value in bias}

    def check_classifier(self, layer: Layer, width: int) -> None:
        """Whether a custom layer has the matrix by which a classifier is known: embedding×classes or its transpose."""
        group = self._group(layer)
        variables = [
            item for at, items in self._variables.items() for item in items if f"{at}/".startswith(f"{group}/")
        ]
        require(
            any(len(item.shape) == 2 and width in item.shape for item in variables),
            f"{self.path}: {layer} at the end has no weights of {width}×classes: it is no classifier of the embedding, "
            "and what it does to the embedding cannot be known",
        )


def _snake_case(name: str) -> str:
    """Keras' name of a class in model.weights.h5 (keras/src/utils/naming.py): GlobalAveragePooling2D is
    global_average_pooling2d."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


@cache
def _shapes() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in resnet50_keras().state_dict().items()}
