"""A face model: a backbone with the preparation of its input; how it is loaded, saved and run.

A model folder holds

    model.safetensors   the backbone's weights, float32
    model.json          backbone, preprocessing, alignment, embedding size, sha256 of the weights, training
"""

import hashlib
import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from components.faces import storage
from components.faces.backbones import Preprocessing, backbone_named
from components.faces.backbones.sface import read_onnx
from components.faces.errors import KubefaceError
from components.faces.fetch import WheelFile, cache_folder, fetch, split_checksum
from components.faces.folders import read_json, sha256_file, write_json

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "model.json"
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".onnx")
# How every crop of a face table was made; a model is only ever fed crops made the same way.
ALIGNMENT = {"template": "arcface_112", "size": 112}


@dataclass
class FaceModel:
    """A backbone by name with its weights; `start` says where those came from."""

    backbone: str
    network: nn.Module
    preprocessing: Preprocessing
    embedding_size: int
    start: str
    license: str

    def prepare(self, crops: Tensor) -> Tensor:
        """RGB crops (N×3×H×W, 0…255, any dtype) to what the backbone takes (float32, channels last)."""
        images = crops.to(torch.float32)
        if images.shape[-1] != self.preprocessing.size:
            side = self.preprocessing.size
            images = interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
        if self.preprocessing.color_order == "bgr":
            images = images.flip(1)
        images = (images - self.preprocessing.mean) / self.preprocessing.std
        return images.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def embed(self, crops: NDArray[np.uint8], flip: bool = False) -> NDArray[np.float32]:
        """Unit-length embeddings (N×D) of RGB crops (N×H×W×3, uint8).

        Args:
            flip: mirror the crops first, for test-time augmentation.
        """
        self.network.eval()
        device = next(self.network.parameters()).device
        images = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2)
        embeddings: Tensor = self.network(self.prepare(images.flip(3) if flip else images))
        return np.asarray(normalize(embeddings.float()).cpu().numpy(), np.float32)


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one, else the CPU.

    Raises:
        KubefaceError: CUDA is asked for and not there, or the name is unknown.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise KubefaceError(f"device '{name}' is unknown: use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise KubefaceError("device 'cuda' is asked for but torch sees no GPU: request one or use device auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load_state(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
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


def digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights by name, the same for the same weights from whatever file."""
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _place(network: nn.Module, device: torch.device | None) -> None:
    """Moves a network to its device, its kernels channels last."""
    network.to(device or torch.device("cpu")).to(memory_format=torch.channels_last)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pt, .pth or .onnx (SFace) file; nothing is unpickled but tensors."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix == ".onnx":
            return read_onnx(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except KubefaceError:
        raise
    except pickle.UnpicklingError as error:
        raise KubefaceError(f"{path} holds other things than tensors: save a state dict as .safetensors") from error
    except Exception as error:  # torch.load lets whatever its reader stumbles over pass: KeyError, struct.error …
        reason = (str(error).splitlines() or [""])[0]
        raise KubefaceError(f"{path} is not a readable weights file: {type(error).__name__}: {reason}") from error
    if not isinstance(state, dict):
        raise KubefaceError(f"{path} holds a {type(state).__name__} where a state dict is needed")
    return state


def _published(name: str) -> tuple[Path, str]:
    """File and origin of a backbone's published weights."""
    weights = backbone_named(name).weights
    if not isinstance(weights, WheelFile):
        return fetch(weights), weights
    path = cache_folder() / "sha256" / (weights.sha256 or "") / Path(weights.member).name
    if not (path.is_file() and sha256_file(path) == weights.sha256):
        data = weights.read()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_bytes(data)
        partial.replace(path)
    return path, f"{weights.requirement}:{weights.member}#sha256={weights.sha256}"


def load_pretrained(backbone: str, pretrained: str = "", device: torch.device | None = None) -> FaceModel:
    """The model that a fine-tuning starts from.

    Args:
        backbone: name of the architecture.
        pretrained: empty for the published weights of that name; else a model folder of kubeface or a
            weights file (.safetensors, .pt, .pth, .onnx) as path, file://, s3:// or https:// URI; https
            needs `#sha256=…` behind it.
        device: where to put it, the CPU when None.

    Raises:
        KubefaceError: unknown backbone, file that cannot be had or read, or weights that do not fit.
    """
    known = backbone_named(backbone)
    address = split_checksum(pretrained)[0]
    if address and Path(address).suffix not in WEIGHTS_SUFFIXES and not storage.local_path(address).is_file():
        return load_model(_model_folder(pretrained), device, expected_backbone=backbone)
    path, origin = (fetch(pretrained), pretrained) if pretrained else _published(backbone)
    state = _read_weights(path)
    if backbone.startswith("inception_resnet_v1"):
        state = {name: value for name, value in state.items() if not name.startswith("logits.")}
    network = known.build()
    load_state(network, state, origin)
    _place(network, device)
    license = known.license if not pretrained else "as given by its publisher"
    return FaceModel(backbone, network.eval(), known.preprocessing, known.embedding_size, origin, license)


def _model_folder(uri: str) -> Path:
    """A local copy of a model folder."""
    if not storage.is_s3(uri):
        return storage.local_path(uri)
    config = fetch(storage.join(uri, CONFIG_FILE))
    checksum = read_json(config).get("weights_sha256", "")
    weights = fetch(f"{storage.join(uri, WEIGHTS_FILE)}#sha256={checksum}")
    folder = weights.parent
    (folder / CONFIG_FILE).write_bytes(config.read_bytes())
    return folder


def save_model(model: FaceModel, folder: Path, training: dict[str, Any]) -> None:
    """Writes model.safetensors and model.json into an existing folder."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    safetensors.torch.save_file(state, folder / WEIGHTS_FILE)
    write_json(
        folder / CONFIG_FILE,
        {
            "backbone": model.backbone,
            "preprocessing": asdict(model.preprocessing),
            "alignment": ALIGNMENT,
            "embedding_size": model.embedding_size,
            "start": model.start,
            "start_license": model.license,
            "weights_sha256": sha256_file(folder / WEIGHTS_FILE),
            "training": training,
        },
    )


def load_model(folder: Path | str, device: torch.device | None = None, expected_backbone: str = "") -> FaceModel:
    """Loads a model folder.

    Raises:
        KubefaceError: files missing or changed, unknown backbone, another backbone than expected,
            weights that do not fit, or a preprocessing or alignment other than the one in force here.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG_FILE)
    name = config.get("backbone", "")
    if expected_backbone and name != expected_backbone:
        raise KubefaceError(f"{folder} holds backbone '{name}', the run asks for '{expected_backbone}'")
    known = backbone_named(name)
    if config.get("preprocessing") != asdict(known.preprocessing) or config.get("alignment") != ALIGNMENT:
        raise KubefaceError(
            f"{folder / CONFIG_FILE}: the model was trained with another preprocessing than '{name}' has here"
        )
    path = folder / WEIGHTS_FILE
    if not path.is_file() or sha256_file(path) != config.get("weights_sha256"):
        raise KubefaceError(f"{path} is missing or is not the file that {CONFIG_FILE} describes")
    network = known.build()
    load_state(network, _read_weights(path), str(path))
    _place(network, device)
    start, license = config.get("start", "unknown"), config.get("start_license", "unknown")
    return FaceModel(name, network.eval(), known.preprocessing, known.embedding_size, start, license)
