"""Fine-tune: a pretrained model on one's own people, labels or classes."""

import copy
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from kubeface import __version__
from kubeface.faces.degradation import Degradation
from kubeface.faces.mtcnn_networks import write_mtcnn
from kubeface.faces.mtcnn_onnx import MTCNN_FILE
from kubeface.finetune.checkpoints import BEST, HEAD, LAST, Checkpoints, State, part
from kubeface.finetune.data import Data, FaceCrops
from kubeface.finetune.distributed import Group, processes
from kubeface.finetune.export import export_models
from kubeface.finetune.figures import draw_augmentations, draw_distribution, draw_history
from kubeface.finetune.keeping import GATE_CROPS, choose_alpha, fine_structure_of, fit_guard, interpolated
from kubeface.finetune.logs import Mlflow, write_history
from kubeface.finetune.objectives import Scores
from kubeface.finetune.settings import NOT_FOR, WITHOUT_EFFECT, Settings, read_settings
from kubeface.finetune.training import Trainer, augmentation
from kubeface.models.model import DETECTOR, TEMPLATE, FaceModel, choose_device, digest, load_start, save_model
from kubeface.models.quality_routing import QualityRouted
from kubeface.models.superresolution import BICUBIC, Enlarger, open_enlarger
from kubeface.records.model import SuperresolutionRecord, TrainingRecord
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION, Task
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.processors import cpu_limit
from kubeface.storage import objects
from kubeface.storage.folders import new_folder, sha256_file, write_json
from kubeface.tables.labels import UNKNOWN, choose_labels, read_labels
from kubeface.tables.row_index import RowIndex, row_index
from kubeface.tables.table import Table

FACES_CHECKED = 64
WITHOUT_PAIRS = "wise_ft=auto needs validation images of at least two people, two of one of them: set another wise_ft"


def finetune(
    aligned: str | Path,
    split: str | Path,
    out: Path,
    backbone: str = "sface",
    pretrained: str = "",
    degradation: str = "none",
    recipe: str = "",
    settings: dict[str, Any] = {},  # noqa: B006 - never changed
    checkpoints: str = "",
    resume: str = "",
    device: str = "auto",
    workers: int = -1,
    seed: int = 0,
    task: Task = RECOGNITION,
    labels: str = "",
    fallback: str = "",
    superresolver: str = BICUBIC,
) -> dict[str, Any]:
    """Fine-tunes a model on the training images of a split; under torchrun in several processes.

    The head starts from the mean embedding of each person or class, that of attributes from their frequencies. The best
    checkpoint is the one with the least validation loss (`monitor`); without validation images it is the last one.
    Leaves model.safetensors, model.onnx, start.onnx (the starting model, for evaluate), model.json, identities.json,
    checkpoints/, logs/, figures/*.png; for attributes and classes also head.safetensors, labels.json and sampling.json,
    and start.onnx is the starting model with the best head of stage 1.
    Images that the table calls low (group `resolution`) are learnt as they are, without the degradation; with `distill`
    they learn the embedding of the sharp image of the same photograph.
    While it runs, checkpoints stand in `<out>.checkpoints`; a training that was stopped leaves them there for `resume`.

    Args:
        aligned: Aligned table; an s3:// prefix is read by ranges while it trains, and not downloaded.
        split: Split table, a folder or an s3:// prefix; its train and val images are used.
        out: Folder to write the model to.
        backbone: Name of the architecture, such as sface, iresnet50 or edgeface_xs_gamma_06.
        pretrained: Start from this model folder or weights file (path, s3://, https:// with #sha256=…); empty for
            the published weights.
        degradation: Put on training and validation crops, as noise:60, lowres:14, blur:4, jpeg:5, dark, grey,
            masked, rotated:15 or none.
        recipe: Settings by name (low-resolution, noise) or from a YAML or JSON file; empty for the defaults.
        settings: Settings that go before the recipe's, by name.
        checkpoints: Folder or s3:// prefix that keeps `last` and `best` outside of this machine; the same training
            goes on from there when it is started again.
        resume: Go on exactly from this `last` checkpoint (its folder, path or s3://).
        device: auto, cpu or cuda.
        workers: Processes that read and augment; 0 for none, negative for as many as suit the device.
        seed: Seed of order, augmentation and degradation.
        task: recognition (of people who need not be known yet), attributes (many binary labels at once, out of the
            table's groups) or classes (one of those that the identities are).
        labels: For attributes: which, by name, divided by commas or spaces; empty for all that the table has.
        fallback: Backbone to start from with its published weights, or scratch for random ones, where those asked for
            cannot be fetched; empty to fail then.
        superresolver: What enlarges the few pixels of degradation lowres: bicubic, or a super-resolution network
            (.onnx, .safetensors, TorchScript, or a folder of train_superresolution), which the model folder gets too.

    Returns:
        rows_in, rows_out (images trained on), identities, labels (but for recognition), epochs, best_epoch,
        val_accuracy, val_loss, val_auc.

    Raises:
        KubefaceError: wrong settings, corrupt tables or weights, nobody to train on, a checkpoint of another
            training, or a loss that is not finite.
    """
    chosen = read_settings(recipe, settings, task)
    require(not labels or task == ATTRIBUTES, f"labels is '{labels}': task {task} has none, leave it out")
    enlarger = None if superresolver == BICUBIC else open_enlarger(superresolver)
    bad = Degradation.parse(degradation, enlarger)
    require(0 <= seed < 2**63, f"seed is {seed}: it must lie in 0 to less than 2^63")
    require(not out.exists() or (out.is_dir() and not any(out.iterdir())), f"{out} exists already: choose another")
    with processes(choose_device(device)) as group:
        _prepare_torch(seed)
        table, divided = Table(aligned, "aligned"), Table(split, "split")
        if task == ATTRIBUTES:
            data = _read_attributes(table, divided, labels, group.main)
        else:
            data = _read_split(table, divided, task)
        aligned_with = table.manifest.settings
        template = aligned_with.get("template", TEMPLATE)
        scratch = chosen.strategy == "scratch"
        model, fell_back = load_start(backbone, pretrained, fallback, group.device, template, scratch)
        if fell_back and group.main:
            print(f"finetune: {fell_back}", flush=True)
        model.detector = aligned_with.get("detector", DETECTOR)
        _check(chosen, bad, model, data)
        start = _kept(model) if chosen.onnx and group.main else None
        started = digest(model.network)
        # What one process could fetch and another could not, fallback would make two models of.
        require(
            set(group.gather(started)) == {started},
            f"the processes start from different weights, this one from {model.start}: see that each can fetch them",
        )
        run = {
            "backbone": model.backbone,
            "start_sha256": started,
            "identities": hashlib.sha256("\n".join(data.identities).encode()).hexdigest(),
            "aligned": table.sha256,
            "split": divided.sha256,
            "degradation": str(bad),
            "seed": seed,
            **json.loads(chosen.model_dump_json(exclude={*WITHOUT_EFFECT, *NOT_FOR[task]})),
            **({} if task == RECOGNITION else {"task": task, "labels": list(data.labels)}),
            **({"superresolver": enlarger.name} if enlarger else {}),
        }
        store = _open_checkpoints(Path(f"{out}.checkpoints"), checkpoints, resume, chosen, run) if group.main else None
        there = store is not None and (store.folder / LAST).is_file()
        restored = group.share(store.last() if store is not None and there else None)
        mlflow = Mlflow(run, group.main)
        try:
            trainer = Trainer(chosen, model, data, bad, seed, group, _workers(workers, group), store, restored)
            if task != RECOGNITION and scratch and start is not None:
                start = _kept(model)  # what published weights are worth is for another training to say
            guess = Scores(trainer.head, task == ATTRIBUTES)
            trainer.fit(mlflow)
        except BaseException:
            if store is not None and not (store.folder / LAST).is_file():
                shutil.rmtree(store.folder, ignore_errors=True)
            raise
        best = group.share(store.best() if store is not None else None)
        final, kept = _finish(trainer, chosen, part("backbone", best))
        heads = None if task == RECOGNITION else _scores(trainer, store, best, guess) if store is not None else None
        figures = {
            "rows_in": len(data.train) + len(data.val),
            "rows_out": len(data.train),
            "identities": len(data.identities),
            **({"labels": len(data.labels)} if data.labels else {}),
            "epochs": len(trainer.position.history),
            **{("best_epoch" if k == "epoch" else k): v for k, v in vars(trainer.position.best).items()},
        }
        if store is not None:
            training = run | {
                "producer": f"finetune {__version__}",
                "pretrained": pretrained,
                "recipe": recipe,
                "identities": len(data.identities),
                **({"fallback": fell_back} if fell_back else {}),
                "images": len(data.train),
                "best_epoch": trainer.position.best.epoch,
                "val_loss": trainer.position.best.val_loss,
                "val_accuracy": trainer.position.best.val_accuracy,
                "val_auc": trainer.position.best.val_auc,
                **kept,
                "image": os.environ.get("KUBEFACE_IMAGE"),
                "versions": {
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "torchvision": torchvision.__version__,
                    "numpy": np.__version__,
                },
            }
            with new_folder(out) as folder:
                _write(folder, final, start, trainer, training, heads, enlarger)
                for path in sorted(store.folder.glob("*.safetensors")):
                    shutil.copyfile(path, folder / "checkpoints" / path.name)  # they stay until `out` is whole
                mlflow.end(folder)
            shutil.rmtree(store.folder)
    return figures


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


def _read_split(table: Table, divided: Table, task: Task) -> Data:
    rows = divided.columns(["image_id", "identity", "split"]).to_pylist()
    identities = sorted({row["identity"] for row in rows if row["split"] == "train"})
    what = "classes" if task == CLASSES else "people"
    require(len(identities) >= 2, f"{divided.folder} has {len(identities)} {what} to train on, at least 2 are needed")
    others = sorted({row["identity"] for row in rows if row["split"] == "val"} - set(identities))
    number = {name: index for index, name in enumerate([*identities, *others])}
    found = {
        name: _found(table, divided, {row["image_id"]: number[row["identity"]] for row in rows if row["split"] == name})
        for name in ("train", "val")
    }
    return Data(identities, found["train"], found["val"], task, tuple(identities) if task == CLASSES else ())


def _read_attributes(table: Table, divided: Table, labels: str, tell: bool) -> Data:
    """The images of which a label at least is known; says how many they are where it is to tell."""
    names = choose_labels(table, labels)
    ids, targets = read_labels(table, names)
    some = dict(zip(ids, (targets != UNKNOWN).any(axis=1).tolist(), strict=True))
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    rows = divided.columns(["image_id", "identity", "split"]).to_pylist()
    found: dict[str, RowIndex] = {}
    unknown = 0
    for name in ("train", "val"):
        chosen = [row["image_id"] for row in rows if row["split"] == name]
        unknown += sum(not some.get(image_id, True) for image_id in chosen)
        # An image that the table does not hold stays in, so that it is missed.
        wanted = {image_id: row_of.get(image_id, 0) for image_id in chosen if some.get(image_id, True)}
        found[name] = _found(table, divided, wanted)
    train = found["train"]
    require(len(train) > 0, f"{divided.folder} has no image to train on of which a label is known: label some")
    numbers = set(train.labels.tolist())
    identities = sorted({row["identity"] for row in rows if row_of.get(row["image_id"]) in numbers})
    if tell:
        print(
            f"finetune: {len(names)} labels of {len(train)} images to train on and {len(found['val'])} to validate on; "
            f"{unknown} without a known label left out",
            flush=True,
        )
    return Data(identities, train, found["val"], ATTRIBUTES, tuple(names), targets)


def _found(table: Table, divided: Table, labels: dict[str, int]) -> RowIndex:
    """The places of the images that a split names."""
    found = row_index(table, labels)
    require(
        len(found) == len(labels),
        f"{divided.folder} names images that {table.folder} does not hold: run split on this table",
    )
    return found


def _check(settings: Settings, degradation: Degradation, model: FaceModel, data: Data) -> None:
    """Refuses before the training what could not be done after it."""
    guarded = settings.guard or (isinstance(model.network, QualityRouted) and settings.strategy != "scratch")
    degraded = bool(degradation) or len(data.train.low()) > 0
    require(
        data.task == RECOGNITION or not isinstance(model.network, QualityRouted),
        f"{model.start} is a guarded model: task {data.task} starts from one without a guard",
    )
    require(
        degraded or not guarded,
        "guard needs a degradation to tell clean crops from: set degradation, or give pairs of low and high images",
    )
    sizes = np.unique(data.val.labels, return_counts=True)[1]
    require(settings.wise_ft != "auto" or (len(sizes) > 1 and max(sizes) > 1), WITHOUT_PAIRS)


def _open_checkpoints(folder: Path, durable: str, resume: str, settings: Settings, run: dict[str, Any]) -> Checkpoints:
    """The folder of this training's checkpoints, with the `last` to go on from in it where there is one.

    Raises:
        KubefaceError: checkpoints of a stopped training that nobody asked for, none where some were asked for, or
            those of another training.
    """
    fingerprint = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]
    mirror = objects.join(durable, fingerprint) if durable else ""
    place = resume.removesuffix(f"/{LAST}") or mirror
    store = Checkpoints(folder, mirror, settings.keep_checkpoints, run)
    left = (folder / LAST).is_file()
    if left and resume and not objects.is_s3(place) and objects.local_path(place).resolve() == folder.resolve():
        _same_training(place, store, run)
        return store
    # What was left in the folder stays until something better is found.
    taken = Checkpoints(folder.with_name(f".{folder.name}.partial"), "", 0, run)
    shutil.rmtree(taken.folder, ignore_errors=True)
    taken.folder.mkdir(parents=True)
    try:
        there = bool(place) and taken.take(place)
        require(there or not resume, f"{resume} holds no {LAST}: give the checkpoints of a training that was stopped")
        if there:
            _same_training(place, taken, run)
        if left and not (there and store.notes()["run"] == run):
            raise KubefaceError(f"{folder} is of a training that was stopped: go on with resume={folder} or remove it")
        shutil.rmtree(folder, ignore_errors=True)
        taken.folder.rename(folder)
    finally:
        shutil.rmtree(taken.folder, ignore_errors=True)
    return store


def _same_training(place: str, store: Checkpoints, now: dict[str, Any]) -> None:
    """Says where the training goes on from; refuses another training's checkpoints, and such that are not all there."""
    notes = store.notes()
    then = notes["run"]
    words = {"identities": "people", "aligned": "data (aligned table)", "split": "data (split table)",
             "start_sha256": "starting weights", "labels": "labels"}  # fmt: skip
    for name, value in now.items():
        if then.get(name) != value:
            seen = f"other {words[name]}" if name in words else f"{name} {then.get(name)}, this run has {value}"
            raise KubefaceError(f"{place} is of a training with {seen}: resume goes on with the same training only")
    require(
        notes["position"]["best"]["epoch"] == 0 or (store.folder / BEST).is_file(),
        f"{place} holds {LAST} without {BEST}: give the folder with both",
    )
    labelled = then.get("task", RECOGNITION) != RECOGNITION and then["strategy"] != "scratch"
    require(
        not labelled or not notes["position"]["history"] or (store.folder / HEAD).is_file(),
        f"{place} holds {LAST} without {HEAD}: give the folder with both",
    )
    print(f"finetune: going on from {objects.join(place, LAST)}", flush=True)


def _finish(trainer: Trainer, settings: Settings, best: State) -> tuple[FaceModel, dict[str, Any]]:
    """The model of the best epoch, interpolated and guarded as the settings say, and figures of that."""
    began, network = trainer.model.network, trainer.unwrapped()
    kept: dict[str, Any] = {}

    def use(state: State) -> nn.Module:
        network.load_state_dict(state)
        return network

    def score(state: State) -> float:
        # A dictionary, as all processes must measure in the same order.
        found = [trainer.auc(use(state), kind) for kind in dict.fromkeys((trainer.degradation, Degradation()))]
        require(None not in found, WITHOUT_PAIRS)
        return float(np.mean([value for value in found if value is not None]))

    alpha = settings.wise_ft
    if alpha == "auto":
        alpha, kept["wise_ft_scores"] = choose_alpha(trainer.start, best, score)
    kept["wise_ft_alpha"] = alpha
    use(interpolated(trainer.start, best, float(alpha)))
    if settings.guard or isinstance(began, QualityRouted):
        start = began.start if isinstance(began, QualityRouted) else copy.deepcopy(network)
        if not isinstance(began, QualityRouted):
            start.load_state_dict(trainer.start)
        network, kept["guard"] = _guarded(trainer, start, network)
    trainer.model.network = network.eval().requires_grad_(False)
    return trainer.model, kept


def _scores(trainer: Trainer, store: Checkpoints, best: State, guess: Scores) -> tuple[Scores, Scores]:
    """What makes scores of the final model's embeddings, and of the starting one's.

    Args:
        best: the best epoch's weights.
        guess: of the head at the start, which is all there is from scratch.
    """
    stage = trainer.position.history[trainer.position.best.epoch - 1]["stage"]
    if stage == 1 and 2 in trainer.stages:
        print(
            "finetune: training the backbone did not help on the validation images: the model is the starting "
            f"backbone with the head of epoch {trainer.position.best.epoch}",
            flush=True,
        )

    def scores(state: State) -> Scores:
        trainer.head.load_state_dict(state)
        return Scores(trainer.head, guess.sigmoid)

    return scores(part("head", best)), scores(store.head()) if 1 in trainer.stages else guess


def _guarded(trainer: Trainer, start: nn.Module, tuned: nn.Module) -> tuple[nn.Module, dict[str, float | None]]:
    found: list[Tensor] = []
    for part_of_data in (trainer.data.train, trainer.data.val):
        pairs = list(islice(_structures(trainer, part_of_data), -(-GATE_CROPS // trainer.settings.batch_size)))
        for side in (0, 1):
            shares = trainer.group.gather(fine_structure_of([pair[side] for pair in pairs]).cpu())
            found.append(torch.cat(shares).to(trainer.device))
    return fit_guard(start, tuned, *found)


def _structures(trainer: Trainer, found: RowIndex) -> Iterator[tuple[Tensor, Tensor]]:
    """Crops as they are and degraded, where both are not the same."""
    found = found if trainer.degradation else found.low()
    for clean, bad, _ in trainer.in_order(found, trainer.degradation):
        yield trainer.model.prepare(clean), trainer.model.prepare(bad)


def _kept(model: FaceModel) -> FaceModel:
    """A copy of the model in main memory, since its network is trained in place."""
    return replace(model, network=copy.deepcopy(model.network).cpu())


def _write(
    folder: Path,
    model: FaceModel,
    start: FaceModel | None,
    trainer: Trainer,
    training: dict[str, Any],
    heads: tuple[Scores, Scores] | None,
    enlarger: Enlarger | None,
) -> None:
    """Everything of the model folder but the checkpoints; ONNX where there is a starting model to export too."""
    data = trainer.data
    if start is not None:
        faces = _faces(data.val if len(data.val) else data.train, FACES_CHECKED)
        training["onnx"] = export_models(model, start, folder, faces, heads)
        if model.detector == "mtcnn":  # for users of the ONNX export, who need not have what it is made from
            write_mtcnn(folder / MTCNN_FILE)
            training["onnx"]["mtcnn_sha256"] = sha256_file(folder / MTCNN_FILE)
    enlarging = SuperresolutionRecord(**enlarger.write(folder)) if enlarger else None
    record = TrainingRecord.model_validate(training)
    save_model(model, folder, record, data.task, heads[0].state_dict() if heads else None, enlarging)
    write_json(folder / "identities.json", data.identities)
    write_history(folder / "logs", trainer.position.history)
    (folder / "checkpoints").mkdir()
    (folder / "figures").mkdir()
    draw_history(trainer.position.history, folder / "figures", data.task)
    if data.labels:
        write_json(folder / "labels.json", list(data.labels))
        sampling = _sampling(trainer)
        write_json(folder / "sampling.json", sampling)
        draw_distribution(sampling["before"], sampling["after"], folder / "figures" / "label_distribution.png")
    shown = FaceCrops(data.train, trainer.degradation, trainer.seed, augmentation(trainer.settings))
    draw_augmentations(shown, folder / "figures" / "augmentation.png")


def _sampling(trainer: Trainer) -> dict[str, Any]:
    """Images of each label or class among the training images, and among those that the first epoch draws."""
    data, drawn = trainer.data, trainer.drawn()

    def count(labels: NDArray[np.int32]) -> dict[str, int]:
        if data.task == ATTRIBUTES:
            found = (data.targets[labels] == 1).sum(0)
        else:
            found = np.bincount(labels, minlength=len(data.labels))
        return dict(zip(data.labels, found.tolist(), strict=True))

    labels = data.train.labels
    return {"images": len(labels), "drawn": len(drawn), "before": count(labels), "after": count(labels[drawn])}


def _faces(found: RowIndex, count: int) -> NDArray[np.uint8]:
    """The first crops, N×H×W×3."""
    crops = FaceCrops(found, Degradation(), 0)
    return np.stack([crops.image(found[index]) for index in range(min(count, len(found)))])
