"""Fine-tune: a pretrained model on one's own people, labels or classes."""

import copy
import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from kubeface.faces.degradation import Degradation
from kubeface.finetune.checkpoints import Inputs, part
from kubeface.finetune.distributed import Group, processes
from kubeface.finetune.final_model import WITHOUT_PAIRS, assemble, score_heads
from kubeface.finetune.logs import Mlflow
from kubeface.finetune.model_folder import write_model_folder
from kubeface.finetune.objectives import Scores
from kubeface.finetune.options import NOT_FOR, OF_A_RUN, WITHOUT_EFFECT, FinetuneOptions, with_recipe
from kubeface.finetune.promoted import PromotedModel, find_promoted, hand_on
from kubeface.finetune.result import FinetuneResult
from kubeface.finetune.resume import open_checkpoints
from kubeface.finetune.trainer import Trainer
from kubeface.finetune.training_data import TrainingData, TrainingSetup, read_attributes, read_classified
from kubeface.models.model import DETECTOR, TEMPLATE, FaceModel, choose_device, digest, load_start
from kubeface.models.quality_routing import QualityRouted
from kubeface.models.superresolution import BICUBIC, open_enlarger
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION, Task
from kubeface.runtime.errors import require
from kubeface.runtime.processors import cpu_limit
from kubeface.storage.folders import new_folder
from kubeface.tables.table import Table

Decision = Literal["train", "keep"]
NO_DRIFT = "the data have not changed enough for another training"
SAME_TRAINING = "it was trained on this very split with these very options"


def finetune(
    aligned: str | Path,
    split: str | Path,
    out: Path,
    options: FinetuneOptions = FinetuneOptions(),
    champion: str = "",
    decision: Decision = "train",
) -> FinetuneResult:
    """Fine-tunes a model on the training images of a split; under torchrun in several processes.

    Leaves model.safetensors, model.onnx, start.onnx (the starting model, for evaluate), model.json, identities.json,
    checkpoints/, logs/, figures/*.png; for attributes and classes also head.safetensors, labels.json and sampling.json,
    and start.onnx is the starting model with the best head of stage 1. While it runs, checkpoints stand in
    `<out>.checkpoints`; a training that was stopped leaves them there for `resume`.

    Low-resolution images of the table (group `resolution`) are learnt as they are, without the degradation; with
    `distill` they learn the embedding of the sharp image of the same photograph.

    Args:
        aligned: Aligned table; an s3:// prefix is read by ranges while it trains, and not downloaded.
        split: Split table, a folder or an s3:// prefix; its train and val images are used.
        out: Folder to write the model to.
        options: What is trained, from which start, and how.
        champion: Folder of the model's promoted versions, with champion.json in it, a path or s3:// address; empty to
            train in any case. `out` gets a copy of the promoted model where the training would only make it once more.
        decision: Of audit: train, or keep to hand on the promoted model where there is one.

    Raises:
        KubefaceError: options that contradict each other, corrupt tables or weights, nobody to train on, a checkpoint
            of another training, or a loss that is not finite.
    """
    options = with_recipe(options)
    enlarger = None if options.superresolver == BICUBIC else open_enlarger(options.superresolver)
    degradation = Degradation.parse(options.degradation, enlarger)
    require(not out.exists() or (out.is_dir() and not any(out.iterdir())), f"{out} exists already: choose another")
    with processes(choose_device(options.device)) as group:
        promoted = group.share(lambda: find_promoted(champion))
        table, divided = Table(aligned, "aligned"), Table(split, "split")
        if promoted and decision == "keep" and _can_be_judged(promoted, options.task, divided):
            return group.share(lambda: hand_on(promoted, out, NO_DRIFT))
        _prepare_torch(options.seed)
        if options.task == ATTRIBUTES:
            data = read_attributes(table, divided, options.labels, announce=group.main)
        else:
            data = read_classified(table, divided, options.task)
        model, fallback = _load_start(options, table, group)
        _check_feasible(options, degradation, model, data)
        start = _copy(model) if options.onnx and group.main else None
        workers = _workers(options.workers, group)
        setup = TrainingSetup(options, model, data, degradation, group, workers, enlarger, fallback)
        inputs = _inputs(setup, table.sha256, divided.sha256)
        if promoted and promoted.trained_with(inputs):
            return group.share(lambda: hand_on(promoted, out, SAME_TRAINING))
        return _train(setup, inputs, out, start)


def _can_be_judged(promoted: PromotedModel, task: Task, divided: Table) -> bool:
    """Whether the promoted model was trained on nothing that is held out now.

    People stay on their side when data change, but not when the division does. Images of a class do not stay, so a
    classifier is handed on with its own split only.
    """
    if task == CLASSES:
        return promoted.record.training.split == divided.sha256
    rows = divided.columns(["identity", "split"]).to_pylist()
    return not promoted.knows({row["identity"] for row in rows if row["split"] == "heldout"})


def _prepare_torch(seed: int) -> None:
    torch.manual_seed(seed)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, cpu_limit() // local))
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs, and none is read
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = False  # it may choose another algorithm in each run


def _workers(workers: int, group: Group) -> int:
    """On a GPU the processors would otherwise idle; on a CPU they are the ones that train."""
    if workers >= 0 or group.device.type == "cpu":
        return max(workers, 0)
    return min(8, max(1, cpu_limit() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


def _load_start(options: FinetuneOptions, table: Table, group: Group) -> tuple[FaceModel, str]:
    """The model to start from, and what it is instead of the one asked for and why; empty where it is that."""
    manifest = table.manifest
    model, fallback = load_start(
        options.backbone, options.pretrained, options.fallback, group.device, manifest.setting("template", TEMPLATE),
        options.strategy == "scratch",
    )  # fmt: skip
    if fallback and group.main:
        print(f"finetune: {fallback}", flush=True)
    model.detector = manifest.setting("detector", DETECTOR)
    return model, fallback


def _check_feasible(options: FinetuneOptions, degradation: Degradation, model: FaceModel, data: TrainingData) -> None:
    """Refuses before the training what could not be done after it."""
    routed = isinstance(model.network, QualityRouted)
    require(
        data.task == RECOGNITION or not routed,
        f"{model.start} is a quality-routed model: task {data.task} starts from one without a guard",
    )
    stays_routed = options.guard or (routed and options.strategy != "scratch")
    require(
        not stays_routed or bool(degradation) or len(data.train.low()) > 0,
        "guard needs a degradation to tell clean crops from: set degradation, or give pairs of low and high images",
    )
    sizes = np.unique(data.val.labels, return_counts=True)[1]
    require(options.wise_ft != "auto" or (len(sizes) > 1 and max(sizes) > 1), WITHOUT_PAIRS)


def _inputs(setup: TrainingSetup, aligned: str, split: str) -> Inputs:
    """Everything that decides the outcome of the training, by name, given the SHA-256 of the tables.

    Raises:
        KubefaceError: the processes start from different weights, as where one could fetch what another could not.
    """
    options, data, model = setup.options, setup.data, setup.model
    started = digest(model.network)
    require(
        set(setup.group.gather(started)) == {started},
        f"the processes start from different weights, this one from {model.start}: see that each can fetch them",
    )
    # Those of a run are told below, where they decide anything.
    settings = options.model_dump(mode="json", exclude={*OF_A_RUN, *WITHOUT_EFFECT, *NOT_FOR[data.task]})
    return {
        "backbone": model.backbone,
        "start_sha256": started,
        "identities": hashlib.sha256("\n".join(data.identities).encode()).hexdigest(),
        "aligned": aligned,
        "split": split,
        "degradation": str(setup.degradation),
        "seed": options.seed,
        **settings,
        **({} if data.task == RECOGNITION else {"task": data.task, "labels": list(data.labels)}),
        **({"superresolver": setup.enlarger.name} if setup.enlarger else {}),
    }


def _train(setup: TrainingSetup, inputs: Inputs, out: Path, start: FaceModel | None) -> FinetuneResult:
    """Trains, and writes the model folder in the main process; `start` is a copy of the starting model to export."""
    group, options, task = setup.group, setup.options, setup.data.task
    store = open_checkpoints(Path(f"{out}.checkpoints"), options, inputs) if group.main else None
    restored = group.share(lambda: store.last() if store is not None and store.has_last() else None)
    mlflow = Mlflow(inputs, group.main)
    try:
        trainer = Trainer(setup, store, restored)
        if task != RECOGNITION and options.strategy == "scratch" and start is not None:
            start = _copy(setup.model)  # what published weights are worth is for another training to say
        initial = Scores(trainer.head, task == ATTRIBUTES)
        trainer.fit(mlflow)
    except BaseException:
        if store is not None and not store.has_last():
            shutil.rmtree(store.folder, ignore_errors=True)
        raise
    best = group.share(lambda: store.best() if store is not None else {})
    assembly = assemble(trainer, part("backbone", best))
    if store is not None:
        heads = None if task == RECOGNITION else score_heads(trainer, store, best, initial)
        with new_folder(out) as folder:
            write_model_folder(folder, trainer, store, assembly, start, heads)
            mlflow.end(folder)
        shutil.rmtree(store.folder)
    data, reached = setup.data, trainer.state.best
    return FinetuneResult(
        rows_in=len(data.train) + len(data.val),
        rows_out=len(data.train),
        trained=1,
        identities=len(data.identities),
        labels=len(data.labels),
        epochs=len(trainer.state.history),
        best_epoch=reached.epoch,
        val_loss=reached.val_loss,
        val_accuracy=reached.val_accuracy,
        val_auc=reached.val_auc,
    )


def _copy(model: FaceModel) -> FaceModel:
    """A copy of the model in main memory, since its network is trained in place."""
    return replace(model, network=copy.deepcopy(model.network).cpu())
