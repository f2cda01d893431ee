"""A face model: a backbone with the preparation of its input; how it is loaded, saved and run.

A model folder holds

    model.safetensors   the backbone's weights, float32
    head.safetensors    weight L×D and bias L, float32, of what makes scores of embeddings; not for recognition
    model.json          task, backbone, quality_routed or not, preprocessing, alignment, embedding size,
                        sha256 of weights and head, training
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from kubeface.faces.geometry import TEMPLATE_SIZES
from kubeface.models.backbones import BACKBONES, Backbone, backbone_named
from kubeface.models.quality_routing import QualityRouted
from kubeface.models.weights import WEIGHTS_SUFFIXES, fetch_published, keras_preprocessing, load_network, load_state
from kubeface.records.model import (
    SCHEMA_VERSION,
    AlignmentRecord,
    ModelRecord,
    Preprocessing,
    SuperresolutionRecord,
    TrainingRecord,
)
from kubeface.records.tasks import RECOGNITION, Task
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from kubeface.storage.downloads import Unreachable, fetch, split_checksum
from kubeface.storage.folders import sha256_file

WEIGHTS_FILE, CONFIG_FILE, HEAD_FILE = "model.safetensors", "model.json", "head.safetensors"
RANDOM = "random weights"  # the start of a network that no file is read for
TEMPLATE, DETECTOR = "arcface_112", "mtcnn"  # how crops are made unless said otherwise


@dataclass
class FaceModel:
    """A backbone by name with its weights."""

    backbone: str
    network: nn.Module
    preprocessing: Preprocessing
    embedding_size: int
    start: str  # where the weights came from
    license: str
    template: str = TEMPLATE  # how the crops are made (see align) that it was trained on: it is only ever fed such
    detector: str = DETECTOR  # whose landmarks they were made by

    def to(self, device: torch.device | None) -> "FaceModel":
        """The model on a device, the CPU for None, its kernels channels last."""
        self.network.to(device or torch.device("cpu")).to(memory_format=torch.channels_last)
        return self

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
        """Unit-length embeddings (N×D) of RGB crops (N×H×W×3, uint8), of their mirror images with `flip`."""
        self.network.eval()
        device = next(self.network.parameters()).device
        images = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2)
        embeddings: Tensor = self.network(self.prepare(images.flip(3) if flip else images))
        return np.asarray(normalize(embeddings.float()).cpu().numpy(), np.float32)


def _channels(value: float | tuple[float, ...], images: Tensor) -> float | Tensor:
    """A number for each channel in the shape in which it goes with images."""
    return images.new_tensor(value)[:, None, None] if isinstance(value, tuple) else value


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one, else the CPU.

    Raises:
        KubefaceError: CUDA is asked for and not there, or the name is unknown.
    """
    require(name in ("auto", "cpu", "cuda"), f"device '{name}' is unknown: use auto, cpu or cuda")
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


def load_pretrained(
    backbone: str, pretrained: str = "", device: torch.device | None = None, template: str = ""
) -> FaceModel:
    """The model that a fine-tuning starts from.

    Args:
        pretrained: empty for the published weights of that name; else a model folder of kubeface or a weights
            file (see `read_weights`) as path, file://, s3:// or https:// URI; https needs `#sha256=…` behind it. A
            .keras archive is taken to want its input as keras.applications prepares it.
        template: how the crops are made that it will be given; empty for what a model folder says, arcface_112 else.

    Raises:
        KubefaceError: unknown backbone, file that cannot be had or read, weights that do not fit, or a model folder
            that was trained on crops made otherwise.
    """
    known = backbone_named(backbone)
    address = split_checksum(pretrained)[0]
    if address and Path(address).suffix not in WEIGHTS_SUFFIXES and not objects.local_path(address).is_file():
        model = load_model(_model_folder(pretrained), device, expected_backbone=backbone)
        require(
            template in ("", model.template),
            f"{pretrained} was trained on crops of template {model.template}, these are of {template}: align anew",
        )
        return model
    path, origin = (fetch(pretrained), pretrained) if pretrained else fetch_published(known)
    network, embedding_size = load_network(known, path, str(origin))
    preprocessing = known.preprocessing
    if path.suffix == ".keras":
        preprocessing = keras_preprocessing(path, preprocessing)
    license = known.license if not pretrained else "as given by its publisher"
    template = template or TEMPLATE
    return FaceModel(backbone, network, preprocessing, embedding_size, str(origin), license, template).to(device)


def load_start(
    backbone: str,
    pretrained: str = "",
    fallback: str = "",
    device: torch.device | None = None,
    template: str = "",
    scratch: bool = False,
) -> tuple[FaceModel, str]:
    """As `load_pretrained`, with something to start from where the weights cannot be fetched.

    Random weights are drawn from torch's generator, which the caller seeds.

    Args:
        fallback: name of a backbone whose published weights to start from then, `scratch` for random weights of the
            same backbone, or empty to fail.
        scratch: the training throws the starting weights away. Where none are given and none are published, random
            ones stand for them.

    Returns:
        The model, and the line that says what it starts from instead and why; empty where nothing went wrong.

    Raises:
        KubefaceError: as `load_pretrained`; also for weights that are there and are other ones than asked for or do
            not fit, whatever the fallback.
    """
    known = backbone_named(backbone)
    require(
        fallback in ("", "scratch", *BACKBONES),
        f"fallback '{fallback}' is unknown: use scratch or one of {', '.join(BACKBONES)}",
    )
    if scratch and not pretrained and not known.sources:
        return _random(known, device, template), ""
    try:
        return load_pretrained(backbone, pretrained, device, template), ""
    except Unreachable as error:
        if not fallback:
            raise
        instead = f"{RANDOM} of {backbone}" if fallback == "scratch" else f"the published weights of {fallback}"
        said = f"starts from {instead} instead, as fallback says: {error}"
    if fallback == "scratch":
        return _random(known, device, template), said
    try:
        return load_pretrained(fallback, "", device, template), said
    except KubefaceError as error:
        raise type(error)(f"{said}; and of these: {error}") from error


def _random(known: Backbone, device: torch.device | None, template: str) -> FaceModel:
    """The backbone as it is built, in evaluation mode."""
    network, size, template = known.build().eval(), known.embedding_size, template or TEMPLATE
    return FaceModel(known.name, network, known.preprocessing, size, RANDOM, "none", template).to(device)


def _model_folder(uri: str) -> Path:
    if not objects.is_s3(uri):
        return objects.local_path(uri)
    config = fetch(objects.join(uri, CONFIG_FILE))
    checksum = ModelRecord.read(config).weights_sha256
    weights = fetch(f"{objects.join(uri, WEIGHTS_FILE)}#sha256={checksum}")
    folder = weights.parent
    (folder / CONFIG_FILE).write_bytes(config.read_bytes())
    return folder


def save_model(
    model: FaceModel,
    folder: Path,
    training: TrainingRecord,
    task: Task = RECOGNITION,
    head: Mapping[str, Tensor] | None = None,
    superresolution: SuperresolutionRecord | None = None,
) -> None:
    """Writes model.safetensors, model.json and, where there is a head, head.safetensors into an existing folder.

    The head's `weight` is L×D, its `bias` L; `superresolution` is the network that enlarges small faces for the model.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    safetensors.torch.save_file(state, folder / WEIGHTS_FILE)
    size = TEMPLATE_SIZES[model.template]
    record = ModelRecord(
        schema_version=SCHEMA_VERSION,
        task=task,
        backbone=model.backbone,
        preprocessing=model.preprocessing,
        alignment=AlignmentRecord(template=model.template, size=size, detector=model.detector),
        embedding_size=model.embedding_size,
        quality_routed=isinstance(model.network, QualityRouted),
        start=model.start,
        start_license=model.license,
        weights_sha256=sha256_file(folder / WEIGHTS_FILE),
        training=training,
    )
    if head is not None:
        tensors = {name: value.detach().float().cpu().contiguous() for name, value in head.items()}
        safetensors.torch.save_file(tensors, folder / HEAD_FILE)
        record = record.model_copy(update={"head_sha256": sha256_file(folder / HEAD_FILE)})
    if superresolution is not None:
        record = record.model_copy(update={"superresolution": superresolution})
    record.write(folder / CONFIG_FILE)


def _load_routed(known: Backbone, path: Path) -> tuple[nn.Module, int]:
    state = safetensors.torch.load_file(path)
    parts = [
        {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}
        for name in ("start.", "tuned.")
    ]
    start, tuned = (known.build_for(part) if known.build_for else known.build() for part in parts)
    network = QualityRouted(start, tuned)
    load_state(network, state, str(path))
    return network.eval(), getattr(start, "embedding_size", known.embedding_size)


def load_model(folder: Path | str, device: torch.device | None = None, expected_backbone: str = "") -> FaceModel:
    """Loads a model folder.

    Raises:
        KubefaceError: files missing or changed, unknown backbone, another backbone than expected,
            weights that do not fit, an alignment other than the one in force here, or a preprocessing other
            than the backbone's, where that is fixed.
    """
    folder = Path(folder)
    record = ModelRecord.read(folder / CONFIG_FILE)
    name = record.backbone
    if expected_backbone and name != expected_backbone:
        raise KubefaceError(f"{folder} holds backbone '{name}', the run asks for '{expected_backbone}'")
    known = backbone_named(name)
    preprocessing, alignment = record.preprocessing, record.alignment
    known_alignment = TEMPLATE_SIZES.get(alignment.template) == alignment.size
    if (known.fixed and preprocessing != known.preprocessing) or not known_alignment:
        what = f"the model was trained with another preprocessing than '{name}' has here"
        raise KubefaceError(f"{folder / CONFIG_FILE}: {what}")
    path = folder / WEIGHTS_FILE
    if not path.is_file() or sha256_file(path) != record.weights_sha256:
        raise KubefaceError(f"{path} is missing or is not the file that {CONFIG_FILE} describes")
    if record.quality_routed:
        network, embedding_size = _load_routed(known, path)
    else:
        network, embedding_size = load_network(known, path, str(path))
    start, license, template = record.start, record.start_license, alignment.template
    model = FaceModel(name, network, preprocessing, embedding_size, start, license, template, alignment.detector)
    return model.to(device)
