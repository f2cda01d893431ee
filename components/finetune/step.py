"""Fine-tune: a pretrained face model on one's own people."""

import csv
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils.data import DataLoader

from components.faces.degrade import Degradation
from components.faces.errors import KubefaceError, require
from components.faces.folders import new_folder, write_json
from components.faces.model import FaceModel, choose_device, digest, load_pretrained, save_model
from components.faces.progress import Progress
from components.faces.runtime import VERSION, cpu_limit
from components.faces.table import Table
from components.finetune.data import Augmentation, FaceCrops, InOrder, Place, WindowShuffle, places
from components.finetune.figures import draw_history
from components.finetune.heads import HEADS, make_head

OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of a training besides the data."""

    backbone: str
    pretrained: str
    head: str
    scale: float
    margin: float
    degradation: str
    distill: float
    head_epochs: int
    head_lr: float
    epochs: int
    lr: float
    optimizer: str
    weight_decay: float
    batch_size: int
    flip: float
    jitter: float
    freeze_batch_norm: bool
    patience: int
    amp: str
    seed: int

    def check(self) -> None:
        """Raises KubefaceError for a value out of range, naming it."""
        require(self.optimizer in OPTIMIZERS, f"optimizer is '{self.optimizer}': use one of {', '.join(OPTIMIZERS)}")
        require(self.amp in ("auto", "off", "bf16"), f"amp is '{self.amp}': use auto, off or bf16")
        for name in ("head_epochs", "epochs", "distill", "weight_decay", "patience"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}: it must not be negative")
        require(self.head in HEADS, f"head '{self.head}' is unknown: use one of {', '.join(HEADS)}")
        require(self.margin <= 1.5, f"margin is {self.margin}: it must be at most 1.5, or negative for the paper's")
        require(0 <= self.seed < 2**63, f"seed is {self.seed}: it must lie in 0 to less than 2^63")
        for name in ("distill", "weight_decay", "head_lr", "lr", "scale", "margin"):
            require(math.isfinite(getattr(self, name)), f"{name} is {getattr(self, name)}: it must be a finite number")
        for name in ("head_lr", "lr", "scale"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}: it must be greater than 0")
        require(self.head_epochs + self.epochs > 0, "head_epochs and epochs are both 0: there is nothing to train")
        require(self.batch_size >= 1, f"batch_size is {self.batch_size}: it must be at least 1")
        require(0 <= self.flip <= 1, f"flip is {self.flip}: it must lie between 0 and 1")
        require(0 <= self.jitter < 1, f"jitter is {self.jitter}: it must lie in 0 to less than 1")
        Degradation.parse(self.degradation)


def finetune(
    aligned: Path,
    split: Path,
    out: Path,
    backbone: str = "sface",
    pretrained: str = "",
    head: str = "arcface",
    scale: float = 64.0,
    margin: float = -1.0,
    degradation: str = "none",
    distill: float = 20.0,
    head_epochs: int = 1,
    head_lr: float = 1e-3,
    epochs: int = 8,
    lr: float = 1e-4,
    optimizer: str = "adamw",
    weight_decay: float = 5e-4,
    batch_size: int = 32,
    flip: float = 0.5,
    jitter: float = 0.2,
    freeze_batch_norm: bool = True,
    patience: int = 5,
    amp: str = "auto",
    device: str = "auto",
    workers: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Trains the head on the frozen backbone, then everything with a smaller rate on a cosine schedule.

    The head starts from the mean embedding of each person. The best checkpoint is the one with the least
    validation loss; without validation images it is the last one. Leaves model.safetensors, model.json,
    identities.json, checkpoints/best and last, logs/history.csv and .json, figures/*.png.

    Args:
        aligned: Aligned table.
        split: Split table; its train and val images are used.
        out: Folder to write the model to.
        backbone: sface, inception_resnet_v1_vggface2 or inception_resnet_v1_casia_webface.
        pretrained: Start from this model folder or weights file (path, s3://, https:// with #sha256=…); empty for
            the published weights.
        head: arcface, cosface or softmax.
        scale: Scale s of the cosine logits.
        margin: Margin of the head, in radians for arcface and cosine for cosface; negative for the paper's 0.5
            and 0.4.
        degradation: Put on training and validation crops, as noise:60, lowres:14, blur:4, jpeg:5, dark or none.
        distill: Weight of (1 − cosine) between the embedding and the starting model's embedding of the clean crop;
            0 for none.
        head_epochs: Epochs of stage 1, the head alone.
        head_lr: Learning rate of stage 1.
        epochs: Most epochs of stage 2, everything.
        lr: Initial learning rate of stage 2.
        optimizer: adamw or sgd (momentum 0.9).
        weight_decay: Weight decay of convolutions and linear layers.
        batch_size: Images in a step.
        flip: Probability of mirroring a training crop.
        jitter: Strength of colour jitter, 0 to less than 1.
        freeze_batch_norm: Keep the statistics of batch norm layers as they are.
        patience: Epochs of stage 2 without a better validation loss before stopping; 0 for never.
        amp: Mixed precision; auto (bfloat16 on CUDA, off on CPU), off or bf16.
        device: auto, cpu or cuda.
        workers: Processes that read and augment; 0 for none.
        seed: Seed of order, augmentation and degradation.

    Returns:
        rows_in, rows_out (images trained on), identities, epochs, best_epoch, val_accuracy, val_loss.

    Raises:
        KubefaceError: wrong settings, corrupt tables or weights, nobody to train on, or a loss that is not finite.
    """
    settings = Settings(
        backbone, pretrained, head, scale, margin, degradation, distill, head_epochs, head_lr, epochs, lr, optimizer,
        weight_decay, batch_size, flip, jitter, freeze_batch_norm, patience, amp, seed,
    )  # fmt: skip
    settings.check()
    require(workers >= 0, f"workers is {workers}: it must not be negative")
    torch.manual_seed(seed)
    torch.set_num_threads(cpu_limit())
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs, and none is read
    table, divided = Table(aligned, "aligned"), Table(split, "split")
    data = _read_split(table, divided)
    where = choose_device(device)
    model = load_pretrained(backbone, pretrained, where)
    start_sha256 = digest(model.network)
    with new_folder(out) as folder:
        trainer = Trainer(settings, model, data, where, workers)
        trainer.fit(folder)
        training = asdict(settings) | {
            "producer": f"finetune {VERSION}",
            "aligned": table.sha256,
            "split": divided.sha256,
            "start_sha256": start_sha256,
            "identities": len(data.identities),
            "images": len(data.train),
            "best_epoch": trainer.best.epoch,
            "val_loss": trainer.best.loss,
            "val_accuracy": trainer.best.accuracy,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "numpy": np.__version__,
            },
        }
        save_model(model, folder, training)
        write_json(folder / "identities.json", data.identities)
        _write_history(folder / "logs", trainer.history)
        draw_history(trainer.history, folder / "figures")
    return {
        "rows_in": len(data.train) + len(data.val),
        "rows_out": len(data.train),
        "identities": len(data.identities),
        "epochs": len(trainer.history),
        "best_epoch": trainer.best.epoch,
        "val_accuracy": trainer.best.accuracy,
        "val_loss": trainer.best.loss,
    }


@dataclass(frozen=True)
class Data:
    """Training and validation images with the names of the classes."""

    identities: list[str]
    train: list[Place]
    val: list[Place]


def _read_split(table: Table, divided: Table) -> Data:
    rows = divided.columns(["image_id", "identity", "split"]).to_pylist()
    identities = sorted({row["identity"] for row in rows if row["split"] == "train"})
    require(len(identities) >= 2, f"{divided.folder} has {len(identities)} people to train on, at least 2 are needed")
    number = {name: index for index, name in enumerate(identities)}
    part = {
        name: {r["image_id"]: number[r["identity"]] for r in rows if r["split"] == name and r["identity"] in number}
        for name in ("train", "val")
    }
    data = Data(identities, places(table, part["train"]), places(table, part["val"]))
    require(
        len(data.train) == len(part["train"]) and len(data.val) == len(part["val"]),
        f"{divided.folder} names images that {table.folder} does not hold: run split on this table",
    )
    return data


@dataclass
class Best:
    """Figures of the best checkpoint so far."""

    loss: float = float("inf")
    accuracy: float = 0.0
    epoch: int = 0


class Trainer:
    """One training: two stages over the same data, keeping the best checkpoint."""

    def __init__(self, settings: Settings, model: FaceModel, data: Data, device: torch.device, workers: int) -> None:
        self.settings, self.model, self.data, self.device, self.workers = settings, model, data, device, workers
        self.degradation = Degradation.parse(settings.degradation)
        self.history: list[dict[str, Any]] = []
        self.best = Best()
        bf16 = settings.amp == "bf16" or (settings.amp == "auto" and device.type == "cuda")
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
        self.teacher: FaceModel | None = None
        if settings.distill > 0:
            # The starting model stays as it is; the one that is trained is a copy of it.
            self.teacher = load_pretrained(settings.backbone, settings.pretrained, device)
            self.teacher.network.requires_grad_(False)
        self.head = make_head(settings.head, self._class_means(), settings.scale, settings.margin).to(device)

    def fit(self, folder: Path) -> None:
        """Trains, and leaves checkpoints below `folder` and the best weights in the model."""
        (folder / "checkpoints").mkdir()
        if self.settings.head_epochs:
            self._stage(1, self.settings.head_epochs, self.settings.head_lr, 0, folder)
        if self.settings.epochs:
            self._stage(2, self.settings.epochs, self.settings.lr, self.settings.patience, folder)
        best = safetensors.torch.load_file(folder / "checkpoints" / "best.safetensors")
        prefix = "backbone."
        weights = {name.removeprefix(prefix): value for name, value in best.items() if name.startswith(prefix)}
        self.model.network.load_state_dict(weights)

    def _stage(self, stage: int, epochs: int, rate: float, patience: int, folder: Path) -> None:
        network = self.model.network
        network.requires_grad_(stage == 2)
        trained = [*self.head.parameters(), *(p for p in network.parameters() if p.requires_grad)]
        optimizer = _optimizer(self.settings.optimizer, trained, rate, self.settings.weight_decay)
        sampler = WindowShuffle(self.data.train, self.settings.seed)
        augmentation = Augmentation(self.settings.flip, self.settings.jitter)
        crops = FaceCrops(self.data.train, self.degradation, self.settings.seed, augmentation)
        # A last batch of one image has no statistics to learn from.
        ragged = not self.settings.freeze_batch_norm and len(crops) > self.settings.batch_size
        loader = self._loader(crops, sampler, drop_last=ragged)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * max(len(loader), 1))
        without_gain = 0
        for epoch in range(1, epochs + 1):
            number = len(self.history) + 1
            sampler.set_epoch(number)
            start = time.monotonic()
            label = f"finetune: stage {stage} epoch {epoch}/{epochs}"
            learning_rate = optimizer.param_groups[0]["lr"]
            loss, accuracy = self._train_epoch(loader, optimizer, scheduler, label, stage == 2)
            seconds = time.monotonic() - start
            val_loss, val_accuracy = self._validate() if self.data.val else (loss, accuracy)
            require(math.isfinite(val_loss), f"the validation loss is {val_loss} after {label}: lower the rate")
            self.history.append(
                {
                    "epoch": number,
                    "stage": stage,
                    "train_loss": loss,
                    "train_accuracy": accuracy,
                    "val_loss": val_loss,
                    "val_accuracy": val_accuracy,
                    "learning_rate": learning_rate,
                    "images_per_second": round(len(crops) / seconds, 1),
                    "seconds": round(time.monotonic() - start, 2),
                }
            )
            print(
                f"{label}: loss {loss:.4f} accuracy {accuracy:.4f}, validation loss {val_loss:.4f} "
                f"accuracy {val_accuracy:.4f}, rate {learning_rate:.2e}, {len(crops) / seconds:.1f} images/s",
                flush=True,
            )
            without_gain = 0 if self._keep(val_loss, val_accuracy, number, folder) else without_gain + 1
            if patience and without_gain >= patience:
                print(f"finetune: stopped early, no better validation loss for {patience} epochs", flush=True)
                break

    def _train_epoch(
        self,
        loader: DataLoader[Any],
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        label: str,
        all_layers: bool,
    ) -> tuple[float, float]:
        network = self.model.network
        network.train(all_layers)
        if self.settings.freeze_batch_norm:
            for module in network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        total, right, seen = 0.0, 0, 0
        with Progress(label, len(loader.dataset), quiet_end=True) as progress:  # type: ignore[arg-type]
            for clean, bad, labels in self._batches(loader):
                with self.autocast:
                    loss, logits = self._loss(clean, bad, labels)
                if not torch.isfinite(loss):
                    rate = optimizer.param_groups[0]["lr"]
                    raise KubefaceError(
                        f"the loss is {loss.item()} in {label} after {seen} images at rate {rate:.2e}: lower the rate"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                scheduler.step()
                total += float(loss.detach()) * len(labels)
                right += int((logits.argmax(1) == labels).sum())
                seen += len(labels)
                progress.advance(len(labels), f"loss {total / seen:.3f}")
        return total / max(seen, 1), right / max(seen, 1)

    @torch.inference_mode()
    def _validate(self) -> tuple[float, float]:
        self.model.network.eval()
        crops = FaceCrops(self.data.val, self.degradation, self.settings.seed)
        total, right = 0.0, 0
        for clean, bad, labels in self._batches(self._loader(crops, InOrder(len(crops)))):
            with self.autocast:
                loss, logits = self._loss(clean, bad, labels)
            total += float(loss) * len(labels)
            right += int((logits.argmax(1) == labels).sum())
        return total / len(crops), right / len(crops)

    def _loss(self, clean: Tensor, bad: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and the logits without margin for counting what was right."""
        embeddings = self.model.network(self.model.prepare(bad))
        loss = cross_entropy(self.head(embeddings, labels), labels)
        if self.teacher is not None:
            with torch.no_grad():
                target = self.teacher.network(self.teacher.prepare(clean))
            distance = 1 - cosine_similarity(embeddings.float(), target.float())
            loss = loss + self.settings.distill * distance.mean()
        with torch.no_grad():
            return loss, self.head(embeddings)

    def _class_means(self) -> Tensor:
        """Mean unit embedding of each person's clean training crops, classes×D."""
        crops = FaceCrops(self.data.train, Degradation(), self.settings.seed)
        sums = torch.zeros(len(self.data.identities), self.model.embedding_size, device=self.device)
        with torch.inference_mode(), Progress("finetune: class means", len(crops)) as progress:
            for clean, _, labels in self._batches(self._loader(crops, InOrder(len(crops)))):
                embeddings = self.model.network(self.model.prepare(clean)).float()
                sums.index_add_(0, labels, nn.functional.normalize(embeddings))
                progress.advance(len(labels))
        return nn.functional.normalize(sums).clone()

    def _loader(self, crops: FaceCrops, sampler: Any, drop_last: bool = False) -> DataLoader[Any]:
        return DataLoader(
            crops,
            batch_size=self.settings.batch_size,
            sampler=sampler,
            num_workers=self.workers,
            drop_last=drop_last,
            pin_memory=self.device.type == "cuda",
        )

    def _batches(self, loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for clean, bad, labels in loader:
            yield tuple(part.to(self.device, non_blocking=True) for part in (clean, bad, labels))

    def _keep(self, loss: float, accuracy: float, epoch: int, folder: Path) -> bool:
        """Writes `last`, and `best` too if the validation loss is the least so far; says whether it is."""
        state = {f"backbone.{name}": value for name, value in self.model.network.state_dict().items()}
        state |= {f"head.{name}": value for name, value in self.head.state_dict().items()}
        state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        notes = {"epoch": str(epoch)}
        safetensors.torch.save_file(state, folder / "checkpoints" / "last.safetensors", notes)
        better = loss < self.best.loss or not self.data.val
        if better:
            self.best = Best(loss, accuracy, epoch)
            safetensors.torch.save_file(state, folder / "checkpoints" / "best.safetensors", notes)
        return better


def _optimizer(name: str, parameters: list[nn.Parameter], rate: float, decay: float) -> torch.optim.Optimizer:
    """Weight decay falls on matrices and kernels, not on biases, norms and PReLU slopes."""
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=rate)


def _write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    folder.mkdir()
    write_json(folder / "history.json", history)
    with open(folder / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
