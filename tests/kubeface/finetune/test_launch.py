"""A training in processes of its own: one for each GPU, under a real torchrun."""

from pathlib import Path
from typing import Any

import pytest

from kubeface.finetune import launch
from kubeface.finetune.launch import Job
from kubeface.finetune.options import FinetuneOptions, with_recipe
from kubeface.runtime.errors import KubefaceError
from tests.kubeface.finetune.conftest import QUICK

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_two_processes_train_the_model_and_hand_on_the_result(
    tmp_path: Path, aligned_table: Path, split_table: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The entry point that a TrainJob's nodes run, with gloo."""
    monkeypatch.setattr(launch, "local_processes", lambda device: 2)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    options = FinetuneOptions(**QUICK | {"strategy": "head_only", "device": "cpu", "workers": 0})
    job = Job(aligned=str(aligned_table), split=str(split_table), out=tmp_path / "model", options=options)
    result = launch.launch(job)
    assert (result.identities, result.rows_out, result.trained) == (3, 12, 1)
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert capfd.readouterr().out.count("epoch 1") == 1  # of two processes, one tells
    with pytest.raises(KubefaceError, match="batch_size is 3: it must be a multiple of the 2 processes"):
        odd = options.model_copy(update={"batch_size": 3})
        launch.launch(job.model_copy(update={"out": tmp_path / "other", "options": odd}))


def test_one_processor_or_gpu_is_trained_on_in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert launch.local_processes("cpu") == 1
    monkeypatch.setattr(launch, "finetune", lambda *given: given)
    given: tuple[Any, ...] = "a", "s", tmp_path, FinetuneOptions(device="cpu"), "models/face", "keep"
    names = ("aligned", "split", "out", "options", "champion", "decision")
    result: object = launch.launch(Job(**dict(zip(names, given, strict=True))))
    assert result == given


def test_a_job_is_read_as_it_was_written() -> None:
    """What nobody set stays so on the way: the recipe's values stand in its place."""
    options = FinetuneOptions(recipe="noise", guard=False, margins=(1.0, 0.2, 0.1))
    job = Job(aligned="a", split="s", out=Path("model"), options=options, result="r.json")
    again = Job.model_validate_json(job.text())
    assert again == job and again.options.model_fields_set == options.model_fields_set
    assert with_recipe(again.options) == with_recipe(options)
