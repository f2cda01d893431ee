"""Checkpoints of a training: the weights of every epoch, the best, and `last`, from which it goes on exactly.

last.safetensors                        everything a training consists of, and where it stands
best.safetensors                        backbone.* and head.* of the best epoch
stage_1.safetensors                     head.* of the best epoch of stage 1, for attributes and classes
epoch_03_val_acc_0.9123.safetensors     backbone.* and head.* after an epoch
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from pydantic import JsonValue, TypeAdapter, ValidationError
from torch import Tensor

from kubeface.finetune.state import TrainingState
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects

LAST, BEST, HEAD = "last.safetensors", "best.safetensors", "stage_1.safetensors"
Tensors = dict[str, Tensor]
Inputs = Mapping[str, JsonValue]  # everything that decides the outcome of a training, by name


@dataclass(frozen=True)
class LastNotes:
    """What `last` says of its training: which one it is, and how far it has come."""

    run: Inputs
    position: TrainingState


_LAST_NOTES = TypeAdapter(LastNotes)


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: local folder that is there.
        mirror: folder or s3:// prefix that `last`, `best` and `stage_1` are copied to as well; empty for none.
        keep: checkpoints of epochs that are kept, the newest; 0 for all.
        inputs: of the training. They stand in `last`, so that no other training goes on from it.
    """

    def __init__(self, folder: Path, mirror: str, keep: int, inputs: Inputs) -> None:
        self.folder, self.mirror, self.keep, self.inputs = folder, mirror, keep, inputs

    def copy_from(self, source: str) -> bool:
        """Copies `last` and what goes with it from another folder or s3:// prefix; says whether there was a `last`."""
        exists = objects.is_s3(source) or objects.local_path(source).is_dir()
        names = {file.name for file in objects.list_files(source)} if exists else set()
        for name in sorted({BEST, HEAD, LAST} & names):
            objects.download(objects.join(source, name), self.folder / name)
        return LAST in names

    def has_last(self) -> bool:
        """Whether there is something to go on from."""
        return (self.folder / LAST).is_file()

    def last(self, source: str = "") -> tuple[Tensors, LastNotes]:
        """`last`: the tensors, and what it says of its training.

        Args:
            source: folder that it was copied from, for messages.

        Raises:
            KubefaceError: the file is no checkpoint to go on from, or one of a release that kept other things.
        """
        path = self.folder / LAST
        where = objects.join(source or str(self.folder), LAST)
        tensors, notes = read_checkpoint(path)
        require("run" in notes, f"{where} is no checkpoint to go on from: give a last.safetensors")
        try:
            read = _LAST_NOTES.validate_python(notes)
        except ValidationError:
            read = None
        if read is None or asdict(read) != notes:  # nothing may be missing or left over
            raise KubefaceError(
                f"{where} was written by another release of kubeface, which alone can go on from it: use that release, "
                "or remove the file to train anew"
            )
        return tensors, read

    def best(self) -> Tensors:
        """The best epoch's weights."""
        return read_checkpoint(self.folder / BEST)[0]

    def head(self) -> Tensors:
        """The head of the best epoch of stage 1."""
        return part("head", read_checkpoint(self.folder / HEAD)[0])

    def save_epoch(self, state: Tensors, epoch: int, accuracy: float | None, best: bool) -> None:
        """Writes the weights after an epoch, as the best ones too where they are, and clears the oldest."""
        notes = {"epoch": epoch, "val_accuracy": accuracy}
        suffix = "" if accuracy is None else f"_val_acc_{accuracy:.4f}"
        self._save(f"epoch_{epoch:02d}{suffix}.safetensors", state, notes)
        if best:
            self._save(BEST, state, notes)
        if self.keep:
            paths = self.folder.glob("epoch_*.safetensors")
            for path in sorted(paths, key=lambda path: int(path.stem.split("_")[1]))[: -self.keep]:
                path.unlink()

    def save_head(self, state: Tensors, epoch: int) -> None:
        """Writes the best head of stage 1 so far."""
        self._save(HEAD, state, {"epoch": epoch})

    def save_last(self, tensors: Tensors, state: TrainingState) -> None:
        """Writes `last`."""
        self._save(LAST, tensors, asdict(LastNotes(self.inputs, state)))

    def _save(self, name: str, state: Tensors, notes: Mapping[str, JsonValue]) -> None:
        """Writes under another name and renames when all is on the disk: what bears the name is whole."""
        path = self.folder / name
        partial = path.with_name(f".{name}.partial")
        safetensors.torch.save_file(state, partial, {"kubeface": json.dumps(notes, sort_keys=True)})
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        if self.mirror and name in (LAST, BEST, HEAD):
            objects.upload(path, objects.join(self.mirror, name))


def read_checkpoint(path: Path) -> tuple[Tensors, Mapping[str, JsonValue]]:
    """Tensors and notes of a checkpoint; raises KubefaceError for another file."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            notes = json.loads((file.metadata() or {})["kubeface"])
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise KubefaceError(f"{path} is not a checkpoint of a training: give its last.safetensors") from error


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> Tensors:
    """A state dict with `prefix.` before its names, on the CPU."""
    return {f"{prefix}.{name}": value.detach().cpu().contiguous() for name, value in state.items()}


def part(prefix: str, state: Mapping[str, Tensor]) -> Tensors:
    """What stands under `prefix.`, without it."""
    return {name.removeprefix(f"{prefix}."): v for name, v in state.items() if name.startswith(f"{prefix}.")}
