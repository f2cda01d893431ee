"""A face model: a backbone with the preparation of its input; how it is loaded, saved and run.

A model folder holds

    model.safetensors   the backbone's weights, float32
    model.json          backbone, guarded or not, preprocessing, alignment, embedding size, sha256 of weights, training
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from components.faces import storage
from components.faces.backbones import Backbone, PerChannel, Preprocessing, backbone_named
from components.faces.errors import KubefaceError, require
from components.faces.fetch import fetch, split_checksum
from components.faces.folders import read_json, sha256_file, write_json
from components.faces.geometry import TEMPLATE_SIZES
from components.faces.guard import Guarded
from components.faces.weights import WEIGHTS_SUFFIXES, fetch_published, keras_preprocessing, load_network, load_state

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "model.json"
TEMPLATE, DETECTOR = "arcface_112", "mtcnn"  # how crops are made unless said otherwise


@dataclass
class FaceModel:
    """A backbone by name with its weights; `start` says where those came from.

    `template` is how the crops are made (see align) that it was trained on; it is only ever fed crops made so.
    `detector` is the one whose landmarks they were made by.
    """

    backbone: str
    network: nn.Module
    preprocessing: Preprocessing
    embedding_size: int
    start: str
    license: str
    template: str = TEMPLATE
    detector: str = DETECTOR

    def prepare(self, crops: Tensor) -> Tensor:
        """RGB crops (N×3×H×W, 0…255, any dtype) to what the backbone takes (float32, channels last)."""
        images = crops.to(torch.float32)
        if images.shape[-1] != self.preprocessing.size:
            side = self.preprocessing.size
            images = interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
        if self.preprocessing.color_order == "bgr":
            images = images.flip(1)
        if self.preprocessing.mean != 0:  # each of the two is a pass over the batch
            images = images - _channels(self.preprocessing.mean, images)
        if self.preprocessing.std != 1:
            images = images / _channels(self.preprocessing.std, images)
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


def _channels(value: PerChannel, images: Tensor) -> float | Tensor:
    """A number for each channel in the shape in which it goes with images."""
    return images.new_tensor(value)[:, None, None] if isinstance(value, tuple) else value


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


def load_pretrained(
    backbone: str, pretrained: str = "", device: torch.device | None = None, template: str = ""
) -> FaceModel:
    """The model that a fine-tuning starts from.

    Args:
        backbone: name of the architecture.
        pretrained: empty for the published weights of that name; else a model folder of kubeface or a weights
            file (see `read_weights`) as path, file://, s3:// or https:// URI; https needs `#sha256=…` behind it. A
            .keras archive is taken to want its input as keras.applications prepares it.
        device: where to put it, the CPU when None.
        template: how the crops are made that it will be given; empty for what a model folder says, arcface_112 else.

    Raises:
        KubefaceError: unknown backbone, file that cannot be had or read, weights that do not fit, or a model folder
            that was trained on crops made otherwise.
    """
    known = backbone_named(backbone)
    address = split_checksum(pretrained)[0]
    if address and Path(address).suffix not in WEIGHTS_SUFFIXES and not storage.local_path(address).is_file():
        model = load_model(_model_folder(pretrained), device, expected_backbone=backbone)
        require(
            template in ("", model.template),
            f"{pretrained} was trained on crops of template {model.template}, these are of {template}: align anew",
        )
        return model
    path, origin = (fetch(pretrained), pretrained) if pretrained else fetch_published(known)
    network, embedding_size = load_network(known, path, str(origin))
    _place(network, device)
    preprocessing = known.preprocessing
    if path.suffix == ".keras":
        preprocessing = keras_preprocessing(path, preprocessing)
    license = known.license if not pretrained else "as given by its publisher"
    return FaceModel(backbone, network, preprocessing, embedding_size, str(origin), license, template or TEMPLATE)


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
            "alignment": _alignment(model.template) | {"detector": model.detector},
            "embedding_size": model.embedding_size,
            "guarded": isinstance(model.network, Guarded),
            "start": model.start,
            "start_license": model.license,
            "weights_sha256": sha256_file(folder / WEIGHTS_FILE),
            "training": training,
        },
    )


def _alignment(template: str) -> dict[str, Any]:
    return {"template": template, "size": TEMPLATE_SIZES[template]}


def _load_guarded(known: Backbone, path: Path) -> tuple[nn.Module, int]:
    """A guarded network and its embedding size."""
    state = safetensors.torch.load_file(path)
    parts = []
    for name in ("start", "tuned"):
        part = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        parts.append(known.build_for(part) if known.build_for else known.build())
    network = Guarded(*parts)
    load_state(network, state, str(path))
    return network.eval(), getattr(parts[0], "embedding_size", known.embedding_size)


def load_model(folder: Path | str, device: torch.device | None = None, expected_backbone: str = "") -> FaceModel:
    """Loads a model folder.

    Raises:
        KubefaceError: files missing or changed, unknown backbone, another backbone than expected,
            weights that do not fit, an alignment other than the one in force here, or a preprocessing other
            than the backbone's, where that is fixed.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG_FILE)
    name = config.get("backbone", "")
    if expected_backbone and name != expected_backbone:
        raise KubefaceError(f"{folder} holds backbone '{name}', the run asks for '{expected_backbone}'")
    known = backbone_named(name)
    preprocessing = Preprocessing.read(config.get("preprocessing"), str(folder / CONFIG_FILE))
    alignment = dict(config.get("alignment") or {})
    template, detector = str(alignment.get("template")), str(alignment.pop("detector", DETECTOR))
    known_alignment = template in TEMPLATE_SIZES and alignment == _alignment(template)
    if (known.fixed and preprocessing != known.preprocessing) or not known_alignment:
        raise KubefaceError(
            f"{folder / CONFIG_FILE}: the model was trained with another preprocessing than '{name}' has here"
        )
    path = folder / WEIGHTS_FILE
    if not path.is_file() or sha256_file(path) != config.get("weights_sha256"):
        raise KubefaceError(f"{path} is missing or is not the file that {CONFIG_FILE} describes")
    if config.get("guarded"):
        network, embedding_size = _load_guarded(known, path)
    else:
        network, embedding_size = load_network(known, path, str(path))
    _place(network, device)
    start, license = config.get("start", "unknown"), config.get("start_license", "unknown")
    return FaceModel(name, network, preprocessing, embedding_size, start, license, template, detector)
