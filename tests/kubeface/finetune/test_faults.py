"""What goes wrong in a training: too little memory, losses that are no numbers, wrong options, damaged tables."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kubeface.finetune.checkpoints import Checkpoints
from kubeface.finetune.gradients import Gradients
from kubeface.finetune.state import TrainingState
from kubeface.runtime.errors import KubefaceError
from tests.support.tables import rows_of, splitting, write_rows

from .conftest import FULL, Tiny, Train, same

# --- memory ---------------------------------------------------------------------------------------------------------


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> None:
    """Batches of more than so many images do not fit while gradients are computed."""
    forward: Callable[[Tiny, Tensor], Tensor] = Tiny.forward

    def limited(self: Tiny, images: Tensor) -> Tensor:
        if len(images) > most and torch.is_grad_enabled():
            raise error
        return forward(self, images)

    monkeypatch.setattr(Tiny, "forward", limited)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
    ],
    ids=["cuda", "cpu"],
)
def test_where_memory_does_not_suffice_batches_are_computed_in_parts(
    error: Exception, train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = FULL | {"batch_size": 6, "epochs": 3}
    expected = train("expected", **settings, accumulate=2)
    capsys.readouterr()
    short_of_memory(monkeypatch, 3, error)
    run = train(**settings)
    said = [line for line in capsys.readouterr().out.splitlines() if "memory" in line]
    assert said == [
        "finetune: stage 2 epoch 1/3: out of memory, batches of 6 are now computed in 2 parts (accumulate=2)"
    ]
    assert same(run.checkpoint("last"), expected.checkpoint("last"))
    assert run.timeless == expected.timeless
    assert run.training["batch_size"] == 6


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "stage 2 epoch 1/2: out of memory with 1 image at a time: give"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "^mat1 and mat2 shapes cannot be multiplied$"),
    ],
    ids=["memory", "other"],
)
def test_where_not_even_one_image_fits_or_other_errors(
    error: Exception, said: str, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    short_of_memory(monkeypatch, 0, error)
    with pytest.raises((KubefaceError, RuntimeError), match=said):
        train(**FULL)
    assert not list(tmp_path.iterdir())


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"seed": 2**70}, "seed is"),
        ({"degradation": "fog:3"}, "degradation 'fog:3' is unknown"),
        ({"degradation": "noise"}, "degradation 'noise' needs a number"),
        ({"backbone": "resnet"}, "backbone 'resnet' is unknown"),
        ({"strategy": "partial", "num_layers": 4}, "num_layers is 4: the backbone has 3 convolutions and linear"),
        ({"strategy": "partial", "num_layers": -4}, "num_layers is -4: the backbone has 3 convolutions and linear"),
        ({"strategy": "full", "frozen_layers": 3}, "frozen_layers is 3: the backbone has 3 convolutions and linear"),
        ({"strategy": "lora", "lora_targets": "fc.*"}, "lora_targets is 'fc.*': no linear layer or plain convolution"),
        ({"guard": True, "degradation": "none"}, "guard needs a degradation to tell clean crops from: set degradation"),
        ({"pretrained": "/nowhere/model.safetensors"}, "/nowhere/model.safetensors does not exist"),
        ({"pretrained": "/nowhere/model"}, "/nowhere/model/model.json is missing"),
        ({"resume": "/nowhere"}, "/nowhere holds no last.safetensors"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_parameter_is_named(wrong: dict[str, Any], said: str, train: Train, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError) as caught:
        train(**wrong)
    assert str(caught.value).startswith(said)
    assert not list(tmp_path.iterdir())


def broken_losses(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Losses that are no numbers from the second step of an epoch on."""
    compute, losses, wrong = Gradients.compute, Gradients._losses, False

    def watched(self: Gradients, batch: list[Tensor], whole: int, label: str, state: TrainingState) -> Any:
        nonlocal wrong
        wrong = len(state.history) + 1 == epoch and state.step == 1
        return compute(self, batch, whole, label, state)

    def broken(self: Gradients, images: Any) -> tuple[Tensor, Tensor]:
        embeddings, found = losses(self, images)
        return embeddings, found * math.nan if wrong else found

    monkeypatch.setattr(Gradients, "compute", watched)
    monkeypatch.setattr(Gradients, "_losses", broken)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_loss_that_is_no_number(
    epoch: int, train: Train, train_once: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first epoch nothing is left; later, checkpoints of what was good, from which a mended training goes on."""
    whole, left = train_once(**FULL, schedule="constant"), tmp_path / "model.checkpoints"
    broken_losses(monkeypatch, epoch)
    with pytest.raises(KubefaceError) as caught:
        train(**FULL, schedule="constant")
    said = f"finetune: stage 2 epoch {epoch}/2: the loss is nan in step 2 at rate 3.00e-03: lower the rate"
    kept = f"; the last good checkpoint is {left}/last.safetensors"
    assert str(caught.value) == said + kept * (epoch == 2)
    assert [path.name for path in tmp_path.iterdir()] == ["model.checkpoints"] * (epoch == 2)
    if epoch == 2:
        tensors, notes = Checkpoints(left, "", 0, {}).last()
        assert all(torch.isfinite(value).all() for value in tensors.values())
        (row,) = notes.position.history
        assert row.train_loss == whole.history[0]["train_loss"]


@pytest.mark.parametrize("size", [4, 64])
def test_too_high_a_rate_ends_in_one_line(size: int, train: Train, tmp_path: Path) -> None:
    """In the training, or where that has but one step, in the validation behind it."""
    with pytest.raises(KubefaceError, match=r"the (validation )?loss is (nan|inf).*: lower the rate"):
        train(**FULL | {"lr": 1e30, "optimizer": "sgd", "batch_size": size})
    assert not list(tmp_path.iterdir())


def test_split_of_another_table(train: Train, aligned_table: Path, tmp_path: Path) -> None:
    rows = (row | {"image_id": f"{number:016x}"} for number, row in enumerate(rows_of(aligned_table)))
    write_rows(tmp_path / "other", "aligned", rows)
    with pytest.raises(KubefaceError, match=r"split names images that .*other does not hold: run split on this table"):
        train(aligned=tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_tables_in_the_wrong_order(train: Train, aligned_table: Path, split_table: Path) -> None:
    with pytest.raises(KubefaceError, match="holds a 'split' table where 'aligned' is needed"):
        train(aligned=split_table, split=aligned_table)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_is_damaged(workers: int, train: Train, aligned_table: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(aligned_table, tmp_path / "damaged")
    (shard,) = damaged.glob("*.parquet")
    data = bytearray(shard.read_bytes())
    data[1000 : len(data) // 2] = bytes(len(data) // 2 - 1000)
    shard.write_bytes(data)
    said = r"damaged/shard-00000\.parquet is corrupt: its SHA-256 is not the"
    with pytest.raises(KubefaceError, match=said):
        train(aligned=damaged, workers=workers)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


@pytest.mark.parametrize(("people", "parts"), [(0, {"s1": "hhh"}), (1, {"s1": "ttt", "s3": "vv"})])
def test_nobody_to_train_on(
    people: int, parts: dict[str, str], train: Train, aligned_table: Path, tmp_path: Path
) -> None:
    divided = splitting(aligned_table, tmp_path / "split", parts)
    with pytest.raises(KubefaceError, match=f"has {people} people to train on, at least 2 are needed"):
        train(split=divided)


def test_existing_output_is_kept(train: Train, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("keep")
    with pytest.raises(KubefaceError, match="exists already"):
        train()
    assert (tmp_path / "model" / "mine.txt").read_text() == "keep"
