"""Weights files: what is read from them, where published ones come from, and a mirror of these.

    python -m kubeface.models.weights --mirror s3://bucket/prefix [--backbone NAME …]
    python -m kubeface.models.weights --keras face.keras --out folder [--size 112] [--color-order rgb] …

The first copies published weights to where a cluster without internet fetches them from (KUBEFACE_WEIGHTS_MIRROR); the
second makes a model folder, to be given as `pretrained`, out of a .keras archive.
"""

import argparse
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from kubeface.models.backbones import BACKBONES, Backbone, Preprocessing, backbone_named
from kubeface.models.backbones.sface import read_onnx
from kubeface.runtime.errors import KubefaceError, exit_on_error, require
from kubeface.storage import objects
from kubeface.storage.downloads import Source, fetch, fetch_any, mirrored, split_checksum
from kubeface.storage.folders import new_folder, sha256_file

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".onnx", ".keras")
# Classifiers behind the embedding: facenet-pytorch's, torchvision's ResNet's and VGG's, ours.
HEADS = ("logits.", "fc.", "classifier.", "head.")


def read_weights(path: Path, backbone: str) -> dict[str, Tensor]:
    """The tensors in a weights file by name; the names of nested dictionaries are joined with dots.

    Args:
        path: .safetensors, .onnx (of OpenCV Zoo's SFace), .keras (for resnet50_keras), or what torch.save wrote, out
            of which nothing is unpickled but tensors and plain values.

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
        what = f" ({named[1]})" if named else ""
        raise KubefaceError(
            f"{path} holds other things than tensors{what}: save its state dict as .safetensors"
        ) from error
    except Exception as error:  # torch.load lets whatever its reader stumbles over pass: KeyError, struct.error …
        reason = (str(error).splitlines() or [""])[0]
        raise KubefaceError(f"{path} is not a readable weights file: {type(error).__name__}: {reason}") from error
    raise KubefaceError(f"{path} holds a {type(found).__name__} where a state dict is needed")


def _tensors(found: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a nested dictionary with their dotted names."""
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

    return replace(usual, size=input_size(path) or usual.size)


def mirror_weights(mirror: str, names: Sequence[str] = ()) -> bool:
    """Copies published weights to where KUBEFACE_WEIGHTS_MIRROR has them fetched from; prints a line for each backbone.

    Args:
        mirror: s3://bucket/prefix or a folder; a file goes to `<mirror>/<sha256>/<file name>` unless it is there.
        names: of backbones; when empty all, and those whose weights nobody can fetch are left out.

    Returns:
        Whether all are there now but those left out.

    Raises:
        KubefaceError: a name is unknown.
    """
    whole = True
    for backbone in [backbone_named(name) for name in names] or BACKBONES.values():
        try:
            said = _mirror(mirror, backbone)
        except KubefaceError as error:
            left_out = not names and not any(mirrored(source, mirror) for source in backbone.sources)
            whole = whole and left_out
            said = f"{'left out' if left_out else 'failed'}: {error}"
        print(f"{backbone.name}: {said}", flush=True)
    return whole


def _mirror(mirror: str, backbone: Backbone) -> str:
    """Copies one backbone's weights; says what was done."""
    for source in backbone.sources:
        if (copy := mirrored(source, mirror)) and _exists(split_checksum(copy)[0]):
            return f"there already, {split_checksum(copy)[0]}"
    path, source = fetch_published(backbone)
    copy = mirrored(source, mirror)
    if copy is None:
        raise KubefaceError(f"{source} has no checksum, which a mirror goes by: write it with #sha256=<64 hex digits>")
    objects.upload(path, split_checksum(copy)[0])
    return f"copied to {split_checksum(copy)[0]}"


def _exists(uri: str) -> bool:
    if not objects.is_s3(uri):
        return objects.local_path(uri).is_file()
    folder, _, name = uri.rpartition("/")
    return any(file.name == name for file in objects.list_files(folder))


def import_keras(uri: str, out: Path, **preprocessing: Any) -> None:
    """Makes a model folder, to be given as `pretrained`, out of a .keras archive.

    Args:
        uri: of the archive.
        out: the folder, which must not be there yet.
        preprocessing: how the model wants its input, as `Preprocessing` has it; what is not given is Keras' own way.

    Raises:
        KubefaceError: the archive cannot be had or read, or the preprocessing is none.
    """
    from kubeface.models.model import load_pretrained, save_model  # model imports this module

    path = fetch(uri)
    require(path.suffix == ".keras", f"{uri} is no .keras archive")
    model = load_pretrained("resnet50_keras", str(path))
    model.preprocessing = replace(model.preprocessing, **preprocessing)
    model.start = f"{split_checksum(uri)[0]}#sha256={sha256_file(path)}"
    with new_folder(out) as folder:
        save_model(model, folder, {})


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; a KubefaceError ends it with one line, as it does a step's."""
    parser = argparse.ArgumentParser(
        prog="python -m kubeface.models.weights",
        description="Copies published weights to a mirror, or makes a model folder out of a .keras archive.",
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--mirror", help="s3://bucket/prefix or folder that gets the published weights")
    task.add_argument("--keras", help="archive of a ResNet50 face model, as path or URI")
    parser.add_argument("--backbone", nargs="+", default=[], metavar="NAME", help="mirror only these")
    parser.add_argument("--out", type=Path, help="the model folder that --keras makes")
    parser.add_argument("--size", type=int, help="side of the input in pixels (the archive's, or 224)")
    parser.add_argument("--color-order", choices=("rgb", "bgr"), help="(bgr, as keras.applications' ResNet50)")
    for name, usual in (("--mean", "103.939 116.779 123.68"), ("--std", "1")):
        parser.add_argument(name, type=float, nargs="+", help=f"one number or three, of pixels in 0…255 ({usual})")
    given = parser.parse_args(arguments)
    if given.mirror:
        raise SystemExit(0 if exit_on_error(mirror_weights, mirror=given.mirror, names=given.backbone) else 1)
    if not given.out:
        parser.error("--keras needs --out")
    settings: dict[str, Any] = {"size": given.size, "color_order": given.color_order}
    for name in ("mean", "std"):
        value = getattr(given, name)
        settings[name] = value[0] if value and len(value) == 1 else value
    settings = {name: value for name, value in settings.items() if value is not None}
    exit_on_error(import_keras, uri=given.keras, out=given.out, **settings)


if __name__ == "__main__":
    main()
