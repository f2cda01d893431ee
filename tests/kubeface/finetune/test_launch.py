"""A training in processes of its own: one for each GPU, under a real torchrun."""

import sys
from pathlib import Path
from typing import Any

import pytest

from kubeface.finetune import launch, node
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


def test_processes_that_fail_end_with_their_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Those that follow come from processes that it left alone; without one it is the exit code that is told."""
    torchrun, said = tmp_path / "python", tmp_path / "said"
    torchrun.write_text(f"#!/bin/sh\ncat {said}\nexit 3\n")
    torchrun.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(torchrun))
    job = Job(aligned="a", split="s", out=tmp_path / "model", options=FinetuneOptions())
    for text, expected in (
        ("epoch 1\n  error: batch_size is 3\nerror: gone\n", "batch_size is 3"),
        ("epoch 1\n", "fine-tuning in 2 processes ended with exit code 3: see the log"),
    ):
        said.write_text(text)
        with pytest.raises(KubefaceError) as caught:
            launch.run_torchrun(2, job)
        assert str(caught.value) == expected
        assert capfd.readouterr().out == text


def test_a_node_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "log"))
    options = FinetuneOptions(device="cpu")
    job = Job(aligned="/nowhere", split="/nowhere", out=tmp_path / "model", options=options, result="r.json")
    with pytest.raises(SystemExit) as caught:
        node.work(job.text())
    said = capsys.readouterr().err
    assert caught.value.code == 1 and said.startswith("error: /nowhere") and said.count("\n") == 1


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
