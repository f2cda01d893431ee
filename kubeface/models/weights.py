"""Weights files: what is read from them, and where published ones come from."""

import pickle
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from kubeface.models.backbones import Backbone
from kubeface.models.backbones.sface import read_onnx
from kubeface.records.model import Preprocessing
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage.downloads import Source, fetch_any

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".onnx", ".keras")
# Classifiers behind the embedding: facenet-pytorch's, torchvision's ResNet's and VGG's, ours.
HEADS = ("logits.", "fc.", "classifier.", "head.")


def read_weights(path: Path, backbone: str) -> dict[str, Tensor]:
    """The tensors in a weights file by name; the names of nested dictionaries are joined with dots.

    Files are .safetensors, .onnx (of OpenCV Zoo's SFace), .keras (for resnet50_keras), or what torch.save wrote, out of
    which nothing is unpickled but tensors and plain values.

    Raises:
        KubefaceError: the file cannot be read, holds other things, or is of a kind that the backbone has not.
    """
    for suffix, only in ((".onnx", "sface"), (".keras", "resnet50_keras")):
        require(path.suffix != suffix or backbone == only, f"{path}: {suffix} files are read for '{only}' only")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix == ".onnx":
            return read_onnx(path)
        if path.suffix == ".keras":
            from kubeface.models.backbones.keras import read_keras

            return read_keras(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(found, Mapping):
            return dict(_tensors(found))
    except KubefaceError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"other things than tensors{f' ({named[1]})' if named else ''}"
        raise KubefaceError(f"{path} holds {what}: save its state dict as .safetensors") from error
    except Exception as error:  # torch.load lets whatever its reader stumbles over pass: KeyError, struct.error …
        reason = (str(error).splitlines() or [""])[0]
        raise KubefaceError(f"{path} is not a readable weights file: {type(error).__name__}: {reason}") from error
    raise KubefaceError(f"{path} holds a {type(found).__name__} where a state dict is needed")


def _tensors(found: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in found.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")


def backbone_state(found: Mapping[str, Tensor], network: nn.Module, source: str) -> dict[str, Tensor]:
    """What a checkpoint holds of a backbone, under the backbone's own names.

    Training code wraps a backbone's state dict into dictionaries and modules: insightface's into
    `state_dict_backbone`, Lightning's into `state_dict` and `model.`, DistributedDataParallel's into `module.`, ours
    into `backbone.`. Whatever comes before the names is stripped where most of them fit then, and all that stands
    elsewhere (optimiser, margin head, epoch) is left out, as is a classifier on the embedding. Batch norm's count of
    batches, which old files have not and nothing here reads, is filled in.

    Raises:
        KubefaceError: several copies of the backbone are in it.
    """
    expected = network.state_dict()
    fitting = Counter(
        name[:start]
        for name in found
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name)))
        if name[start:] in expected
    )
    best = [prefix for prefix, count in fitting.items() if 2 * count > len(expected) and count == max(fitting.values())]
    prefix = "" if "" in best or not best else best[0]
    if prefix and len(best) > 1:
        raise KubefaceError(f"{source} holds the backbone more than once ({', '.join(best)}): save one of them alone")
    heads = tuple(head for head in HEADS if not any(name.startswith(head) for name in expected))
    state = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    counts = {name: value for name, value in expected.items() if name.endswith(".num_batches_tracked")}
    return counts | {name: value for name, value in state.items() if not name.startswith(heads)}


def load_state(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a state dict strictly.

    Raises:
        KubefaceError: names are missing, unexpected or of another shape; the first three of each are named.
    """
    expected = network.state_dict()
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(n for n in expected.keys() & state.keys() if expected[n].shape != state[n].shape),
    }
    said = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in problems.items()
        if names
    ]
    if said:
        raise KubefaceError(f"{source} does not fit the backbone: {'; '.join(said)}")
    network.load_state_dict(state)


def load_network(backbone: Backbone, path: Path, source: str) -> tuple[nn.Module, int]:
    """The backbone's network with the weights in a file, on the CPU, in evaluation mode; and its embedding size.

    Raises:
        KubefaceError: the file cannot be read or does not fit; `source` is named.
    """
    network = backbone.build()
    state = backbone_state(read_weights(path, backbone.name), network, source)
    if backbone.build_for:
        network = backbone.build_for(state)
    load_state(network, state, source)
    size = getattr(network, "embedding_size", None) if backbone.build_for else None
    return network.eval(), size or backbone.embedding_size


def fetch_published(backbone: Backbone) -> tuple[Path, Source]:
    """File and origin of a backbone's published weights.

    Raises:
        Unreachable: the addresses that there are do not answer, or not with a file.
        KubefaceError: there is no direct address, or one of them gives another file.
    """
    page = f" (see {backbone.page})" if backbone.page else ""
    hint = f"give pretrained=<model folder, weights file, or its https:// address with #sha256=…>{page}"
    if not backbone.sources:
        scratch = "or train it from random weights with strategy scratch"
        raise KubefaceError(f"no weights of '{backbone.name}' are published at a direct address: {hint}, {scratch}")
    try:
        return fetch_any(backbone.sources)
    except KubefaceError as error:
        raise type(error)(f"the published weights of '{backbone.name}' cannot be had: {error}; or {hint}") from error


def keras_preprocessing(path: Path, usual: Preprocessing) -> Preprocessing:
    """The usual preparation at the input size that a .keras archive names, if it names one."""
    from kubeface.models.backbones.keras import input_size

    return usual.model_copy(update={"size": input_size(path) or usual.size})
