"""Training a super-resolution network on faces: few pixels in, the sharp face out, recognised as the same."""

import copy
import csv
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, l1_loss
from torch.utils.data import DataLoader, Dataset

from kubeface import __version__
from kubeface.faces.images import RGB
from kubeface.models.model import FaceModel, choose_device, load_start
from kubeface.models.superresolution import ABOUT_FILE, NETWORK_FILE, Enlarger
from kubeface.models.superresolution_export import export
from kubeface.models.superresolution_networks import Enlarging, design, save_network
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.keyed_rng import keyed_rng
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.storage.folders import new_folder, sha256_file, write_json
from kubeface.superresolve.degradation import Camera
from kubeface.superresolve.figures import draw_history, draw_samples
from kubeface.superresolve.quality import psnr, ssim
from kubeface.tables.row_index import WINDOW, Reader, RowIndex, row_index
from kubeface.tables.table import Table

WEIGHTS_FILE = "superresolution.safetensors"
SHOWN = 8  # validation faces on the sample sheet
FIGURES = ("psnr", "ssim", "identity")


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Few pixels (3×h×h) and the sharp crop (3×H×H), both uint8, by key (index, epoch).

    Of a table with pairs they are what the camera took, the crop reduced to its pixels again, and its sharp partner;
    else the crop, and what a poor camera leaves of it, drawn anew in each epoch.

    Args:
        found: where the images stand.
        scale: H / h.
        camera: what makes few pixels where there are none.
        seed: of the camera and of mirroring.
        mirrored: whether half of the images are mirrored.
    """

    def __init__(self, found: RowIndex, scale: int, camera: Camera, seed: int, mirrored: bool) -> None:
        self.row_index, self.scale, self.camera, self.seed, self.mirrored = found, scale, camera, seed, mirrored
        self.image = Reader()

    def __len__(self) -> int:
        return len(self.row_index)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, epoch = key
        place = self.row_index[index]
        own, partner = self.image(place), self.row_index.sharp(index)
        random = keyed_rng(self.seed, "pair", epoch if self.mirrored else 0, place.image_id)
        sharp = own if partner is None else self.image(partner)
        height, width = sharp.shape[0] // self.scale, sharp.shape[1] // self.scale
        if partner is None:
            few = self.camera.few_pixels(own, width, height, random)
        else:
            few = np.asarray(cv2.resize(own, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        if self.mirrored and random.random() < 0.5:
            few, sharp = few[:, ::-1], sharp[:, ::-1]
        return _channels_first(few), _channels_first(sharp)


def _channels_first(image: RGB) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@dataclass(frozen=True)
class Quality:
    """Means over validation images: PSNR in dB, SSIM, cosine of the face model's embeddings, and the loss."""

    loss: float
    psnr: float
    ssim: float
    identity: float

    def figures(self) -> dict[str, float]:
        """The three that are told."""
        return {name: round(getattr(self, name), 4) for name in FIGURES}


def train_superresolution(
    aligned: Path,
    split: Path,
    out: Path,
    architecture: str = "edsr",
    scale: int = 8,
    channels: int = 48,
    blocks: int = 8,
    backbone: str = "sface",
    pretrained: str = "",
    identity_weight: float = 0.1,
    epochs: int = 10,
    batch_size: int = 32,
    lr: float = 5e-4,
    amp: str = "auto",
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Trains a network that enlarges faces, on the training images of a split.

    Where the table has low and high images of the same photographs those are the pairs; else few pixels are made of
    the crops as `degrade` makes them. The loss is the mean absolute difference of the pixels and, times
    identity_weight, 1 minus the cosine between a face model's embeddings of the enlarged and the sharp crop. The best
    epoch is the one with the least loss on the validation images; 0 is the bicubic enlargement, at which the network
    begins.

    Leaves superresolution.onnx, superresolution.safetensors, superresolution.json (figures, settings, people),
    logs/history.csv, figures/samples.png and figures/history.png.

    Args:
        aligned: Aligned table; s3:// prefixes are read by ranges.
        split: Split table; its train and val images are used, and no others.
        out: Folder to write the network to.
        architecture: espcn or edsr.
        scale: How many times the network enlarges, 2, 4 or 8; a crop of 112 pixels is made of 112 / scale.
        channels: Channels of the network's maps.
        blocks: Convolutions (espcn) or residual blocks (edsr) in its middle.
        backbone: Face model whose embeddings are compared.
        pretrained: Its weights; empty for the published ones.
        identity_weight: Weight of the embeddings beside the pixels; 0 for pixels alone.
        epochs: Most epochs.
        batch_size: Images in a step.
        lr: Initial learning rate of AdamW, which falls to 0 along a cosine.
        amp: auto (on CUDA bf16), off or bf16.
        device: auto, cpu or cuda.
        seed: Seed of order, mirroring and few pixels.

    Returns:
        rows_in, rows_out (images trained on), identities, best_epoch, and psnr, ssim and identity of the validation
        images, enlarged by bicubic interpolation and by the network.

    Raises:
        KubefaceError: wrong settings, corrupt tables, no image to train or validate on, or a loss that is not finite.
    """
    require(identity_weight >= 0, f"identity_weight is {identity_weight}: it must be at least 0")
    require(epochs >= 1, f"epochs is {epochs}: it must be at least 1")
    require(batch_size >= 1, f"batch_size is {batch_size}: it must be at least 1")
    require(0 < lr < 1, f"lr is {lr}: it must lie between 0 and 1")
    require(amp in ("auto", "off", "bf16"), f"amp is '{amp}': use auto, off or bf16")
    place = choose_device(device)
    torch.manual_seed(seed)
    torch.set_num_threads(cpu_limit())
    torch.use_deterministic_algorithms(True, warn_only=True)
    network = Enlarging(architecture, scale, channels, blocks)
    table, divided = Table(aligned, "aligned"), Table(split, "split")
    found, people = _read(table, divided)
    template = table.manifest["settings"].get("template", "arcface_112")
    judge, _ = load_start(backbone, pretrained, "", place, template, False)
    judge.network.eval().requires_grad_(False)
    half = torch.autocast(place.type, torch.bfloat16, enabled=amp == "bf16" or (amp == "auto" and place.type == "cuda"))
    trainer = _Trainer(network.to(place).to(memory_format=torch.channels_last), judge, identity_weight, half)
    camera = Camera()
    train = Pairs(found["train"], scale, camera, seed, mirrored=True)
    val = Pairs(found["val"], scale, camera, seed, mirrored=False)
    bicubic = best = trainer.measure(val, batch_size)
    kept, best_epoch = copy.deepcopy(network.state_dict()), 0
    history = [{"epoch": 0, "train_loss": None, "val_loss": bicubic.loss, **bicubic.figures()}]
    print(f"train: bicubic {_told(bicubic)}", flush=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.0)
    steps = -(-len(train) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / (epochs * steps))))
    )
    for epoch in range(1, epochs + 1):
        loss = trainer.epoch(train, batch_size, optimizer, schedule, epoch, epochs, seed)
        now = trainer.measure(val, batch_size)
        history.append({"epoch": epoch, "train_loss": round(loss, 6), "val_loss": now.loss, **now.figures()})
        better = now.loss < best.loss
        print(f"train: epoch {epoch}/{epochs} loss {loss:.4f}, {_told(now)}{', the best so far' * better}", flush=True)
        if better:
            best, best_epoch, kept = now, epoch, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    figures = {"bicubic": bicubic.figures(), "network": best.figures(), "images": len(val), "best_epoch": best_epoch}
    with new_folder(out) as folder:
        network = network.cpu().eval()
        save_network(network, folder / WEIGHTS_FILE)
        data = export(network, WEIGHTS_FILE)
        (folder / NETWORK_FILE).write_bytes(data)
        weights = sha256_file(folder / WEIGHTS_FILE)
        write_json(
            folder / ABOUT_FILE,
            {
                "name": f"{WEIGHTS_FILE}@{weights[:12]}",
                "sha256": hashlib.sha256(data).hexdigest(),
                "weights_sha256": weights,
                **design(network),
                "identities": people,
                "producer": f"superresolve {__version__}",
                "aligned": table.sha256,
                "split": divided.sha256,
                "judge": judge.start,
                "identity_weight": identity_weight,
                "epochs": epochs,
                "batch_size": batch_size,
                "lr": lr,
                "seed": seed,
                "figures": figures,
            },
        )
        (folder / "logs").mkdir()
        with open(folder / "logs" / "history.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)
        (folder / "figures").mkdir()
        trainer.network = network.to(place)
        draw_samples(trainer.samples(val, SHOWN), folder / "figures" / "samples.png")
        draw_history(history, folder / "figures" / "history.png")
    return {
        "rows_in": len(train) + len(val),
        "rows_out": len(train),
        "identities": len(people),
        "best_epoch": best_epoch,
        **{f"{name}_bicubic": value for name, value in bicubic.figures().items()},
        **best.figures(),
    }


class _Trainer:
    """The network, and the face model by which it is judged.

    Args:
        network: what is trained.
        judge: stays as it is.
        identity_weight: of its embeddings in the loss.
        half: mixed precision, or none.
    """

    def __init__(self, network: Enlarging, judge: FaceModel, identity_weight: float, half: torch.autocast) -> None:
        self.network, self.judge, self.weight, self.half = network, judge, identity_weight, half

    def _loss(self, made: Tensor, sharp: Tensor) -> Tensor:
        loss = l1_loss(made, sharp)
        return loss + self.weight * (1 - self._alike(made, sharp)).mean() if self.weight else loss

    def _alike(self, made: Tensor, sharp: Tensor) -> Tensor:
        """Cosine between the embeddings of images (0…1) and sharp ones, N."""
        with self.half:
            found = self.judge.network(self.judge.prepare(255 * made))
            with torch.no_grad():
                wanted = self.judge.network(self.judge.prepare(255 * sharp))
        return cosine_similarity(found.float(), wanted.float())

    def epoch(
        self, pairs: Pairs, size: int, optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LambdaLR, epoch: int, epochs: int, seed: int,
    ) -> float:  # fmt: skip
        """Trains on every image once; returns the mean loss."""
        self.network.train()
        total = 0.0
        with Progress(f"train: epoch {epoch}/{epochs}", len(pairs), quiet_end=True) as progress:
            for few, sharp in self._batches(pairs, size, _order(pairs.row_index, seed, epoch), epoch):
                optimizer.zero_grad(set_to_none=True)
                with self.half:
                    made = self.network(few).float()
                loss = self._loss(made, sharp)
                if not math.isfinite(float(loss.detach())):
                    raise KubefaceError(f"train: the loss is {float(loss.detach())} in epoch {epoch}: lower lr")
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(few)
                progress.advance(len(few))
        return total / len(pairs)

    @torch.no_grad()
    def measure(self, pairs: Pairs, size: int) -> Quality:
        """Figures over all images."""
        self.network.eval()
        sums = torch.zeros(4, dtype=torch.float64)
        for few, sharp in self._batches(pairs, size, range(len(pairs)), 0):
            made = self.network(few).float().clamp(0, 1)
            loss = self._loss(made, sharp)
            made, sharp = made.cpu(), sharp.cpu()
            alike = self._alike(made.to(few.device), sharp.to(few.device)).cpu()
            parts = [loss.double().cpu() * len(few), psnr(made, sharp).sum(), ssim(made, sharp).sum(), alike.sum()]
            sums += torch.stack([part.double() for part in parts])
        return Quality(*(sums / len(pairs)).tolist())

    @torch.no_grad()
    def samples(self, pairs: Pairs, count: int) -> list[dict[str, Any]]:
        """The first images, each as few pixels, bicubic, by the network and sharp, with the cosines of the second and
        third to the last."""
        shown = []
        for index in range(min(count, len(pairs))):
            few, sharp = pairs[index, 0]
            large = _image(self.network(few[None].to(next(self.network.parameters()).device).float() / 255)[0])
            small, wanted = few.permute(1, 2, 0).numpy(), sharp.permute(1, 2, 0).numpy()
            plain = Enlarger().to(small, wanted.shape[1], wanted.shape[0])
            known = [_channels_first(image)[None].float() / 255 for image in (plain, large, wanted)]
            device = next(self.judge.network.parameters()).device
            cosines = [float(self._alike(one.to(device), known[2].to(device))) for one in known[:2]]
            shown.append({"few": small, "bicubic": plain, "network": large, "sharp": wanted, "cosines": cosines})
        return shown

    def _batches(self, pairs: Pairs, size: int, order: Any, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images of few pixels and sharp ones (0…1), a batch at a time."""
        device = next(self.network.parameters()).device
        keys = [(int(index), epoch) for index in order]
        for few, sharp in DataLoader(pairs, batch_size=size, sampler=keys):
            yield few.to(device).float() / 255, sharp.to(device).float() / 255


def _image(found: Tensor) -> RGB:
    return np.asarray((found.clamp(0, 1) * 255).round().permute(1, 2, 0).cpu().numpy(), np.uint8)


def _order(found: RowIndex, seed: int, epoch: int) -> list[int]:
    """Every image once, shuffled within windows of row groups that are themselves shuffled."""
    random, starts = keyed_rng(seed, "order", epoch), found.group_starts()
    groups = random.permutation(len(starts) - 1)
    order: list[int] = []
    for first in range(0, len(groups), WINDOW):
        images = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in groups[first : first + WINDOW]])
        order += random.permutation(images).tolist()
    return order


def _read(table: Table, divided: Table) -> tuple[dict[str, RowIndex], list[str]]:
    """Where the images of train and val stand (of pairs the low ones alone), and who is trained on."""
    rows = divided.columns(["image_id", "identity", "split"]).to_pylist()
    chosen = {name: {row["image_id"]: 0 for row in rows if row["split"] == name} for name in ("train", "val")}
    found = {name: row_index(table, wanted) for name, wanted in chosen.items()}
    if len(found["train"].low()) and len(found["val"].low()):
        found = {name: images.low() for name, images in found.items()}
    for name, images in found.items():
        require(len(images) > 0, f"{divided.folder} has no image for {name} in {table.folder}: run split on this table")
    return found, sorted({row["identity"] for row in rows if row["split"] in ("train", "val")})


def _told(found: Quality) -> str:
    return f"PSNR {found.psnr:.2f} dB SSIM {found.ssim:.4f} identity {found.identity:.4f} loss {found.loss:.4f}"
