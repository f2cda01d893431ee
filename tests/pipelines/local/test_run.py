"""The pipeline as kfp.local runs it: what a run leaves, that it repeats, and what it says when it cannot go on."""

import logging
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from kubeface.cli import main
from kubeface.notify.step import WEBHOOK
from kubeface.promote.champion import find_champion
from kubeface.promote.options import PromoteOptions
from kubeface.promote.step import promote
from kubeface.records.model import ModelRecord
from kubeface.records.summary import SummaryRecord, read_summary
from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from kubeface.storage.folders import read_json, write_json
from pipelines.face_finetuning import face_finetuning
from pipelines.local import containers, demo
from pipelines.local import run as run_module
from pipelines.local.run import print_outcome, run_local
from pipelines.local.store import local_store
from tests.kubeface.notify.test_notify import Webhook
from tests.support.commands import refusal
from tests.support.engine import built_images, working_engine
from tests.support.faulty_store import BUCKET, in_force
from tests.support.images import write_files

STEPS = ["ingest", "align", "filter", "gather", "audit", "split", "finetune", "evaluate", "promote"]
QUICK: dict[str, Any] = {
    "name": "quick",
    "seed": 5,
    "degradation": "noise:60",
    "finetune": {"strategy": "full", "epochs": 1},
    "evaluate": {"bootstrap": 100},
    "split": {"heldout_fraction": 0.5},
    "notify": {"ui": "https://kfp.example"},
}
Run = tuple[Path, SummaryRecord]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with local_store(BUCKET) as environment, in_force(environment) as bucket:
        yield bucket


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
def webhook() -> Iterator[Webhook]:
    """Notifies the runs' ends to a webhook on loopback."""
    found = Webhook()
    with found.server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(WEBHOOK, f"{found.server.url}/T0/secret-path")
        yield found


@pytest.fixture(scope="module")
def runs(webhook: Webhook, people: str, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """The same run twice. The second one has several shards, knows of the first one's data but not of its model, and
    trains only where the data have drifted or nothing is promoted."""
    folder = tmp_path_factory.mktemp("runs")
    arguments = QUICK | {"source": people, "models": f"s3://{bucket}/models"}
    first = run_local(arguments, folder / "one")
    objects.download(f"s3://{bucket}/models/quick/data.json", folder / "data.json")
    objects.upload(folder / "data.json", f"s3://{bucket}/others/quick/data.json")
    arguments |= {"models": f"s3://{bucket}/others", "resources": {"shards": 3}}
    arguments["audit"] = {"on_drift": "retrain", "max_drift": 0.25}
    return [(folder / "one", first), (folder / "two", run_local(arguments, folder / "two"))]


@pytest.mark.slow
def test_a_run_leaves_report_and_summary(runs: list[Run]) -> None:
    folder, summary = runs[0]
    assert (summary.pipeline, summary.seed, summary.trained) == ("face-finetuning", 5, True)
    assert list(summary.steps) == sorted(STEPS)
    assert (summary.dataset.images, summary.dataset.identities, summary.dataset.rejected) == (31, 8, 1)
    for figures in (summary.baseline, summary.finetuned):
        for name in ("heldout", "heldout_clean"):
            assert {"accuracy", "eer", "tar_at_far"} <= figures[name].keys()
            assert 0.5 < float(str(figures[name]["auc"])) <= 1
    assert "held-out people" in summary.gate.reason
    assert summary.versions["torch"].startswith("2.")
    assert read_summary(folder / "summary.json") == summary
    html = (folder / "report.html").read_text("utf-8")
    assert ("Promoted" if summary.gate.promoted else "Not promoted") in html
    assert f"{100 * float(str(summary.finetuned['heldout']['auc'])):.2f} %" in html
    assert "s8/4.pgm" in html  # the photograph that was cut off
    assert (folder / "model" / "model.safetensors").is_file()
    assert ModelRecord.read(folder / "model" / "model.json").training.image is None  # no container
    assert "Data audit" in (folder / "data.html").read_text("utf-8")
    assert (folder.parent / "latest").resolve() == runs[1][0].resolve()


@pytest.mark.slow
def test_a_run_promotes_exactly_when_the_gate_says_so(runs: list[Run], bucket: str) -> None:
    summary = runs[0][1]
    written = [f.name for f in objects.list_files(f"s3://{bucket}/models") if f.name.endswith("model.safetensors")]
    assert bool(written) == summary.gate.promoted == summary.gate.better
    assert (summary.model.uri is not None) == summary.gate.promoted


@pytest.mark.slow
def test_a_run_tells_a_webhook_what_it_came_to(runs: list[Run], webhook: Webhook) -> None:
    folder, summary = runs[0]
    verdict = "promoted" if summary.gate.promoted else "not promoted"
    model = rf" Model: {re.escape(str(summary.model.uri))}\." if summary.gate.promoted else ""
    page = r" https://kfp\.example/#/runs/details/[\w-]+"
    text = next(entry["text"] for entry in webhook.told if "succeeded" in entry["text"])
    assert re.fullmatch(rf"quick: run \S+ succeeded, {verdict}: .*\.{model}{page}", text), text
    assert "secret-path" not in (folder / "run.log").read_text("utf-8")


@pytest.mark.slow
def test_a_run_with_a_failed_step_in_the_loop_tells_so_and_fails(
    webhook: Webhook, orl: dict[str, bytes], tmp_path: Path
) -> None:
    source = write_files(tmp_path / "people", dict.fromkeys(("s1/1.pgm", "more/s1/2.pgm"), orl["s1/1.pgm"]))
    with pytest.raises(KubefaceError, match=r"identity 's1' stands in two folders"):
        run_local(QUICK | {"source": source, "models": str(tmp_path / "models")}, tmp_path / "run")
    assert re.fullmatch(r"quick: run \S+ failed\. https://kfp\.example/#/runs/details/[\w-]+", webhook.told[-1]["text"])


def without_chance(summary: SummaryRecord) -> dict[str, Any]:
    """A summary without times and what tells of the run before."""
    values = summary.model_dump(mode="json")
    for step in values["steps"].values():
        step.pop("seconds")
    for name in ("shards", "changed_shards", "drift"):
        values["dataset"].pop(name)
    return values


@pytest.mark.slow
def test_the_same_seed_gives_the_same_summary_and_model_whatever_the_shards(runs: list[Run]) -> None:
    (one, first), (two, second) = runs
    assert without_chance(first) == without_chance(second)
    assert (one / "model" / "model.safetensors").read_bytes() == (two / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_compares_its_data_with_the_run_before(runs: list[Run], bucket: str, tmp_path: Path) -> None:
    first, second = (summary.dataset for _, summary in runs)
    assert not first.drift.compared and first.changed_shards == ["0/1"]
    assert second.drift.compared and set(second.drift.features.values()) == {0.0}  # the same data
    assert second.shards == len(second.changed_shards) > 1  # divided otherwise: all of them are new
    objects.download(f"s3://{bucket}/others/quick/data.json", tmp_path / "data.json")
    left = read_json(tmp_path / "data.json")  # of gather and of audit
    assert left["images"] == 31 and len(left["shards"]) == second.shards


@pytest.mark.slow
def test_without_drift_a_run_trains_all_the_same_where_nothing_is_promoted(runs: list[Run]) -> None:
    assert not runs[0][1].gate.promoted
    assert runs[1][1].trained and runs[1][1].dataset.drift.compared


@pytest.mark.slow
def test_without_drift_the_promoted_model_is_handed_on(
    runs: list[Run], people: str, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the options; here the first run's model is promoted as if the gate had found it better."""
    before, models = runs[0][0], f"s3://{bucket}/handed-on"
    steps = next((before / "steps").iterdir())
    evaluation = Path(shutil.copytree(steps / "evaluate" / "evaluation", tmp_path / "evaluation"))
    found = read_json(evaluation / "evaluation.json")
    write_json(evaluation / "evaluation.json", found | {"gate": found["gate"] | {"better": True}})
    data = (steps / "gather" / "gathered", steps / "audit" / "audited")
    options = PromoteOptions(name="quick", destination=models)
    assert promote(before / "model", evaluation, tmp_path / "promotion", *data, options).promoted
    arguments = QUICK | {"source": people, "models": models, "audit": {"on_drift": "retrain", "max_drift": 0.25}}
    summary = run_local(arguments | {"finetune": {"strategy": "full", "epochs": 2}}, tmp_path / "run")
    assert not summary.trained and summary.model.uri == find_champion(models, "quick")
    weights = [folder / "model" / "model.safetensors" for folder in (before, tmp_path / "run")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    print_outcome(summary, tmp_path / "run")
    assert "not trained: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_same_model_comes_out_of_containers(runs: list[Run], people: str, bucket: str, tmp_path: Path) -> None:
    """Every step in the image that a cluster would run, built from the files as they are."""
    before, first = runs[0]
    arguments = QUICK | {"source": people, "models": f"s3://{bucket}/contained"}
    with containers.in_containers(built_images(), working_engine()) as runner:
        summary = run_local(arguments, tmp_path / "run", runner=runner)
    for name in ("model.safetensors", "model.onnx"):
        assert (tmp_path / "run" / "model" / name).read_bytes() == (before / "model" / name).read_bytes()
    assert (summary.finetuned, summary.gate) == (first.finetuned, first.gate)


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


def test_a_run_leaves_the_root_logger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a loop that run at once leave kfp's own handler there."""
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def leaves_its_handler(**_: object) -> None:
        root.handlers[:] = [logging.NullHandler()]
        root.setLevel(logging.DEBUG)
        raise KubefaceError("a step fails")

    monkeypatch.setattr(run_module, "load", lambda _: leaves_its_handler)
    monkeypatch.setattr(run_module, "_for_this_machine", lambda _: nullcontext())
    with pytest.raises(KubefaceError, match="a step fails"):
        run_local({"source": "x", "models": "m"}, tmp_path / "run")
    assert (root.handlers, root.level) == before


def test_a_run_does_not_overwrite_another(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="exists already"):
        run_local({"source": "x", "models": "m"}, tmp_path)


def test_a_prefix_without_images_is_one_line(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--source", f"s3://{bucket}/nobody", "--models", "m", "--folder", str(tmp_path / "run"))
    assert "step plan failed: s3://kubeface/nobody holds no image" in refusal(capsys, "run", *flags)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses the access key"),
        ({"S3_BUCKET": "not-there"}, "bucket 'not-there' does not exist"),
        ({"S3_BUCKET": ""}, "S3_BUCKET is not"),
        ({"S3_ENDPOINT": ""}, "on 127.0.0.1 is in use"),
    ],
)
def test_a_store_that_the_demo_cannot_use_is_one_line(
    environment: dict[str, str],
    said: str,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("STORE_PORT", os.environ["S3_ENDPOINT"].rpartition(":")[2])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    line = refusal(capsys, "demo")
    assert said in line and "wrong" not in line


def test_the_demo_in_containers_is_the_demo_with_that_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "images.json"
    assert refusal(capsys, "demo-containers", "--record", str(record), "--engine", "podman").endswith(
        f"{record} does not exist: run 'make images' first"
    )
    calls: list[tuple[demo.Demo, AbstractContextManager[Any]]] = []
    monkeypatch.setattr(demo, "run", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(containers, "find_engine", lambda name: "docker")
    record.write_text("{}")
    main(["demo-containers", "classes", "--record", str(record)])
    ((chosen, runner),) = calls
    assert chosen is demo.DEMOS["classes"]
    with pytest.raises(KubefaceError, match="no image of align, audit, evaluate"), runner:
        pass
