"""The pipeline as kfp.local runs it: what a run leaves, that it repeats, and what it says when it cannot go on."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from pipelines.face_finetuning import face_finetuning
from pipelines.local.run import run_local
from pipelines.local.store import local_store

ROOT = Path(__file__).resolve().parents[3]
STEPS = ["ingest", "align", "filter", "gather", "audit", "split", "finetune", "evaluate", "promote"]
QUICK = {
    "degradation": "noise:60",
    "finetune": {"strategy": "full", "epochs": 1},
    "evaluate": {"bootstrap": 100},
    "split": {"heldout_fraction": 0.5},
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with local_store("kubeface") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        objects.ensure_bucket("kubeface")
        yield "kubeface"


@pytest.fixture(scope="module")
def people(bucket: str, orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight people × four photographs in a bucket, one of the photographs cut off."""
    scratch = tmp_path_factory.mktemp("people") / "image"
    for person in range(1, 9):
        for number in range(1, 5):
            data = orl[f"s{person}/{number}.pgm"]
            scratch.write_bytes(data[:4000] if (person, number) == (8, 4) else data)
            objects.upload(scratch, f"s3://{bucket}/people/s{person}/{number}.pgm")
    return f"s3://{bucket}/people"


@pytest.fixture(scope="module")
def runs(people: str, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, dict[str, Any]]]:
    """The same run twice, the second time in shards; it knows of the first one's data, not of its model."""
    folder = tmp_path_factory.mktemp("runs")
    done = []
    for name, count, models in (("one", 1, "models"), ("two", 3, "others")):
        arguments = QUICK | {"source": people, "models": f"s3://{bucket}/{models}", "name": "quick", "seed": 5}
        arguments |= {"resources": {"shards": count}}
        done.append((folder / name, run_local(arguments, folder / name)))
        data = folder / "data.json"
        objects.download(f"s3://{bucket}/models/quick/data.json", data)
        if name == "one":
            objects.upload(data, f"s3://{bucket}/others/quick/data.json")
    return done


@pytest.mark.slow
def test_a_run_leaves_report_and_summary(runs: list[tuple[Path, dict[str, Any]]]) -> None:
    folder, summary = runs[0]
    assert summary["pipeline"] == "face-finetuning"
    assert summary["seed"] == 5
    assert list(summary["steps"]) == sorted(STEPS)
    for step in STEPS:
        assert summary["steps"][step]["seconds"] >= 0
        assert {"rows_in", "rows_out"} <= summary["steps"][step].keys()
    assert summary["dataset"]["images"] == 31
    assert summary["dataset"]["identities"] == 8
    assert summary["dataset"]["rejected"] == 1
    for which in ("baseline", "finetuned"):
        for name in ("heldout", "heldout_clean"):
            figures = summary[which][name]
            assert {"accuracy", "auc", "eer", "tar_at_far"} <= figures.keys()
            assert 0.5 < figures["auc"] <= 1
    assert isinstance(summary["gate"]["promoted"], bool)
    assert "held-out people" in summary["gate"]["reason"]
    assert summary["versions"]["torch"].startswith("2.")
    assert json.loads((folder / "summary.json").read_text("utf-8")) == summary
    html = (folder / "report.html").read_text("utf-8")
    assert ("Promoted" if summary["gate"]["promoted"] else "Not promoted") in html
    assert f"{100 * summary['finetuned']['heldout']['auc']:.2f} %" in html
    assert "s8/4.pgm" in html  # the photograph that was cut off
    assert (folder / "model" / "model.safetensors").is_file()
    assert json.loads((folder / "model" / "model.json").read_text("utf-8"))["training"]["image"] is None  # no container
    assert "Data audit" in (folder / "data.html").read_text("utf-8")
    assert (folder.parent / "latest").resolve() == runs[1][0].resolve()


@pytest.mark.slow
def test_a_run_promotes_exactly_when_the_gate_says_so(runs: list[tuple[Path, dict[str, Any]]], bucket: str) -> None:
    summary = runs[0][1]
    written = [f.name for f in objects.list_files(f"s3://{bucket}/models") if f.name.endswith("model.safetensors")]
    assert bool(written) == summary["gate"]["promoted"] == summary["gate"]["better"]
    assert (summary["model"]["uri"] is not None) == summary["gate"]["promoted"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_summary_and_model_whatever_the_shards(
    runs: list[tuple[Path, dict[str, Any]]],
) -> None:
    summaries = []
    for _, summary in runs:
        for step in summary["steps"].values():
            step.pop("seconds")
        for name in ("shards", "changed_shards", "drift"):  # the second run compares itself with the first
            summary["dataset"].pop(name)
        summaries.append(summary)
    assert summaries[0] == summaries[1]
    models = [(folder / "model" / "model.safetensors").read_bytes() for folder, _ in runs]
    assert models[0] == models[1]


@pytest.mark.slow
def test_a_run_compares_its_data_with_the_run_before(runs: list[tuple[Path, dict[str, Any]]], bucket: str) -> None:
    first, second = (json.loads((folder / "summary.json").read_text("utf-8"))["dataset"] for folder, _ in runs)
    assert not first["drift"]["compared"] and first["changed_shards"] == ["0/1"]
    assert second["drift"]["compared"] and set(second["drift"]["features"].values()) == {0.0}  # the same data
    assert second["shards"] == len(second["changed_shards"]) > 1  # divided otherwise: all of them are new
    left = json.loads(objects.read_bytes(f"s3://{bucket}/others/quick/data.json"))
    assert left["images"] == 31 and len(left["shards"]) == second["shards"]


@pytest.mark.slow
def test_without_drift_a_run_trains_all_the_same_where_nothing_is_promoted(
    runs: list[tuple[Path, dict[str, Any]]], people: str, bucket: str, tmp_path: Path
) -> None:
    """test_labelled.py has a run that hands the promoted model on."""
    assert not runs[0][1]["gate"]["promoted"]
    arguments = QUICK | {"source": people, "models": f"s3://{bucket}/models", "name": "quick", "seed": 5}
    arguments |= {"audit": {"on_drift": "retrain", "max_drift": 0.25}}
    folder = tmp_path / "run"
    summary = run_local(arguments, folder)
    assert summary["trained"] is True and summary["dataset"]["drift"]["compared"]
    first = (runs[0][0] / "model" / "model.safetensors").read_bytes()
    assert (folder / "model" / "model.safetensors").read_bytes() == first
    assert "Data audit" in (folder / "data.html").read_text("utf-8")


def test_a_failing_step_is_named_with_its_reason(tmp_path: Path, orl_folder: Path) -> None:
    before = type(face_finetuning.pipeline_spec)()
    before.CopyFrom(face_finetuning.pipeline_spec)
    with pytest.raises(
        KubefaceError, match=r"step plan failed: align\.detector is 'yolo': input should be.*log: .*run\.log"
    ):
        run_local({"source": str(orl_folder), "models": "m", "align": {"detector": "yolo"}}, tmp_path / "run")
    assert "Traceback" not in (tmp_path / "run" / "run.log").read_text("utf-8").split("'yolo'")[1]
    assert not (tmp_path / "run" / "report.html").exists()
    assert face_finetuning.pipeline_spec == before  # the pipeline that is compiled keeps its retries


def test_a_run_does_not_overwrite_another(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="exists already"):
        run_local({"source": "x", "models": "m"}, tmp_path)


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kubeface", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=ROOT,
        timeout=120,
    )


def one_error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error that says what went wrong."""
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


def test_a_prefix_without_images_is_one_line_and_an_exit_code(bucket: str, tmp_path: Path) -> None:
    done = command("run", "--source", f"s3://{bucket}/nobody", "--models", "m", "--folder", str(tmp_path / "run"))
    assert "step plan failed: s3://kubeface/nobody holds no image" in one_error_line(done)


def test_a_wrong_key_is_one_line_and_an_exit_code(bucket: str) -> None:
    line = one_error_line(command("demo", AWS_SECRET_ACCESS_KEY="wrong"))
    assert "refuses the access key" in line and "wrong" not in line


def test_a_missing_bucket_is_one_line_and_an_exit_code(bucket: str) -> None:
    line = one_error_line(command("demo", S3_BUCKET="not-there"))
    assert "bucket 'not-there' does not exist" in line


def test_an_endpoint_without_a_bucket_is_one_line_and_an_exit_code(bucket: str) -> None:
    assert "S3_BUCKET is not" in one_error_line(command("demo", S3_BUCKET=""))


def test_a_port_in_use_is_one_line_and_an_exit_code(bucket: str) -> None:
    port = os.environ["S3_ENDPOINT"].rpartition(":")[2]
    line = one_error_line(command("demo", S3_ENDPOINT="", STORE_PORT=port))
    assert f"port {port} on 127.0.0.1 is in use" in line
