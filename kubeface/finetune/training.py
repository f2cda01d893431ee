"""The training loop: stages, steps, validation, checkpoints; it goes on exactly where it was stopped."""

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from kubeface.faces.degradation import Degradation
from kubeface.finetune.augment import Augmentation
from kubeface.finetune.checkpoints import LAST, Checkpoints, State, part, prefixed
from kubeface.finetune.data import Batches, Data, FaceCrops, InOrder, collate, loaded
from kubeface.finetune.distributed import Group
from kubeface.finetune.logs import Mlflow, Row
from kubeface.finetune.objectives import Attributes, OneOfMany, repeat_factors
from kubeface.finetune.settings import Settings
from kubeface.finetune.sparing import LabelAware
from kubeface.finetune.strategies import (
    Part,
    add_adapters,
    make_optimizer,
    merged,
    plain_state,
    rate_factor,
    set_modes,
    trained_parts,
)
from kubeface.models.backbones import backbone_named
from kubeface.models.model import FaceModel
from kubeface.models.quality_routing import QualityRouted
from kubeface.records.tasks import ATTRIBUTES, RECOGNITION
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.keyed_rng import keyed_rng
from kubeface.runtime.progress import Progress
from kubeface.tables.row_index import RowIndex


@dataclass
class Best:
    """Figures of the best epoch so far; None where there are no validation images."""

    epoch: int = 0
    val_loss: float | None = None
    val_accuracy: float | None = None
    val_auc: float | None = None


@dataclass
class Position:
    """Where a training stands: in which stage, after how many of its epochs, after how many steps of the next."""

    stage: int
    epoch: int = 0
    step: int = 0
    loss: float = 0.0  # sums over the images of the unfinished epoch
    right: float = 0
    seen: int = 0
    seconds: float = 0.0
    without_gain: int = 0
    best: Best = field(default_factory=Best)
    history: list[Row] = field(default_factory=list)
    accumulate: int = 1
    scaler: dict[str, Any] = field(default_factory=dict)


class Learner(nn.Module):
    """Backbone and head as one module, as DistributedDataParallel wants them."""

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (N×D) and logits with margin (N×classes) of prepared crops."""
        embeddings = self.network(images)
        return embeddings, self.head(embeddings, labels)


class Trainer:
    """One training.

    Args:
        settings: all of them.
        model: the model to start from; its network is trained in place.
        data: what to train and validate on.
        degradation: put on training and validation crops.
        seed: of everything random.
        group: the processes that train together.
        workers: DataLoader processes, 0 for none.
        checkpoints: where to write them; None in all processes but the main one.
        restored: tensors and position of a `last` checkpoint to go on from.
    """

    def __init__(
        self,
        settings: Settings,
        model: FaceModel,
        data: Data,
        degradation: Degradation,
        seed: int,
        group: Group,
        workers: int,
        checkpoints: Checkpoints | None,
        restored: tuple[State, dict[str, Any]] | None,
    ) -> None:
        self.settings, self.model, self.data, self.degradation = settings, model, data, degradation
        self.seed, self.group, self.workers, self.checkpoints = seed, group, workers, checkpoints
        self.device = next(model.network.parameters()).device
        self.stages = settings.stages(data.task)
        amp = settings.amp
        if amp == "auto":
            amp = "off" if self.device.type == "cpu" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        self.autocast = torch.autocast(
            self.device.type, torch.float16 if amp == "fp16" else torch.bfloat16, enabled=amp != "off"
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")

        scratch = settings.strategy == "scratch"
        self.teacher: nn.Module | None = None
        if settings.distill > 0 and not scratch and 2 in self.stages:
            # The starting model stays as it is; the one that is trained is a copy of it.
            self.teacher = copy.deepcopy(model.network).requires_grad_(False)
        self.start = plain_state(self._plain(model.network))
        if scratch:
            torch.manual_seed(seed)
            known = backbone_named(model.backbone)
            fresh = known.build_for(self.start) if known.build_for else known.build()
            model.network = fresh.to(self.device).to(memory_format=torch.channels_last)
        self.network = self._plain(model.network)
        # What a backbone itself never trains, such as the fixed scale behind insightface's embeddings, stays so.
        self.trainable = {id(p) for p in self.network.parameters() if p.requires_grad}
        self.average: AveragedModel | None = None
        self.objective: OneOfMany | Attributes
        if data.task == ATTRIBUTES:
            self.objective = Attributes(settings, data, model.embedding_size, self.device)
        else:
            self.objective = OneOfMany(settings, data, self._centres(scratch, restored is not None))
        self.head = self.objective.head
        self.factors = repeat_factors(data.targets[data.train.labels]) if data.task == ATTRIBUTES else None
        self.restored = restored[0] if restored else None
        self.position = _position(restored[1]) if restored else Position(self.stages[0])
        self.position.accumulate = max(self.position.accumulate, settings.accumulate)

    def fit(self, mlflow: Mlflow) -> None:
        """Trains through all stages."""
        for stage in self.stages:
            if stage >= self.position.stage:
                self._begin(stage)
                self._train_stage(stage, mlflow)

    @staticmethod
    def _plain(network: nn.Module) -> nn.Module:
        """The network that is trained: of a guarded model the one for degraded crops."""
        return network.tuned if isinstance(network, QualityRouted) else network

    # --- stages -----------------------------------------------------------------------------------------------------

    def _begin(self, stage: int) -> None:
        """Freezes what the stage does not train, and makes optimizer and average, as `last` has them if it is there."""
        if self.position.stage != stage:
            self.position = Position(
                stage, best=self.position.best, history=self.position.history, accumulate=self.position.accumulate
            )
        settings = self.settings
        parts = trained_parts(self.network, settings) if stage == 2 else []
        trained = {id(p) for part in parts for p in part.parameters()} & self.trainable
        adapters: list[nn.Parameter] = []
        if stage == 2 and settings.strategy == "lora":
            torch.manual_seed(self.seed)
            self.network = add_adapters(self.network, settings)
            adapters = [p for p in self.network.parameters() if p.requires_grad]
            parts = []
        else:
            for parameter in self.network.parameters():
                parameter.requires_grad_(id(parameter) in trained)
        self.parts: list[Part] = parts
        self.optimizer = make_optimizer(
            parts,
            adapters,
            self.head,
            settings.lr,
            settings.head_lr if stage == 1 else settings.lr * settings.head_factor,
            settings,
        )
        if stage == 2 and settings.ema > 0:
            self.average = AveragedModel(
                self.network,
                multi_avg_fn=get_ema_multi_avg_fn(settings.ema),  # type: ignore[no-untyped-call]
                use_buffers=True,
            ).requires_grad_(False)
        if self.restored is not None:
            self._restore(self.restored)
            self.restored = None
        if settings.compile:
            self.network.compile()
        self.learner: nn.Module = Learner(self.network, self.head)
        if self.group.size > 1:
            self.learner = DistributedDataParallel(
                self.learner, device_ids=[self.device] if self.device.type == "cuda" else None
            )

    def _restore(self, state: State) -> None:
        self.network.load_state_dict(part("network", state) or part("backbone", state))
        self.head.load_state_dict(part("head", state))
        if self.average is not None and (average := part("average", state)):
            self.average.load_state_dict(average)
        self.scaler.load_state_dict(self.position.scaler)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        kept: dict[int, dict[str, Tensor]] = {}
        for name, value in part("optimizer", state).items():
            number, _, key = name.partition(".")
            # torch's fused optimizers on the CPU go through memory and take it for granted that the moments lie there
            # as their parameter does: channels last.
            alike = torch.empty_like(trained[int(number)], dtype=value.dtype) if value.dim() else torch.empty(())
            kept.setdefault(int(number), {})[key] = alike.copy_(value)
        self.optimizer.load_state_dict({"state": kept, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def _train_stage(self, stage: int, mlflow: Mlflow) -> None:
        settings, position = self.settings, self.position
        epochs = settings.head_epochs if stage == 1 else settings.epochs
        patience = settings.patience if stage == self.stages[-1] else settings.head_patience
        sampler = self._batches(stage)
        crops = FaceCrops(
            self.data.train,
            self.degradation,
            self.seed,
            augmentation(settings),
            settings.degrade,
            clean=self.teacher is not None and stage == 2,
            aware=self._label_aware(),
        )
        loader = DataLoader(crops, batch_sampler=sampler, persistent_workers=self.workers > 0, **self._loading())
        while position.epoch < epochs and not (patience and position.without_gain >= patience):
            label = f"finetune: stage {stage} epoch {position.epoch + 1}/{epochs}"
            sampler.set_epoch(len(position.history) + 1, position.step)
            rates = self._set_rate(0, len(sampler), epochs)
            self._train_epoch(loader, len(sampler), sampler.images, epochs, label)
            self._end_epoch(stage, label, rates, sampler.images, mlflow)
            if patience and position.without_gain >= patience:
                ended = "stopped early" if stage == self.stages[-1] else f"stage {stage} ends early"
                self._say(f"finetune: {ended}, {settings.monitor} has not improved for {patience} epochs")

    def _batches(self, stage: int) -> Batches:
        """The batches of a stage."""
        settings = self.settings
        statistics = stage == 2 and (not settings.freeze_batch_norm or settings.strategy == "scratch")
        self.least = 2 if statistics else 1  # of one image batch norm learns nothing
        return Batches(
            self.data.train,
            settings.batch_size,
            self.seed,
            settings.balance,
            self.group.rank,
            self.group.size,
            least=self.least,
            factors=self.factors if settings.balance == "sampler" else None,
        )

    def _label_aware(self) -> LabelAware | None:
        """What labels make of the augmentation, where the settings ask for it."""
        if not self.settings.label_aware or self.factors is None:
            return None
        rare = np.zeros(len(self.data.targets), bool)
        rare[self.data.train.labels] = self.factors > 1
        return LabelAware(augmentation(self.settings), self.data.labels, self.data.targets, rare)

    def drawn(self) -> NDArray[np.int64]:
        """The training images that the first epoch draws, by index, each as often as it comes."""
        sampler = self._batches(self.stages[0])
        sampler.set_epoch(1)
        return sampler.drawn()

    def _set_rate(self, step: int, steps: int, epochs: int) -> tuple[float, float]:
        """Sets the rates for a step of the current epoch; returns the backbone's and the head's."""
        factor = rate_factor(self.settings, self.position.epoch * steps + step, steps, epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * factor
        groups = self.optimizer.param_groups
        head = {id(p) for p in self.head.parameters()}
        backbone = [group["lr"] for group in groups if id(group["params"][0]) not in head]
        return max(backbone, default=0.0), groups[-1]["lr"]

    # --- steps ------------------------------------------------------------------------------------------------------

    def _train_epoch(self, loader: DataLoader[Any], steps: int, images: int, epochs: int, label: str) -> None:
        position, start, saved = self.position, time.monotonic(), time.monotonic()
        set_modes(self.network, self.parts, self.settings)
        with self._progress(label, images, quiet_end=True) as progress:
            progress.advance(position.step * self.settings.batch_size)
            for batch in loaded(loader):
                self._set_rate(position.step, steps, epochs)
                whole = min(self.settings.batch_size, images - position.step * self.settings.batch_size)
                loss, right = self._step(self._moved(batch), whole, label)
                position.step += 1
                position.loss += loss
                position.right += right
                position.seen += whole
                progress.advance(whole, f"loss {position.loss / position.seen:.3f}")
                if time.monotonic() - saved > 60 * self.settings.save_minutes:
                    position.seconds += time.monotonic() - start
                    start = saved = time.monotonic()
                    self._save_last()
        position.seconds += time.monotonic() - start

    def _step(self, batch: list[Tensor], whole: int, label: str) -> tuple[float, float]:
        """One step of the optimizer over this process's share of a batch of `whole` images: sum of the losses over the
        whole batch, and how many were right."""
        position = self.position
        # What dropout draws depends on the step alone, so that a resumed training draws the same.
        torch.manual_seed(int(keyed_rng(self.seed, "step", len(position.history), position.step).integers(2**62)))
        if self.group.size > 1 and position.step == 0:
            with self.learner.no_sync():  # type: ignore[operator]
                self._gradients(batch, whole, label)
            if (most := max(self.group.gather(position.accumulate))) > position.accumulate:
                self._compute_in_parts(most, label)
        loss, right = self._gradients(batch, whole, label)
        if self.settings.clip_norm > 0:
            self.scaler.unscale_(self.optimizer)
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)
        loss, right = self.group.sum(torch.tensor([loss, right], dtype=torch.float64)).tolist()
        return loss, right

    def _gradients(self, batch: list[Tensor], whole: int, label: str) -> tuple[float, float]:
        """Gradients of a batch; where memory does not suffice, in half as large parts from then on.

        The parts' gradients add up to those of the batch, so that nothing changes but the memory.
        """
        position = self.position
        while True:
            try:
                return self._accumulated(batch, whole, label)
            except RuntimeError as error:
                # Under several processes the others would wait for this one's gradients: only the trial run may fail.
                syncing = self.group.size > 1 and self.learner.require_backward_grad_sync
                if not _out_of_memory(error) or syncing:
                    raise
            require(
                position.accumulate < len(batch[-1]) // self.least,
                f"{label}: out of memory with {self.least} image{'s' * (self.least > 1)} at a time: give the step more "
                "memory",
            )
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._compute_in_parts(2 * position.accumulate, label)

    def _compute_in_parts(self, count: int, label: str) -> None:
        self.position.accumulate = count
        self._say(
            f"{label}: out of memory, batches of {self.settings.batch_size} are now computed in {count} parts "
            f"(accumulate={count})"
        )

    def _accumulated(self, batch: list[Tensor], whole: int, label: str) -> tuple[float, float]:
        self.optimizer.zero_grad(set_to_none=True)
        total, right = 0.0, 0.0
        count = min(self.position.accumulate, len(batch[-1]) // self.least)
        for number, images in enumerate(zip(*(tensor.tensor_split(count) for tensor in batch), strict=True), 1):
            alone = self.group.size > 1 and number < count
            with self.learner.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                with self.autocast:
                    embeddings, losses = self._losses(images)
                loss = losses.sum()
                total += float(loss.detach())
                if not math.isfinite(total):
                    raise KubefaceError(
                        f"{label}: the loss is {total} in step {self.position.step + 1} at rate "
                        f"{self.optimizer.param_groups[0]['lr']:.2e}: lower the rate{self._last_good()}"
                    )
                # Processes average their gradients; what is wanted is the mean over the images of all of them.
                self.scaler.scale(loss * (self.group.size / whole)).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                right += float(self.objective.right(embeddings.detach(), images[-1]))
        return total, right

    def _losses(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings (N×D) and losses (N) of ([clean crops,] crops, labels)."""
        embeddings, logits = self.learner(self.model.prepare(images[-2]), images[-1])
        losses = self.objective.losses(logits, images[-1])
        if len(images) == 3:
            losses = losses + self.settings.distill * self._distance(embeddings, images[0])
        return embeddings, losses

    def _distance(self, embeddings: Tensor, clean: Tensor) -> Tensor:
        """1 − cosine between embeddings and the starting model's of the clean crops (N)."""
        assert self.teacher is not None  # noqa: S101 - clean crops are only read where there is a teacher
        with torch.no_grad():
            target = self.teacher(self.model.prepare(clean)).float()
        return 1 - cosine_similarity(embeddings.float(), target)

    # --- the end of an epoch ----------------------------------------------------------------------------------------

    def _end_epoch(self, stage: int, label: str, rates: tuple[float, float], images: int, mlflow: Mlflow) -> None:
        position, start = self.position, time.monotonic()
        found = self.validate(self.evaluated())
        if found.val_loss is not None and not math.isfinite(found.val_loss):
            raise KubefaceError(f"{label}: the validation loss is {found.val_loss}: lower the rate{self._last_good()}")
        number = len(position.history) + 1
        row: Row = {
            "epoch": number,
            "stage": stage,
            "train_loss": position.loss / position.seen,
            "train_accuracy": position.right / position.seen,
            "val_loss": found.val_loss,
            "val_accuracy": found.val_accuracy,
            "val_auc": found.val_auc,
            "learning_rate": rates[0],
            "head_learning_rate": rates[1],
            "images_per_second": round(images / max(position.seconds, 1e-9), 1),
            "seconds": round(position.seconds + time.monotonic() - start, 2),
        }
        better = self._better(found)
        if better and stage == 1 and self.data.task != RECOGNITION and self.checkpoints is not None:
            self.checkpoints.save_head(prefixed("head", self.head.state_dict()), number)
        position.best = Best(number, found.val_loss, found.val_accuracy, found.val_auc) if better else position.best
        position.history.append(row)
        position.epoch += 1
        position.step, position.loss, position.right, position.seen, position.seconds = 0, 0.0, 0, 0, 0.0
        position.without_gain = 0 if better else position.without_gain + 1
        self._say(f"{label}: {describe(row)}{', the best so far' if better and found.val_loss is not None else ''}")
        mlflow.epoch(row)
        if self.checkpoints is not None:
            state = prefixed("backbone", self.evaluated_state()) | prefixed("head", self.head.state_dict())
            self.checkpoints.save_epoch(state, number, found.val_accuracy, better)
        self._save_last()

    def _better(self, found: Best) -> bool:
        best = self.position.best
        # Where only strangers are validated there is no loss to go by.
        if self.settings.monitor == "val_accuracy" and found.val_accuracy is not None:
            return best.val_accuracy is None or found.val_accuracy > best.val_accuracy
        if found.val_auc is not None and (self.settings.monitor == "val_auc" or found.val_loss is None):
            return best.val_auc is None or found.val_auc > best.val_auc
        return found.val_loss is None or best.val_loss is None or found.val_loss < best.val_loss

    def _save_last(self) -> None:
        """Writes all that is needed to go on from here."""
        if self.checkpoints is None:
            return
        require(
            all(bool(torch.isfinite(p).all()) for p in self.network.parameters()),
            f"the weights are no longer finite: lower the rate{self._last_good()}",
        )
        state = prefixed("backbone", self.evaluated_state()) | prefixed("head", self.head.state_dict())
        if self.average is not None or self.settings.strategy == "lora":
            state |= prefixed("network", self.network.state_dict())
        if self.average is not None:
            state |= prefixed("average", self.average.state_dict())
        for number, values in self.optimizer.state_dict()["state"].items():
            kept = {key: value for key, value in values.items() if isinstance(value, Tensor)}
            state |= prefixed(f"optimizer.{number}", kept)
        self.position.scaler = self.scaler.state_dict()
        self.checkpoints.save_last({name: value.clone() for name, value in state.items()}, asdict(self.position))

    def _last_good(self) -> str:
        if self.checkpoints is None or not (self.checkpoints.folder / LAST).is_file():
            return ""
        return f"; the last good checkpoint is {self.checkpoints.folder / LAST}"

    # --- measuring --------------------------------------------------------------------------------------------------

    def evaluated(self) -> nn.Module:
        """The network that is measured and kept: the average where there is one."""
        return self.average.module if self.average is not None else self.network

    def evaluated_state(self) -> State:
        """Its weights, adapters merged."""
        return plain_state(self.evaluated())

    def unwrapped(self) -> nn.Module:
        """The trained network without adapters, average and compilation, to put weights into."""
        self.network = merged(self.network)
        self.network._compiled_call_impl = None  # a compiled network cannot be exported
        return self.network

    @torch.no_grad()
    def validate(self, network: nn.Module) -> Best:
        """Loss and accuracy over the validation images with a known label, and the task's AUC over all of them."""
        if not len(self.data.val):
            return Best()
        network.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        kept: list[NDArray[np.float32]] = []
        seen: list[NDArray[np.int64]] = []
        for clean, bad, labels in self.in_order(self.data.val, self.degradation):
            with self.autocast:
                embeddings = network(self.model.prepare(bad)).float()
            kept.append(self.objective.evidence(embeddings).cpu().numpy())
            seen.append(labels.cpu().numpy())
            known = self.objective.known(labels)
            if known.any():
                embeddings, labels = embeddings[known], labels[known]
                losses = self.objective.losses(self.head(embeddings, labels), labels)
                if self.teacher is not None:
                    losses = losses + self.settings.distill * self._distance(embeddings, clean[known])
                right = self.objective.right(embeddings, labels)
                sums += torch.stack([losses.double().sum(), right.double(), known.double().sum()]).cpu()
        sums = self.group.sum(sums)
        loss, right, count = sums.tolist()
        auc = self._auc(kept, seen)
        return Best(0, loss / count, right / count, auc) if count else Best(val_auc=auc)

    def auc(self, network: nn.Module, degradation: Degradation) -> float | None:
        """The task's AUC over the validation images under a degradation."""
        kept, seen = [], []
        with torch.no_grad():
            for _, bad, labels in self.in_order(self.data.val, degradation):
                embeddings = network.eval()(self.model.prepare(bad)).float()
                kept.append(self.objective.evidence(embeddings).cpu().numpy())
                seen.append(labels.cpu().numpy())
        return self._auc(kept, seen)

    def _auc(self, kept: list[NDArray[np.float32]], seen: list[NDArray[np.int64]]) -> float | None:
        """The task's AUC over all processes' images, in the order that one process has them in.

        Args:
            kept: the objective's evidence of this process's batches, of which there may be none.
            seen: the label of each.
        """
        shares = [share for share in self.group.gather((kept, seen)) if share[0]]
        every = [(np.concatenate(evidence), np.concatenate(labels)) for evidence, labels in shares]
        order = np.argsort(np.concatenate([r + self.group.size * np.arange(len(p)) for r, (_, p) in enumerate(every)]))
        evidence = np.concatenate([e for e, _ in every])[order]
        return self.objective.auc(evidence, np.concatenate([p for _, p in every])[order])

    def _centres(self, scratch: bool, restored: bool) -> Tensor:
        """Where the head's class centres start, classes×D: at the classes' means, where a backbone has learnt some."""
        shape = len(self.data.identities), self.model.embedding_size
        if scratch:
            noise = keyed_rng(self.seed, "centres").standard_normal(shape, dtype=np.float32)
            return normalize(torch.from_numpy(noise)).to(self.device)
        # What was restored takes their place.
        return torch.ones(shape, device=self.device) if restored else self._class_means()

    def _class_means(self) -> Tensor:
        """Mean unit embedding of each person's clean training crops, classes×D."""
        sums = torch.zeros(len(self.data.identities), self.model.embedding_size, device=self.device)
        self.model.network.eval()
        total = len(InOrder(len(self.data.train), self.group.rank, self.group.size))
        with torch.no_grad(), self._progress("finetune: class means", total) as progress:
            for crops, _, labels in self.in_order(self.data.train, Degradation()):
                with self.autocast:
                    embeddings = self.model.network(self.model.prepare(crops))
                sums.index_add_(0, labels, normalize(embeddings.float()))
                progress.advance(len(labels))
        return normalize(self.group.sum(sums))

    def in_order(self, found: RowIndex, degradation: Degradation) -> Iterator[list[Tensor]]:
        """Batches of (clean crops, degraded crops, labels) of this process's share, without augmentation."""
        crops = FaceCrops(found, degradation, self.seed)
        sampler = InOrder(len(found), self.group.rank, self.group.size)
        size = max(1, self.settings.batch_size // self.group.size)
        for batch in loaded(DataLoader(crops, batch_size=size, sampler=sampler, **self._loading())):
            yield self._moved(batch)

    def _loading(self) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        prefetch = {"prefetch_factor": 4} if self.workers else {}
        return {"collate_fn": collate, "num_workers": self.workers, "pin_memory": cuda, **prefetch}

    def _moved(self, batch: list[Tensor]) -> list[Tensor]:
        return [tensor.to(self.device, non_blocking=True) for tensor in batch]

    def _progress(self, label: str, total: int, quiet_end: bool = False) -> Progress:
        """Progress that one process alone tells of."""
        if self.group.main:
            return Progress(label, total, quiet_end=quiet_end)
        return Progress(label, total, interval=math.inf, quiet_end=True)

    def _say(self, line: str) -> None:
        if self.group.main:
            print(line, flush=True)


def augmentation(settings: Settings) -> Augmentation:
    """The augmentation that the settings ask for."""
    names = ("flip", "crop", "warp", "jitter", "mix", "greyscale", "blur", "jpeg", "low_resolution", "cutout")
    return Augmentation(**{name: getattr(settings, name) for name in names})


def describe(row: Row) -> str:
    """An epoch in one line."""
    validation = (
        ""
        if row["val_loss"] is None
        else (f", validation loss {row['val_loss']:.4f} accuracy {row['val_accuracy']:.4f}")
    )
    auc = "" if row["val_auc"] is None else f" AUC {row['val_auc']:.4f}"
    return (
        f"loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.4f}{validation}{auc}, rate "
        f"{row['learning_rate']:.2e} head {row['head_learning_rate']:.2e}, {row['images_per_second']:.1f} images/s"
    )


def _position(notes: dict[str, Any]) -> Position:
    return Position(**(notes | {"best": Best(**notes["best"])}))


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether an error is CUDA's or the CPU allocator's word for a lack of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
