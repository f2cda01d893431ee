"""Going on with a training that was stopped: finding its checkpoints and refusing those of another one."""

import hashlib
import json
import shutil
from pathlib import Path

from kubeface.finetune.checkpoints import BEST, HEAD, LAST, Checkpoints, Inputs
from kubeface.finetune.options import FinetuneOptions
from kubeface.records.tasks import RECOGNITION
from kubeface.runtime.errors import require
from kubeface.storage import objects

# How inputs are called whose values nobody would recognise.
NAMES = {
    "identities": "people", "aligned": "data (aligned table)", "split": "data (split table)",
    "start_sha256": "starting weights", "labels": "labels",
}  # fmt: skip


def open_checkpoints(folder: Path, options: FinetuneOptions, inputs: Inputs) -> Checkpoints:
    """The folder of a training's checkpoints, with the `last` to go on from in it where there is one.

    Raises:
        KubefaceError: checkpoints of a stopped training that nobody asked for, none where some were asked for, or
            those of another training.
    """
    fingerprint = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    mirror = objects.join(options.checkpoints, fingerprint) if options.checkpoints else ""
    source = options.resume.removesuffix(f"/{LAST}") or mirror
    store = Checkpoints(folder, mirror, options.keep_checkpoints, inputs)
    stopped = store.has_last()
    local = not objects.is_s3(source) and objects.local_path(source).resolve() == folder.resolve()
    if stopped and options.resume and local:
        _check_same_training(source, store)
        return store
    # What a stopped training left in the folder stays until something better is found.
    copied = Checkpoints(folder.with_name(f".{folder.name}.partial"), "", 0, inputs)
    shutil.rmtree(copied.folder, ignore_errors=True)
    copied.folder.mkdir(parents=True)
    try:
        exists = bool(source) and copied.copy_from(source)
        require(
            exists or not options.resume,
            f"{options.resume} holds no {LAST}: give the checkpoints of a training that was stopped",
        )
        if exists:
            _check_same_training(source, copied)
        require(
            not stopped or (exists and store.last()[1].run == inputs),
            f"{folder} is of a training that was stopped: go on with resume={folder} or remove it",
        )
        shutil.rmtree(folder, ignore_errors=True)
        copied.folder.rename(folder)
    finally:
        shutil.rmtree(copied.folder, ignore_errors=True)
    return store


def _check_same_training(source: str, store: Checkpoints) -> None:
    """Says where the training goes on from; refuses another training's checkpoints, and such that are not all there."""
    notes = store.last(source)[1]
    for name, value in store.inputs.items():
        before = notes.run.get(name)
        other = f"other {NAMES[name]}" if name in NAMES else f"{name} {before}, this run has {value}"
        require(before == value, f"{source} is of a training with {other}: resume goes on with the same training only")
    labelled = notes.run.get("task", RECOGNITION) != RECOGNITION and notes.run["strategy"] != "scratch"
    needed = {BEST: notes.position.best.epoch > 0, HEAD: labelled and bool(notes.position.history)}
    for name in (name for name, wanted in needed.items() if wanted):
        require((store.folder / name).is_file(), f"{source} holds {LAST} without {name}: give the folder with both")
    print(f"finetune: going on from {objects.join(source, LAST)}", flush=True)
