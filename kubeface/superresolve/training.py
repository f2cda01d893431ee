"""Training a super-resolution network on faces, for sharp pixels that show the same person."""

import copy
import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, l1_loss
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from kubeface import __version__
from kubeface.faces.images import RGB
from kubeface.models.model import FaceModel, choose_device, load_start
from kubeface.models.superresolution import ABOUT_FILE, NETWORK_FILE, Enlarger
from kubeface.models.superresolution_export import export
from kubeface.models.superresolution_networks import Enlarging, save_network
from kubeface.records.record import StepResult
from kubeface.records.superresolution import (
    EnlargementFigures,
    NetworkDesign,
    SuperresolutionFigures,
    TrainedSuperresolutionRecord,
)
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.storage.folders import new_folder, sha256_file
from kubeface.superresolve.figures import SampleFace, draw_history, draw_samples
from kubeface.superresolve.options import TrainSuperresolutionOptions
from kubeface.superresolve.quality import psnr, ssim
from kubeface.superresolve.training_pairs import TrainingPairs, channels_first, find_images
from kubeface.tables.table import Table

WEIGHTS_FILE = "superresolution.safetensors"
SAMPLES = 8  # validation faces on the sample sheet
RECORDED_OPTIONS = {*NetworkDesign.model_fields, "identity_weight", "epochs", "batch_size", "lr", "seed"}


class TrainSuperresolutionResult(StepResult):
    """What a training came to: rows_in counts all images, rows_out those trained on."""

    identities: int
    """People with an image that is trained or validated on."""
    best_epoch: int
    """Epoch of the network; 0 is bicubic interpolation."""
    psnr_bicubic: float
    """Peak signal-to-noise ratio of the validation images enlarged by bicubic interpolation, in dB."""
    ssim_bicubic: float
    """Structural similarity of the same."""
    identity_bicubic: float
    """Cosine between the embeddings of the same and of the sharp images."""
    psnr: float
    """Peak signal-to-noise ratio of the validation images enlarged by the network, in dB."""
    ssim: float
    """Structural similarity of the same."""
    identity: float
    """Cosine between the embeddings of the same and of the sharp images."""


def train_superresolution(
    aligned: str | Path,
    split: str | Path,
    out: Path,
    options: TrainSuperresolutionOptions = TrainSuperresolutionOptions(),
) -> TrainSuperresolutionResult:
    """Trains a network that enlarges faces, on the training images of a split.

    Where the table has low and high images of the same photographs, those are the pairs; otherwise low resolution is
    made from the crops as `degrade` makes it. The loss is the mean absolute difference of the pixels plus, times
    identity_weight, 1 minus the cosine between a face model's embeddings of the enlarged and the sharp crop. The epoch
    with the least loss on the validation images is kept; the network starts as the bicubic enlargement, epoch 0.

    Leaves superresolution.onnx, superresolution.safetensors, superresolution.json (figures, settings, people),
    logs/history.csv, figures/samples.png and figures/history.png.

    Args:
        aligned: Aligned table; an s3:// prefix is read by ranges, and not downloaded.
        split: Split table, a folder or an s3:// prefix; its train and val images are used, and no others.
        out: Folder to write the network to.
        options: The network and its training.

    Raises:
        KubefaceError: corrupt tables, no image to train or validate on, weights that cannot be had, or a loss that is
            not finite.
    """
    device = _prepare(options)
    network = Enlarging(options.architecture, options.scale, options.channels, options.blocks)
    table, divided = Table(aligned, "aligned"), Table(split, "split")
    train_images, val_images, identities = find_images(table, divided)
    template = table.manifest.setting("template", "arcface_112")
    judge, _ = load_start(options.backbone, options.pretrained, "", device, template, False)
    judge.network.eval().requires_grad_(False)
    trainer = _Trainer(network.to(device).to(memory_format=torch.channels_last), judge, options, device)
    train = TrainingPairs(train_images, options.scale, options.seed, augmented=True)
    val = TrainingPairs(val_images, options.scale, options.seed, augmented=False)
    history = trainer.fit(train, val)
    best_epoch = _best(history)
    bicubic, best = history[0].figures, history[best_epoch].figures
    with new_folder(out) as folder:
        sha256, weights_sha256 = _save(network.cpu().eval(), history, folder)
        TrainedSuperresolutionRecord(
            name=f"{WEIGHTS_FILE}@{weights_sha256[:12]}",
            sha256=sha256,
            weights_sha256=weights_sha256,
            **options.model_dump(include=RECORDED_OPTIONS),
            identities=tuple(identities),
            producer=f"superresolve {__version__}",
            aligned=table.sha256,
            split=divided.sha256,
            judge=judge.start,
            figures=SuperresolutionFigures(bicubic=bicubic, network=best, images=len(val), best_epoch=best_epoch),
        ).write(folder / ABOUT_FILE)
        network.to(device)
        draw_samples(trainer.samples(val, SAMPLES), folder / "figures" / "samples.png")
    counts = {"rows_in": len(train) + len(val), "rows_out": len(train), "identities": len(identities)}
    before = {f"{name}_bicubic": value for name, value in bicubic}
    return TrainSuperresolutionResult(**counts, best_epoch=best_epoch, **best.model_dump(), **before)


def _prepare(options: TrainSuperresolutionOptions) -> torch.device:
    torch.manual_seed(options.seed)
    torch.set_num_threads(cpu_limit())
    torch.use_deterministic_algorithms(True, warn_only=True)
    return choose_device(options.device)


@dataclass(frozen=True, slots=True)
class _Epoch:
    """An epoch's mean losses, None of a training before the first, and the figures of the validation images."""

    train_loss: float | None
    val_loss: float
    figures: EnlargementFigures


_History = list[_Epoch]  # begins with epoch 0, bicubic interpolation


def _best(history: _History) -> int:
    return min(range(len(history)), key=lambda epoch: history[epoch].val_loss)


def _save(network: Enlarging, history: _History, folder: Path) -> tuple[str, str]:
    """Writes the network, its ONNX export and the figures by epoch; returns the SHA-256 of export and weights."""
    save_network(network, folder / WEIGHTS_FILE)
    (folder / NETWORK_FILE).write_bytes(export(network, WEIGHTS_FILE))
    (folder / "figures").mkdir()
    draw_history([epoch.figures for epoch in history], folder / "figures" / "history.png")
    (folder / "logs").mkdir()
    with open(folder / "logs" / "history.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", "train_loss", "val_loss", "psnr", "ssim", "identity"])
        for number, epoch in enumerate(history):
            train_loss = None if epoch.train_loss is None else round(epoch.train_loss, 6)
            figures = epoch.figures
            writer.writerow([number, train_loss, epoch.val_loss, figures.psnr, figures.ssim, figures.identity])
    return sha256_file(folder / NETWORK_FILE), sha256_file(folder / WEIGHTS_FILE)


class _Trainer:
    """Trains a network, judged by a face model, which stays as it is; both are on the device."""

    def __init__(
        self, network: Enlarging, judge: FaceModel, options: TrainSuperresolutionOptions, device: torch.device
    ) -> None:
        self._network, self._judge, self._options, self._device = network, judge, options, device
        mixed = options.amp == "bf16" or (options.amp == "auto" and device.type == "cuda")
        self._precision = torch.autocast(device.type, torch.bfloat16, enabled=mixed)

    def fit(self, train: TrainingPairs, val: TrainingPairs) -> _History:
        """Trains for all epochs; the network has the weights of the best one afterwards."""
        epochs = self._options.epochs
        history = [self._validate(val, None)]
        best_weights = copy.deepcopy(self._network.state_dict())
        print(f"train: bicubic {history[0].figures} loss {history[0].val_loss:.4f}", flush=True)
        optimizer = torch.optim.AdamW(self._network.parameters(), lr=self._options.lr, weight_decay=0.0)
        steps = -(-len(train) // self._options.batch_size)
        schedule = LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / (epochs * steps)))))
        for number in range(1, epochs + 1):
            loss = self._train_epoch(train, optimizer, schedule, number)
            history.append(self._validate(val, loss))
            epoch, best_note = history[-1], ""
            if _best(history) == number:
                best_weights, best_note = copy.deepcopy(self._network.state_dict()), ", the best so far"
            said = f"loss {loss:.4f}, {epoch.figures} loss {epoch.val_loss:.4f}{best_note}"
            print(f"train: epoch {number}/{epochs} {said}", flush=True)
        self._network.load_state_dict(best_weights)
        return history

    def _train_epoch(self, pairs: TrainingPairs, optimizer: Optimizer, schedule: LambdaLR, epoch: int) -> float:
        self._network.train()
        total = 0.0
        with Progress(f"train: epoch {epoch}/{self._options.epochs}", len(pairs), quiet_end=True) as progress:
            for low, sharp in self._batches(pairs, pairs.shuffled(epoch), epoch):
                optimizer.zero_grad(set_to_none=True)
                with self._precision:
                    enlarged = self._network(low).float()
                loss = self._loss(enlarged, sharp)
                if not math.isfinite(float(loss.detach())):
                    raise KubefaceError(f"train: the loss is {float(loss.detach())} in epoch {epoch}: lower lr")
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(low)
                progress.advance(len(low))
        return total / len(pairs)

    @torch.no_grad()
    def _validate(self, pairs: TrainingPairs, train_loss: float | None) -> _Epoch:
        """The epoch that ends with these images."""
        self._network.eval()
        sums = torch.zeros(4, dtype=torch.float64)
        for low, sharp in self._batches(pairs, range(len(pairs)), 0):
            enlarged = self._network(low).float().clamp(0, 1)
            loss = self._loss(enlarged, sharp)
            identity = self._identity(enlarged, sharp).cpu()
            enlarged, sharp = enlarged.cpu(), sharp.cpu()
            terms = [loss.double().cpu() * len(low), psnr(enlarged, sharp).sum(), ssim(enlarged, sharp).sum()]
            sums += torch.stack([term.double() for term in (*terms, identity.sum())])
        loss, *means = (sums / len(pairs)).tolist()
        names = ("psnr", "ssim", "identity")
        rounded = {name: round(mean, 4) for name, mean in zip(names, means, strict=True)}
        return _Epoch(train_loss, loss, EnlargementFigures(**rounded))

    @torch.no_grad()
    def samples(self, pairs: TrainingPairs, count: int) -> list[SampleFace]:
        """The first images for the sample sheet, at most `count`."""
        faces = []
        for index in range(min(count, len(pairs))):
            low, sharp = pairs[index, 0]
            network = _to_rgb(self._network(low[None].to(self._device).float() / 255)[0])
            low_rgb, sharp_rgb = low.permute(1, 2, 0).numpy(), sharp.permute(1, 2, 0).numpy()
            bicubic = Enlarger().to(low_rgb, sharp_rgb.shape[1], sharp_rgb.shape[0])
            target = (sharp[None].float() / 255).to(self._device)
            enlarged = ((channels_first(image)[None].float() / 255).to(self._device) for image in (bicubic, network))
            identities = [float(self._identity(image, target)) for image in enlarged]
            faces.append(SampleFace(low_rgb, bicubic, network, sharp_rgb, *identities))
        return faces

    def _loss(self, enlarged: Tensor, sharp: Tensor) -> Tensor:
        loss = l1_loss(enlarged, sharp)
        weight = self._options.identity_weight
        return loss + weight * (1 - self._identity(enlarged, sharp)).mean() if weight else loss

    def _identity(self, enlarged: Tensor, sharp: Tensor) -> Tensor:
        """Cosine between the embeddings of enlarged and sharp images (0…1), N."""
        with self._precision:
            embeddings = self._judge.network(self._judge.prepare(255 * enlarged))
            with torch.no_grad():
                targets = self._judge.network(self._judge.prepare(255 * sharp))
        return cosine_similarity(embeddings.float(), targets.float())

    def _batches(self, pairs: TrainingPairs, order: Sequence[int], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Low-resolution and sharp images (0…1), a batch at a time."""
        keys = [(index, epoch) for index in order]
        for low, sharp in DataLoader(pairs, batch_size=self._options.batch_size, sampler=keys):
            yield low.to(self._device).float() / 255, sharp.to(self._device).float() / 255


def _to_rgb(image: Tensor) -> RGB:
    """3×H×W, 0…1, to H×W×3, uint8."""
    return np.asarray((image.clamp(0, 1) * 255).round().permute(1, 2, 0).cpu().numpy(), np.uint8)
