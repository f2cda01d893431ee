"""The training loop: stages, epochs, steps and checkpoints; it goes on exactly where it was stopped."""

import copy
import math
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from kubeface.faces.degradation import Degradation
from kubeface.finetune.checkpoints import LAST, Checkpoints, LastNotes, Tensors, part, prefixed
from kubeface.finetune.data import Batches, CropLoader, loaded
from kubeface.finetune.gradients import Gradients, NotFinite
from kubeface.finetune.logs import Mlflow
from kubeface.finetune.objectives import AttributeObjective, ClassificationObjective, Distillation
from kubeface.finetune.state import EpochFigures, TrainingState, Validation
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
from kubeface.finetune.training_data import TrainingSetup
from kubeface.finetune.validation import Validator
from kubeface.models.backbones import backbone_named
from kubeface.models.quality_routing import QualityRouted
from kubeface.records.tasks import ATTRIBUTES, RECOGNITION
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.keyed_rng import keyed_rng
from kubeface.runtime.progress import Progress


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
        checkpoints: where to write them; None in all processes but the main one.
        restored: tensors and notes of a `last` checkpoint to go on from.
    """

    def __init__(
        self, setup: TrainingSetup, checkpoints: Checkpoints | None, restored: tuple[Tensors, LastNotes] | None
    ) -> None:
        self.setup, self.checkpoints = setup, checkpoints
        options, model = setup.options, setup.model
        self.device = next(model.network.parameters()).device
        self.loader = CropLoader(setup, self.device)
        self.stages = options.stages()
        self._set_precision()
        scratch = options.strategy == "scratch"
        self.distillation: Distillation | None = None
        if options.distill > 0 and not scratch and 2 in self.stages:
            # The starting model stays as it is; the one that is trained is a copy of it.
            teacher = copy.deepcopy(model.network).requires_grad_(False)
            self.distillation = Distillation(teacher, model, options.distill)
        self.start = plain_state(_trained_network(model.network))
        if scratch:
            torch.manual_seed(options.seed)
            known = backbone_named(model.backbone)
            fresh = known.build_for(self.start) if known.build_for else known.build()
            model.network = fresh.to(self.device).to(memory_format=torch.channels_last)
        self.network = _trained_network(model.network)
        # What a backbone itself never trains, such as the fixed scale behind insightface's embeddings, stays so.
        self.trainable = {id(p) for p in self.network.parameters() if p.requires_grad}
        self.average: AveragedModel | None = None
        self.objective: ClassificationObjective | AttributeObjective
        if setup.data.task == ATTRIBUTES:
            self.objective = AttributeObjective(options, setup.data, model.embedding_size, self.device)
        else:
            centres = self._centres(scratch, restored is not None)
            self.objective = ClassificationObjective(options, setup.data, centres)
        self.head = self.objective.head
        self.validator = Validator(setup, self.loader, self.objective, self.distillation, self.autocast)
        self.restored = restored[0] if restored else None
        self.state = restored[1].position if restored else TrainingState(self.stages[0])
        self.state.accumulate = max(self.state.accumulate, options.accumulate)

    def _set_precision(self) -> None:
        amp = self.setup.options.amp
        if amp == "auto":
            amp = "off" if self.device.type == "cpu" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        precision = torch.float16 if amp == "fp16" else torch.bfloat16
        self.autocast = torch.autocast(self.device.type, precision, enabled=amp != "off")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")

    def fit(self, mlflow: Mlflow) -> None:
        """Trains through all stages.

        Raises:
            KubefaceError: a loss or weight that is not finite, or too little memory.
        """
        try:
            for stage in self.stages:
                if stage >= self.state.stage:
                    self._begin(stage)
                    self._train_stage(stage, mlflow)
        except NotFinite as error:
            if self.checkpoints is None or not self.checkpoints.has_last():
                raise
            raise KubefaceError(f"{error}; the last good checkpoint is {self.checkpoints.folder / LAST}") from error

    # --- stages -----------------------------------------------------------------------------------------------------

    def _begin(self, stage: int) -> None:
        """Freezes what the stage does not train, and makes optimizer and average, as `last` has them if it is there."""
        if self.state.stage != stage:
            self.state = self.state.next_stage(stage)
        options = self.setup.options
        adapters = self._freeze(stage)
        head_rate = options.head_lr if stage == 1 else options.lr * options.head_factor
        self.optimizer = make_optimizer(self.parts, adapters, self.head, options.lr, head_rate, options)
        if stage == 2 and options.ema > 0:
            self.average = AveragedModel(
                self.network,
                multi_avg_fn=get_ema_multi_avg_fn(options.ema),  # type: ignore[no-untyped-call]
                use_buffers=True,
            ).requires_grad_(False)
        if self.restored is not None:
            self._restore(self.restored)
            self.restored = None
        if options.compile:
            self.network.compile()
        learner: nn.Module = Learner(self.network, self.head)
        if self.setup.group.size > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            learner = DistributedDataParallel(learner, device_ids=devices)
        self.gradients = Gradients(
            self.setup, learner, self.objective, self.distillation, self.optimizer, self.scaler, self.autocast,
            self._least_images(stage),
        )  # fmt: skip

    def _freeze(self, stage: int) -> list[nn.Parameter]:
        """Makes what the stage trains trainable: `parts` of the network, or the adapters that it returns."""
        options = self.setup.options
        self.parts: list[Part] = trained_parts(self.network, options) if stage == 2 else []
        if stage == 2 and options.strategy == "lora":
            torch.manual_seed(options.seed)
            self.network = add_adapters(self.network, options)
            self.parts = []
            return [p for p in self.network.parameters() if p.requires_grad]
        trained = {id(p) for part in self.parts for p in part.parameters()} & self.trainable
        for parameter in self.network.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        return []

    def _least_images(self, stage: int) -> int:
        """Images that a process needs in a batch: of one alone batch norm learns nothing."""
        options = self.setup.options
        statistics = stage == 2 and (not options.freeze_batch_norm or options.strategy == "scratch")
        return 2 if statistics else 1

    def _restore(self, state: Tensors) -> None:
        self.network.load_state_dict(part("network", state) or part("backbone", state))
        self.head.load_state_dict(part("head", state))
        if self.average is not None and (average := part("average", state)):
            self.average.load_state_dict(average)
        self.scaler.load_state_dict(self.state.scaler)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in part("optimizer", state).items():
            number, _, key = name.partition(".")
            # torch's fused optimizers on the CPU go through memory and take it for granted that the moments lie there
            # as their parameter does: channels last.
            alike = torch.empty_like(trained[int(number)], dtype=value.dtype) if value.dim() else torch.empty(())
            moments.setdefault(int(number), {})[key] = alike.copy_(value)
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def _train_stage(self, stage: int, mlflow: Mlflow) -> None:
        options, state = self.setup.options, self.state
        epochs = options.head_epochs if stage == 1 else options.epochs
        patience = options.patience if stage == self.stages[-1] else options.head_patience
        sampler = self.loader.batches(self._least_images(stage))
        loader = self.loader.training(sampler, clean=self.distillation is not None and stage == 2)
        while state.epoch < epochs and not (patience and state.without_gain >= patience):
            label = f"finetune: stage {stage} epoch {state.epoch + 1}/{epochs}"
            sampler.set_epoch(len(state.history) + 1, state.step)
            rates = self._set_rate(0, len(sampler), epochs)
            self._train_epoch(loader, sampler, epochs, label)
            self._end_epoch(label, rates, sampler.images, mlflow)
            if patience and state.without_gain >= patience:
                ended = "stopped early" if stage == self.stages[-1] else f"stage {stage} ends early"
                self.setup.announce(f"finetune: {ended}, {options.monitor} has not improved for {patience} epochs")

    def drawn(self) -> NDArray[np.int64]:
        """The training images that the first epoch draws, by index, each as often as it comes."""
        sampler = self.loader.batches(self._least_images(self.stages[0]))
        sampler.set_epoch(1)
        return sampler.drawn()

    def _set_rate(self, step: int, steps: int, epochs: int) -> tuple[float, float]:
        """Sets the rates for a step of the current epoch; returns the backbone's and the head's."""
        factor = rate_factor(self.setup.options, self.state.epoch * steps + step, steps, epochs)
        groups = self.optimizer.param_groups
        for group in groups:
            group["lr"] = group["base"] * factor
        head = {id(p) for p in self.head.parameters()}
        backbone = [group["lr"] for group in groups if id(group["params"][0]) not in head]
        return max(backbone, default=0.0), groups[-1]["lr"]

    # --- steps ------------------------------------------------------------------------------------------------------

    def _train_epoch(self, loader: DataLoader[Any], sampler: Batches, epochs: int, label: str) -> None:
        state, options = self.state, self.setup.options
        start = saved = time.monotonic()
        set_modes(self.network, self.parts, options)
        with self._progress(label, sampler.images, quiet_end=True) as progress:
            progress.advance(state.step * options.batch_size)
            for batch in loaded(loader):
                self._set_rate(state.step, len(sampler), epochs)
                whole = min(options.batch_size, sampler.images - state.step * options.batch_size)
                loss, correct = self._step(self.loader.moved(batch), whole, label)
                state.step += 1
                state.loss += loss
                state.correct += correct
                state.seen += whole
                progress.advance(whole, f"loss {state.loss / state.seen:.3f}")
                if time.monotonic() - saved > 60 * options.save_minutes:
                    state.seconds += time.monotonic() - start
                    start = saved = time.monotonic()
                    self._save_last()
        state.seconds += time.monotonic() - start

    def _step(self, batch: list[Tensor], whole: int, label: str) -> tuple[float, float]:
        """One step of the optimizer, given this process's share of a batch of `whole` images: [clean crops,] crops,
        labels. Returns the sum of the losses over the whole batch, and how many images were right."""
        state, options = self.state, self.setup.options
        # What dropout draws depends on the step alone, so that a resumed training draws the same.
        torch.manual_seed(int(keyed_rng(options.seed, "step", len(state.history), state.step).integers(2**62)))
        if self.setup.group.size > 1 and state.step == 0:
            self.gradients.agree_on_parts(batch, whole, label, state)
        loss, correct = self.gradients.compute(batch, whole, label, state)
        if options.clip_norm > 0:
            self.scaler.unscale_(self.optimizer)
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, options.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)
        loss, correct = self.setup.group.sum(torch.tensor([loss, correct], dtype=torch.float64)).tolist()
        return loss, correct

    # --- the end of an epoch ----------------------------------------------------------------------------------------

    def _end_epoch(self, label: str, rates: tuple[float, float], images: int, mlflow: Mlflow) -> None:
        state, start = self.state, time.monotonic()
        measured = self.validator.validate(self.evaluated())
        if measured.val_loss is not None and not math.isfinite(measured.val_loss):
            raise NotFinite(f"{label}: the validation loss is {measured.val_loss}: lower the rate")
        number = len(state.history) + 1
        figures = EpochFigures(
            number, state.stage, state.loss / state.seen, state.correct / state.seen,
            measured.val_loss, measured.val_accuracy, measured.val_auc, *rates,
            images_per_second=round(images / max(state.seconds, 1e-9), 1),
            seconds=round(state.seconds + time.monotonic() - start, 2),
        )  # fmt: skip
        better = self._is_better(measured)
        if better:
            measured.epoch = number
            state.best = measured
        state.end_epoch(figures, better)
        best = ", the best so far" if better and measured.val_loss is not None else ""
        self.setup.announce(f"{label}: {figures}{best}")
        mlflow.epoch(figures)
        self._save_epoch(measured, number, better)
        self._save_last()

    def _is_better(self, measured: Validation) -> bool:
        best, monitor = self.state.best, self.setup.options.monitor
        # Where only strangers are validated there is no loss to go by.
        if monitor == "val_accuracy" and measured.val_accuracy is not None:
            return best.val_accuracy is None or measured.val_accuracy > best.val_accuracy
        if measured.val_auc is not None and (monitor == "val_auc" or measured.val_loss is None):
            return best.val_auc is None or measured.val_auc > best.val_auc
        return measured.val_loss is None or best.val_loss is None or measured.val_loss < best.val_loss

    def _save_epoch(self, measured: Validation, number: int, better: bool) -> None:
        """Writes the weights after an epoch, and the head alone after the best one of a stage 1."""
        if self.checkpoints is None:
            return
        if better and self.state.stage == 1 and self.setup.data.task != RECOGNITION:
            self.checkpoints.save_head(prefixed("head", self.head.state_dict()), number)
        self.checkpoints.save_epoch(self._evaluated_tensors(), number, measured.val_accuracy, better)

    def _evaluated_tensors(self) -> Tensors:
        return prefixed("backbone", plain_state(self.evaluated())) | prefixed("head", self.head.state_dict())

    def _save_last(self) -> None:
        """Writes all that is needed to go on from here."""
        if self.checkpoints is None:
            return
        if not all(bool(torch.isfinite(p).all()) for p in self.network.parameters()):
            raise NotFinite("the weights are no longer finite: lower the rate")
        state = self._evaluated_tensors()
        if self.average is not None or self.setup.options.strategy == "lora":
            state |= prefixed("network", self.network.state_dict())
        if self.average is not None:
            state |= prefixed("average", self.average.state_dict())
        for number, values in self.optimizer.state_dict()["state"].items():
            moments = {key: value for key, value in values.items() if isinstance(value, Tensor)}
            state |= prefixed(f"optimizer.{number}", moments)
        self.state.scaler = self.scaler.state_dict()
        self.checkpoints.save_last({name: value.clone() for name, value in state.items()}, self.state)

    def evaluated(self) -> nn.Module:
        """The network that is measured and kept: the average where there is one."""
        return self.average.module if self.average is not None else self.network

    def unwrapped(self) -> nn.Module:
        """The trained network without adapters, average and compilation, to put weights into."""
        self.network = merged(self.network)
        self.network._compiled_call_impl = None  # a compiled network cannot be exported
        return self.network

    # --- class centres ----------------------------------------------------------------------------------------------

    def _centres(self, scratch: bool, restored: bool) -> Tensor:
        """Where the head's class centres start, classes×D: at the classes' means, where a backbone has learnt some."""
        shape = len(self.setup.data.identities), self.setup.model.embedding_size
        if scratch:
            noise = keyed_rng(self.setup.options.seed, "centres").standard_normal(shape, dtype=np.float32)
            return normalize(torch.from_numpy(noise)).to(self.device)
        # What was restored takes their place.
        return torch.ones(shape, device=self.device) if restored else self._class_means()

    def _class_means(self) -> Tensor:
        """Mean unit embedding of each person's clean training crops, classes×D."""
        setup = self.setup
        data, model, group = setup.data, setup.model, setup.group
        sums = torch.zeros(len(data.identities), model.embedding_size, device=self.device)
        model.network.eval()
        total = len(range(group.rank, len(data.train), group.size))
        with torch.no_grad(), self._progress("finetune: class means", total) as progress:
            for crops, _, labels in self.loader.in_order(data.train, Degradation()):
                with self.autocast:
                    embeddings = model.network(model.prepare(crops))
                sums.index_add_(0, labels, normalize(embeddings.float()))
                progress.advance(len(labels))
        return normalize(group.sum(sums))

    def _progress(self, label: str, total: int, quiet_end: bool = False) -> Progress:
        """Progress that one process alone tells of."""
        if self.setup.group.main:
            return Progress(label, total, quiet_end=quiet_end)
        return Progress(label, total, interval=math.inf, quiet_end=True)


def _trained_network(network: nn.Module) -> nn.Module:
    """The network that is trained: of a quality-routed model the one for degraded crops."""
    return network.tuned if isinstance(network, QualityRouted) else network
