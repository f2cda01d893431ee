"""Two processes that train one model: they give what one would give, and end together."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kubeface.finetune.distributed import Group, processes
from kubeface.finetune.options import FinetuneOptions
from pipelines.local.store import free_ports

from .conftest import ModelFolder, Train, arguments, same, splitting

ROOT = Path(__file__).parents[3]
LONG: dict[str, Any] = {"epochs": 3, "head_epochs": 1, "lr": 3e-3, "patience": 0}
# Trainings that two processes do as one does. Batches of 8 leave 4 over, of three validation images each has its share.
ALIKE: dict[str, dict[str, Any]] = {
    "usual": LONG | {"batch_size": 8},
    "loss": LONG | {"batch_size": 6, "balance": "loss", "label_smoothing": 0.1, "clip_norm": 1.0, "ema": 0.5},
    "sampler": LONG | {"batch_size": 10, "balance": "sampler", "accumulate": 3, "optimizer": "sgd"},
    "lora": LONG | {"strategy": "lora", "lora_rank": 2, "batch_size": 4},
    "head": LONG | {"strategy": "head_only", "head_epochs": 2, "batch_size": 2},
    "ends": LONG | {"strategy": "full", "lr": 0.1, "schedule": "constant", "distill": 0.0, "patience": 1, "epochs": 9},
    "auto": LONG | {"strategy": "full", "wise_ft": "auto", "guard": True, "split": "pairs", "batch_size": 6},
    "memory": LONG | {"batch_size": 8, "oom": 3},
    "attributes": LONG | {"batch_size": 8, "balance": "sampler", "monitor": "val_auc", "focal_gamma": 1.0},
    "classes": LONG | {"batch_size": 6, "balance": "loss", "head_epochs": 2},
}

# Trains with each of the arguments in a file, one after the other; argument two says what goes wrong in process 1.
DRIVER = """
import json, os, sys
from pathlib import Path

import pytest
import torch

from kubeface.finetune import step
from kubeface.finetune.gradients import Gradients
from kubeface.finetune.options import FinetuneOptions
from tests.kubeface.finetune.conftest import register_tiny, without_figures

weights, trainings, fault = sys.argv[1:]
rank = int(os.environ["RANK"])
register_tiny(Path(weights))
without_figures(pytest.MonkeyPatch())
step.cpu_limit = lambda: 1
losses, compute, epochs = Gradients._losses, Gradients.compute, 0

def watched(self, batch, whole, label, state):
    global epochs
    epochs = len(state.history)
    return compute(self, batch, whole, label, state)

def faulty(self, images):
    embeddings, found = losses(self, images)
    if rank == 1 and fault == "nan" and epochs == 2:
        found = found * float("nan")
    if rank == 1 and fault == "exception" and epochs == 2:
        raise OSError("the disk is gone")
    return embeddings, found

Gradients.compute = watched
os.environ.pop("TORCHELASTIC_USE_AGENT_STORE")  # in which a training would find the addresses of the one before
every = json.loads(Path(trainings).read_text())
for given in every:
    os.environ["MASTER_PORT"] = str(given.pop("port"))
    most = given.pop("oom", None)

    def short(self, images, most=most):
        if most and rank == 1 and len(images[-1]) > most:
            raise torch.OutOfMemoryError("no more")
        return faulty(self, images)

    Gradients._losses = short
    if len(every) > 1 and (process := os.fork()):  # each in a process of its own, which has nothing left to import
        if os.waitpid(process, 0)[1]:
            sys.exit(1)
        continue
    options = FinetuneOptions(**given.pop("options"))
    step.finetune(**{name: Path(value) for name, value in given.items()}, options=options)
    if len(every) > 1:
        sys.stdout.flush()
        os._exit(0)  # torch's threads are not the child's to end
"""


def written(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments as JSON has them."""
    options: FinetuneOptions = given["options"]
    return given | {"options": options.model_dump(mode="json", include=set(options.model_fields_set))}


Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def launch(tiny_file: Path, aligned_table: Path, split_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """Runs trainings under torchrun in two processes; `trainings` has settings and parameters by output folder."""
    driver = tmp_path_factory.mktemp("driver") / "driver.py"
    driver.write_text(DRIVER)

    def action(trainings: dict[Path, dict[str, Any]], fault: str = "") -> subprocess.CompletedProcess[str]:
        where = {"aligned": aligned_table, "split": split_table}
        given = [
            where | {"out": out, "port": port} | written(arguments(choices))
            for port, (out, choices) in zip(free_ports(len(trainings)), trainings.items(), strict=True)
        ]
        driver.with_name("trainings.json").write_text(json.dumps(given, default=str))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(driver)]
        return subprocess.run(
            [*command, str(tiny_file), str(driver.with_name("trainings.json")), fault],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )

    return action


@pytest.fixture(scope="module")
def pairs(aligned_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split with two validation images of each of three people."""
    parts = {"s1": "tttvv", "s3": "tttvv", "s5": "tttvv"}
    return splitting(aligned_table, tmp_path_factory.mktemp("pairs") / "split", parts)


@pytest.fixture(scope="module")
def together(
    launch: Launch, pairs: Path, tables: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, ModelFolder], list[str], str]:
    """The trainings in two processes, the lines that they printed, and their standard error."""
    folder = tmp_path_factory.mktemp("together")
    trainings = {
        folder / name: choices | ({"split": pairs} if "split" in choices else {}) | tables.get(name, {})
        for name, choices in ALIKE.items()
    }
    done = launch(trainings)
    assert done.returncode == 0, done.stderr[-3000:]
    return {out.name: ModelFolder(out) for out in trainings}, done.stdout.splitlines(), done.stderr


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=2e-4, rtol=1e-3, msg=partial("{}: {}".format, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_give_what_one_gives(
    name: str,
    together: tuple[dict[str, ModelFolder], list[str], str],
    train: Train,
    pairs: Path,
    tables: dict[str, dict[str, Any]],
) -> None:
    choices = {key: value for key, value in ALIKE[name].items() if key != "oom"}
    alone = train(**choices | ({"split": pairs} if "split" in choices else {}) | tables.get(name, {}))
    both = together[0][name]
    assert len(both.history) == len(alone.history)
    for ours, theirs in zip(both.history, alone.history, strict=True):
        for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auc", "learning_rate"):
            assert ours[key] == (None if theirs[key] is None else pytest.approx(theirs[key], rel=1e-4)), key
    close(both.checkpoint("last"), alone.checkpoint("last"))
    close(both.checkpoint("last", "head"), alone.checkpoint("last", "head"))
    close(both.weights, alone.weights)
    for key in ("best_epoch", "images", "identities", "wise_ft_alpha"):
        assert both.training[key] == alone.training[key]
    names = [
        sorted(path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if "tfevents" not in path.name)
        for run in (both, alone)
    ]
    assert [name[:20] for name in names[0]] == [name[:20] for name in names[1]]


@pytest.mark.slow
def test_they_stop_together_and_early(together: tuple[dict[str, ModelFolder], list[str], str]) -> None:
    rows = together[0]["ends"].history
    assert 1 < len(rows) < 9
    assert rows[-1]["val_loss"] >= min(row["val_loss"] for row in rows[:-1])


@pytest.mark.slow
def test_every_line_is_printed_once(together: tuple[dict[str, ModelFolder], list[str], str]) -> None:
    runs, lines, told = together
    epochs = [line for line in lines if ": loss " in line]
    assert len(epochs) == sum(len(run.history) for run in runs.values())
    (memory,) = [line for line in lines if "out of memory" in line]
    assert "batches of 8 are now computed in 2 parts (accumulate=2)" in memory
    assert sum("stopped early" in line for line in lines) == 1
    assert sum("labels of" in line for line in lines) == 1
    assert sum("did not help" in line for line in lines) == 1
    assert len(lines) == len(epochs) + 4
    assert told.count("finetune: class means: ") == len(runs) - 1  # attributes start from frequencies


@pytest.mark.slow
def test_a_training_of_two_goes_on(launch: Launch, tmp_path: Path) -> None:
    """Process 1 fails in the third epoch; all end, and soon; started again they come to what they would have."""
    assert launch({tmp_path / "whole": LONG}).returncode == 0
    start = time.monotonic()
    done = launch({tmp_path / "model": LONG | {"save_minutes": 1e-9}}, "exception")
    assert done.returncode != 0
    assert time.monotonic() - start < 60
    assert "the disk is gone" in done.stderr
    assert not (tmp_path / "model").exists()
    left = tmp_path / "model.checkpoints"
    assert (left / "last.safetensors").is_file()
    done = launch({tmp_path / "model": LONG | {"resume": str(left)}})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("finetune: going on from") == 1
    one, other = ModelFolder(tmp_path / "whole"), ModelFolder(tmp_path / "model")
    assert same(one.weights, other.weights)
    for ours, theirs in zip(one.history, other.history, strict=True):
        assert {k: v for k, v in ours.items() if "second" not in k} == {
            k: v for k, v in theirs.items() if "second" not in k
        }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "whole"]


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_ends_all(launch: Launch, tmp_path: Path) -> None:
    start = time.monotonic()
    done = launch({tmp_path / "model": LONG}, "nan")
    assert done.returncode != 0
    assert time.monotonic() - start < 60
    assert "stage 2 epoch 2/3: the loss is nan in step 1 at rate" in done.stderr
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_batch_that_cannot_be_divided(launch: Launch, tmp_path: Path) -> None:
    done = launch({tmp_path / "model": LONG | {"batch_size": 5}})
    assert done.returncode != 0
    assert "batch_size is 5: it must be a multiple of the 2 processes and at least 2" in done.stderr
    assert not list(tmp_path.iterdir())


def test_alone_there_is_nothing_to_agree_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes(torch.device("cpu")) as group:
        assert group == Group()
        assert group.main
        values = torch.tensor([1.0, math.pi])
        assert group.sum(values) is values
        assert group.gather("one") == ["one"]
        assert group.share("one") == "one"
    assert not torch.distributed.is_initialized()
