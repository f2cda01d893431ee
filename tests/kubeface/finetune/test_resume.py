"""A training that is killed goes on where it was: what comes out is, byte for byte, what it would have been."""

import json
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from kubeface.finetune import step as step_module
from kubeface.finetune.checkpoints import read_checkpoint
from kubeface.finetune.logs import Mlflow
from kubeface.finetune.step import finetune
from kubeface.finetune.trainer import Trainer
from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from kubeface.storage.folders import sha256_file
from pipelines.local.store import local_store
from tests.support.faulty_store import BUCKET, in_force
from tests.support.tables import contents, splitting

from .conftest import LEARNING as HEAD_FIRST
from .conftest import LONG, Run, Train, arguments, register_tiny, same, without_figures

MUCH: dict[str, Any] = {
    "strategy": "lora",
    "lora_rank": 2,
    "optimizer": "sgd",
    "ema": 0.9,
    "dropout": True,
    "warmup_epochs": 1.5,
    "balance": "sampler",
    "clip_norm": 5.0,
    "jitter": 0.3,
    "blur": 0.3,
}
LEARNING: dict[str, Any] = {
    "freeze_batch_norm": False,
    "dropout": True,
    "ema": 0.5,
    "amp": "bf16",
    "sub_centers": 2,
    "batch_size": 5,
}

# --- moments at which a process ends itself -------------------------------------------------------------------------


def at_step(number: int) -> None:
    """SIGKILL instead of a step, counted over the whole training from 1."""
    original, left = Trainer._step, iter(range(number - 1, -1, -1))

    def step(self: Trainer, *given: Any) -> Any:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *given)

    pytest.MonkeyPatch().setattr(Trainer, "_step", step)


def at_write(number: int) -> None:
    """SIGKILL in the middle of the n-th file of tensors, from 1: in an epoch its own, `best` if it is, `last`."""
    original, left = safetensors.torch.save_file, iter(range(number - 1, -1, -1))

    def save(state: Any, path: Path, *given: Any) -> None:
        original(state, path, *given)
        if next(left) == 0:
            os.truncate(path, Path(path).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    pytest.MonkeyPatch().setattr(safetensors.torch, "save_file", save)


def at_end(_: int) -> None:
    """SIGKILL when the model folder is written but for its name."""
    pytest.MonkeyPatch().setattr(Mlflow, "end", lambda *_: os.kill(os.getpid(), signal.SIGKILL))


def train_until(
    moment: Callable[[int], None], number: int, tiny_file: Path, environment: dict[str, str], given: dict[str, Any]
) -> None:
    """What the process does that is killed."""
    os.environ.update(environment)
    register_tiny(tiny_file)
    without_figures(pytest.MonkeyPatch())
    pytest.MonkeyPatch().setattr(step_module, "cpu_limit", lambda: 1)
    moment(number)
    finetune(**given)


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Forks processes off one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


Killed = Callable[..., None]


@pytest.fixture(scope="module")
def killed_in(server: ForkServerContext, tiny_file: Path, aligned_table: Path, split_table: Path) -> Killed:
    """Starts trainings as `train` does, below a folder, in processes that are killed at a moment."""

    def action(folder: Path, moment: Callable[[int], None], number: int, out: str = "model", **choices: Any) -> None:
        where = {"aligned": aligned_table, "split": split_table, "out": folder / out}
        given = moment, number, tiny_file, dict(os.environ), where | arguments(choices)
        process = server.Process(target=train_until, args=given)
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        assert not where["out"].exists()

    return action


@pytest.fixture
def killed(killed_in: Killed, tmp_path: Path) -> Killed:
    return partial(killed_in, tmp_path)


def equal(one: Run, other: Run) -> None:
    """The same models, checkpoints and histories, but for the time that it took."""
    assert sha256_file(one.folder / "model.safetensors") == sha256_file(other.folder / "model.safetensors")
    for name in ("last", "best"):
        states = [
            safetensors.torch.load_file(run.folder / "checkpoints" / f"{name}.safetensors") for run in (one, other)
        ]
        assert same(states[0], states[1])
    assert one.timeless == other.timeless
    assert one.training == other.training
    assert one.result == other.result


def clean(folder: Path, *names: str) -> None:
    """In a folder stand these alone, and nothing half written."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("choices", [{}, MUCH, LEARNING], ids=["usual", "much", "learning"])
@pytest.mark.parametrize(
    ("when", "minutes"),
    [
        ((at_step, 8), 10),  # in the middle of the third epoch, the second of stage 2
        ((at_step, 9), 1e-9),  # at the last step of the third epoch, with a checkpoint after the step before
        ((at_write, 7), 10),  # while `last` or another file of the third epoch is written
    ],
    ids=["step", "save_minutes", "write"],
)
def test_a_killed_training_goes_on(
    when: tuple[Callable[[int], None], int],
    minutes: float,
    choices: dict[str, Any],
    train: Train,
    train_once: Train,
    killed: Killed,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left = tmp_path / "model.checkpoints"
    whole = train_once(**LONG | choices)
    killed(*when, **LONG | choices, save_minutes=minutes)
    assert (left / "last.safetensors").is_file()
    capsys.readouterr()
    resumed = train("model", **LONG | choices, resume=str(left))
    equal(resumed, whole)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"finetune: going on from {left}/last.safetensors"
    assert len(said) < 1 + len(whole.history)
    clean(tmp_path, "model")


@pytest.mark.parametrize("task", ["attributes", "classes"])
@pytest.mark.parametrize(
    ("when", "choices"),
    [
        ((at_step, 5), {"balance": "sampler", "jitter": 0.3}),  # in the second epoch of stage 1
        ((at_write, 6), {"balance": "loss"}),  # while the head of stage 1's second epoch is written, or the next
        ((at_step, 9), {"balance": "loss", "strategy": "lora", "lora_rank": 2, "ema": 0.9}),  # in stage 2
        ((at_end, 0), {"strategy": "scratch"}),
    ],
    ids=["step-1", "write", "step-2", "end"],
)
def test_a_killed_training_of_labels_goes_on(
    task: str,
    when: tuple[Callable[[int], None], int],
    choices: dict[str, Any],
    learn: Train,
    learn_once: Train,
    tables: dict[str, dict[str, Any]],
    killed: Killed,
    tmp_path: Path,
) -> None:
    whole = learn_once(task, **choices)
    killed(*when, **tables[task] | HEAD_FIRST | choices)
    resumed = learn(task, resume=str(tmp_path / "model.checkpoints"), **choices)
    equal(resumed, whole)
    for name in ("head.safetensors", *["checkpoints/stage_1.safetensors"] * (choices.get("strategy") != "scratch")):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_without_the_head_of_stage_1_there_is_no_going_on(
    learn: Train, tables: dict[str, dict[str, Any]], killed: Killed, tmp_path: Path
) -> None:
    killed(at_step, 9, **tables["classes"] | HEAD_FIRST)
    left = tmp_path / "model.checkpoints"
    left.joinpath("stage_1.safetensors").unlink()
    with pytest.raises(KubefaceError, match=r"holds last\.safetensors without stage_1\.safetensors"):
        learn("classes", resume=str(left))


@pytest.mark.slow
def test_killed_in_any_write(train: Train, killed: Killed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that bears its name is whole; before the first `last` there is nothing to go on from."""
    choices = LONG | {"epochs": 2, "strategy": "full"}
    written: list[str] = []
    original = safetensors.torch.save_file

    def save(state: Any, path: Path, *given: Any) -> None:
        written.append(Path(path).name)
        original(state, path, *given)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", save)
        whole = train("whole", **choices)
    first = next(number for number, name in enumerate(written, 1) if "last" in name)
    left = tmp_path / "model.checkpoints"
    for number in range(1, len(written) + 1):
        killed(at_write, number, **choices)
        for path in left.glob("*.safetensors"):
            safetensors.torch.load_file(path)
        assert bool(list(left.glob(".*.partial"))) == (number < len(written))  # the last one is the model's own
        resume = str(left) if (left / "last.safetensors").exists() else ""
        assert bool(resume) == (number > first)
        equal(train("model", **choices, resume=resume), whole)
        clean(tmp_path, "whole", "model")
        kept = (path.name for path in (tmp_path / "whole" / "checkpoints").iterdir())
        clean(tmp_path / "model" / "checkpoints", *kept)
        shutil.rmtree(tmp_path / "model")


def test_killed_at_the_very_end(train: Train, train_once: Train, killed: Killed, tmp_path: Path) -> None:
    whole = train_once(**LONG)
    killed(at_end, 0, **LONG)
    left = tmp_path / "model.checkpoints"
    clean(left, *(path.name for path in (whole.folder / "checkpoints").iterdir()))
    equal(train("model", **LONG, resume=str(left / "last.safetensors")), whole)
    clean(tmp_path, "model")


def test_killed_twice(train: Train, train_once: Train, killed: Killed, tmp_path: Path) -> None:
    whole = train_once(**LONG | MUCH)
    left = str(tmp_path / "model.checkpoints")
    killed(at_step, 5, **LONG | MUCH)
    killed(at_step, 3, **LONG | MUCH, resume=left)
    equal(train("model", **LONG | MUCH, resume=left), whole)


def test_what_has_no_effect_may_differ(train: Train, train_once: Train, killed: Killed, tmp_path: Path) -> None:
    """Memory that did not suffice is a reason to go on in smaller parts."""
    whole = train_once(**LONG)
    killed(at_step, 5, **LONG)
    resumed = train("model", **LONG, accumulate=2, keep_checkpoints=1, resume=str(tmp_path / "model.checkpoints"))
    for ours, theirs in zip(resumed.history, whole.history, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
    with safetensors.safe_open(resumed.folder / "checkpoints" / "last.safetensors", "pt") as file:
        assert '"accumulate": 2' in file.metadata()["kubeface"]


# --- a durable place ------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket() -> Iterator[str]:
    """A bucket in a real store that the environment describes."""
    with local_store(BUCKET) as environment, in_force(environment) as bucket:
        yield bucket


@pytest.mark.parametrize(("choices", "elsewhere"), [(MUCH, True), ({}, False)], ids=["elsewhere", "here"])
def test_started_again_it_goes_on_from_the_durable_folder(
    choices: dict[str, Any], elsewhere: bool, train: Train, train_once: Train, killed: Killed, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """On another machine, where nothing but that folder is left, or where both are."""
    durable = str(tmp_path / "durable")
    whole = train_once(**LONG | choices)
    killed(at_step, 8, **LONG | choices, checkpoints=durable)
    if elsewhere:
        shutil.rmtree(tmp_path / "model.checkpoints")
    capsys.readouterr()
    equal(train("model", **LONG | choices, checkpoints=durable), whole)
    assert re.match(rf"finetune: going on from {durable}/[0-9a-f]{{16}}/last\.safetensors\n", capsys.readouterr().out)
    clean(tmp_path, "model", "durable")


def test_another_training_begins_anew_in_the_same_durable_folder(
    train: Train, train_once: Train, killed: Killed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    durable = str(tmp_path / "durable")
    whole = train_once(**LONG, seed=1)
    killed(at_step, 8, out="first", **LONG, checkpoints=durable)
    equal(train("model", **LONG, seed=1, checkpoints=durable), whole)
    assert "going on" not in capsys.readouterr().out
    assert len(list((tmp_path / "durable").iterdir())) == 2
    assert (tmp_path / "first.checkpoints" / "last.safetensors").is_file()


@pytest.mark.slow
def test_started_again_it_goes_on_from_a_store(
    bucket: str, train: Train, train_once: Train, killed: Killed, tmp_path: Path
) -> None:
    durable = f"s3://{bucket}/runs"
    whole = train_once(**LONG)
    killed(at_step, 8, **LONG, checkpoints=durable)
    shutil.rmtree(tmp_path / "model.checkpoints")
    equal(train("model", **LONG, checkpoints=durable), whole)
    assert [Path(file.name).name for file in objects.list_files(durable)] == ["best.safetensors", "last.safetensors"]
    again = train("again", **LONG, resume=objects.join(durable, Path(objects.list_files(durable)[0].name).parts[0]))
    assert same(again.weights, whole.weights)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped_once(killed_in: Killed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a training that was killed after its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    killed_in(folder, at_step, 8, **LONG)
    return folder / "model.checkpoints"


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A copy of them where the next training finds them."""
    return shutil.copytree(stopped_once, tmp_path / "model.checkpoints")


def refused(stopped: Path, said: str, action: Callable[[], Any]) -> None:
    """One line, and nothing that was left is touched."""
    before = contents(stopped)
    with pytest.raises(KubefaceError, match=said):
        action()
    assert contents(stopped) == before
    assert not [path for path in stopped.parent.iterdir() if path.name.startswith(".")]


def test_other_trainings_are_refused(
    stopped: Path, train: Train, aligned_table: Path, tiny_file: Path, tmp_path: Path
) -> None:
    state = safetensors.torch.load_file(tiny_file)
    safetensors.torch.save_file({n: v + (n == "0.bias") for n, v in state.items()}, tmp_path / "other.safetensors")
    place = str(stopped)
    elsewhere = str(shutil.copytree(stopped, tmp_path / "elsewhere"))
    others = splitting(aligned_table, tmp_path / "others", {"s1": "tttv", "s3": "tttv"})
    images = splitting(aligned_table, tmp_path / "images", {"s1": "tttv", "s3": "tttv", "s5": "tttv"})
    end = "resume goes on with the same training only"
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"lr": 1e-3}, f"lr 0.003, this run has 0.001: {end}"),
        ({"head": "cosface"}, f"head arcface, this run has cosface: {end}"),
        ({"seed": 5}, f"seed 0, this run has 5: {end}"),
        ({"degradation": "blur:2"}, f"degradation noise:60, this run has blur:2: {end}"),
        ({"split": others}, f"other people: {end}"),
        ({"pretrained": str(tmp_path / "other.safetensors")}, f"other starting weights: {end}"),
        ({"backbone": "sface"}, f"backbone tiny, this run has sface: {end}"),
        ({"split": images}, rf"other data \(split table\): {end}"),
    ]
    for wrong, said in mistakes:
        refused(stopped, f"{place} is of a training with {said}", partial(train, **LONG | wrong, resume=place))
        # Nor does anything come to stand where nothing was.
        again = partial(train, "new", **LONG | wrong, resume=elsewhere)
        refused(stopped, f"{elsewhere} is of a training with {said}", again)
        assert not (tmp_path / "new.checkpoints").exists()


def test_started_again_without_resume(stopped: Path, train: Train, tmp_path: Path) -> None:
    said = "is of a training that was stopped: go on with"
    refused(stopped, rf"^{stopped} {said} resume={stopped} or remove it$", partial(train, **LONG))
    for seed in (0, 1):  # nor is it thrown away for a durable folder that has nothing, or that has another training
        refused(stopped, said, partial(train, **LONG, seed=seed, checkpoints=str(tmp_path / "durable")))


def test_resume_from_what_is_no_checkpoint(stopped: Path, train: Train, tmp_path: Path) -> None:
    other = tmp_path / "other"
    resume = partial(train, **LONG, resume=str(other))
    nothing = f"{other} holds no last.safetensors: give the checkpoints of a training that was stopped"
    refused(stopped, nothing, resume)
    other.mkdir()
    refused(stopped, nothing, resume)
    for last, said in (
        (b"no tensors at all", "last.safetensors is not a checkpoint of a training"),
        ((stopped / "best.safetensors").read_bytes(), "is no checkpoint to go on from: give a last"),
        (
            (stopped / "last.safetensors").read_bytes(),
            f"{other} holds last.safetensors without best.safetensors: give the folder with both",
        ),
    ):
        (other / "last.safetensors").write_bytes(last)
        refused(stopped, said, resume)


@pytest.mark.parametrize("change", [{"losses": [1.0]}, {"without_gain": None}, {"history": [{"epoch": 1}]}])
def test_last_of_another_release(change: dict[str, Any], stopped: Path, train: Train) -> None:
    """Which kept more of a training, or less, or called it otherwise."""
    path = stopped / "last.safetensors"
    tensors, notes = read_checkpoint(path)
    before = notes["position"]
    assert isinstance(before, dict)
    position = {name: value for name, value in (before | change).items() if value is not None}
    safetensors.torch.save_file(tensors, path, {"kubeface": json.dumps(dict(notes) | {"position": position})})
    said = (
        rf"^{path} was written by another release of kubeface, .* use that release, or remove the file to train anew$"
    )
    refused(stopped, said, partial(train, **LONG, resume=str(stopped)))
