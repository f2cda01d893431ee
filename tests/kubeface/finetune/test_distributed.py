"""Two processes that train one model: they give what one would give, and end together."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kubeface.finetune.distributed import Group, processes
from kubeface.finetune.options import FinetuneOptions
from pipelines.local.store import free_ports

from .conftest import LONG, ModelFolder, Train, arguments, close, same

ROOT = Path(__file__).parents[3]
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

# Trains with each of the arguments in a file, one after the other, each in a process of its own, which has nothing left
# to import; one alone in the driver itself. `fault` says what goes wrong in process 1. The driver ends with a training
# that fails but for one that `may_fail`.
DRIVER = """
import json, os, sys
from pathlib import Path

import pytest
import torch

from kubeface.finetune import step
from kubeface.finetune.gradients import Gradients
from kubeface.finetune.options import FinetuneOptions
from tests.kubeface.finetune.conftest import register_tiny, without_figures

rank = int(os.environ["RANK"])
register_tiny(Path(sys.argv[1]))
without_figures(pytest.MonkeyPatch())
step.cpu_limit = lambda: 1
losses, compute = Gradients._losses, Gradients.compute
os.environ.pop("TORCHELASTIC_USE_AGENT_STORE")  # in which a training would find the addresses of the one before

def train(given, fault, most):
    epochs = 0

    def watched(self, batch, whole, label, state):
        nonlocal epochs
        epochs = len(state.history)
        return compute(self, batch, whole, label, state)

    def faulty(self, images):
        if most and rank == 1 and len(images[-1]) > most:
            raise torch.OutOfMemoryError("no more")
        embeddings, found = losses(self, images)
        if rank == 1 and epochs == 2 and fault == "exception":
            raise OSError("the disk is gone")
        return embeddings, found * float("nan") if rank == 1 and epochs == 2 and fault == "nan" else found

    Gradients.compute, Gradients._losses = watched, faulty
    options = FinetuneOptions(**given.pop("options"))
    step.finetune(**{name: Path(value) for name, value in given.items()}, options=options)

every = json.loads(Path(sys.argv[2]).read_text())
for given in every:
    os.environ["MASTER_PORT"] = str(given.pop("port"))
    fault, most, may_fail = (given.pop(name, None) for name in ("fault", "oom", "may_fail"))
    if len(every) == 1:
        train(given, fault, most)
        continue
    process = os.fork()
    if not process:
        for number, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{given['out']}.{rank}.{kind}", os.O_WRONLY | os.O_CREAT), number)
        try:
            train(given, fault, most)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)  # torch's threads are not the child's to end
    if os.waitpid(process, 0)[1] and not may_fail:
        sys.exit(Path(f"{given['out']}.{rank}.err").read_text())
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

    def action(trainings: dict[Path, dict[str, Any]]) -> subprocess.CompletedProcess[str]:
        where = {"aligned": aligned_table, "split": split_table}
        given = [
            where | {"out": out, "port": port} | written(arguments(choices))
            for port, (out, choices) in zip(free_ports(len(trainings)), trainings.items(), strict=True)
        ]
        driver.with_name("trainings.json").write_text(json.dumps(given, default=str))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(driver)]
        return subprocess.run(
            [*command, str(tiny_file), str(driver.with_name("trainings.json"))],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )

    return action


@pytest.fixture(scope="module")
def failed(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training in whose third epoch process 1 fails: all end, and soon, and leave checkpoints."""
    out = tmp_path_factory.mktemp("together") / "resumed"
    start = time.monotonic()
    done = launch({out: LONG | {"save_minutes": 1e-9, "fault": "exception"}})
    assert done.returncode != 0 and time.monotonic() - start < 60
    assert "the disk is gone" in done.stderr
    assert not out.exists() and Path(f"{out}.checkpoints", "last.safetensors").is_file()
    return out


@pytest.fixture(scope="module")
def together(launch: Launch, failed: Path, pairs: Path, tables: dict[str, dict[str, Any]]) -> Path:
    """The trainings in two processes below one folder, each with the output of its processes beside it."""
    trainings = {
        failed.with_name(name): choices | ({"split": pairs} if "split" in choices else {}) | tables.get(name, {})
        for name, choices in ALIKE.items()
    }
    trainings |= {
        failed.with_name("whole"): LONG,
        failed: LONG | {"resume": f"{failed}.checkpoints"},
        failed.with_name("nan"): LONG | {"fault": "nan", "may_fail": True},
    }
    done = launch(trainings)
    assert done.returncode == 0, done.stderr[-3000:]
    return failed.parent


def said(folder: Path, name: str, kind: str = "out") -> list[str]:
    """The lines that the processes of a training printed."""
    return [line for rank in (0, 1) for line in (folder / f"{name}.{rank}.{kind}").read_text().splitlines()]


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_give_what_one_gives(
    name: str, together: Path, train: Train, pairs: Path, tables: dict[str, dict[str, Any]]
) -> None:
    choices = {key: value for key, value in ALIKE[name].items() if key != "oom"}
    alone = train(**choices | ({"split": pairs} if "split" in choices else {}) | tables.get(name, {}))
    both = ModelFolder(together / name)
    assert len(both.history) == len(alone.history)
    for ours, theirs in zip(both.history, alone.history, strict=True):
        for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auc", "learning_rate"):
            assert ours[key] == (None if theirs[key] is None else pytest.approx(theirs[key], rel=1e-4)), key
    close(both.checkpoint("last"), alone.checkpoint("last"), 2e-4)
    close(both.checkpoint("last", "head"), alone.checkpoint("last", "head"), 2e-4)
    close(both.weights, alone.weights, 2e-4)
    for key in ("best_epoch", "images", "identities", "wise_ft_alpha"):
        assert both.training[key] == alone.training[key]
    names = [
        sorted(path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if "tfevents" not in path.name)
        for run in (both, alone)
    ]
    assert [name[:20] for name in names[0]] == [name[:20] for name in names[1]]


def test_they_stop_together_and_early(together: Path) -> None:
    rows = ModelFolder(together / "ends").history
    assert 1 < len(rows) < 9
    assert rows[-1]["val_loss"] >= min(row["val_loss"] for row in rows[:-1])


def test_every_line_is_printed_once(together: Path) -> None:
    others = {
        "memory": ["batches of 8 are now computed in 2 parts (accumulate=2)"],
        "ends": ["stopped early"],
        "attributes": ["labels of", "did not help"],
    }
    for name in ALIKE:
        lines = said(together, name)
        epochs = [line for line in lines if ": loss " in line]
        assert len(epochs) == len(ModelFolder(together / name).history)
        found = [line for line in lines if line not in epochs]
        assert all(part in line for part, line in zip(others.get(name, []), found, strict=True))
        means = sum("finetune: class means: " in line for line in said(together, name, "err"))
        assert means == (name != "attributes")  # they start from frequencies


def test_a_training_of_two_goes_on(together: Path) -> None:
    """Process 1 failed in the third epoch; started again they come to what they would have."""
    one, other = ModelFolder(together / "whole"), ModelFolder(together / "resumed")
    assert sum("finetune: going on from" in line for line in said(together, "resumed")) == 1
    assert same(one.weights, other.weights)
    assert one.timeless == other.timeless
    assert not list(together.glob("*d.checkpoints")) and not list(together.glob("whole.checkpoints"))


def test_a_loss_that_is_no_number_in_one_process_ends_all(together: Path) -> None:
    (line,) = [line for line in said(together, "nan", "err") if "the loss is nan" in line]
    assert "stage 2 epoch 2/3: the loss is nan in step 1 at rate" in line
    assert not (together / "nan").exists()


def test_alone_there_is_nothing_to_agree_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes(torch.device("cpu")) as group:
        assert group == Group()
        assert group.main
        values = torch.tensor([1.0, math.pi])
        assert group.sum(values) is values
        assert group.gather("one") == ["one"]
        assert group.share(lambda: "one") == "one"
    assert not torch.distributed.is_initialized()
