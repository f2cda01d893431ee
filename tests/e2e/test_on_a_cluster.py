"""All that a user does on a cluster, in order, against the cluster of the kubeconfig: `make e2e`.

Nothing here runs without E2E=1: it deploys into the namespace of Kubeflow Pipelines and starts runs there. The images
must have been pushed (build/images.json). The namespace is held to pod security `restricted` the whole time.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeface.storage import objects
from tests.e2e.cluster import BUCKET, NAMESPACE, command, kubectl, store, submitted, wait

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(os.environ.get("E2E") != "1", reason="E2E=1 is not set: make e2e runs this against a cluster"),
]
PEOPLE, PHOTOGRAPHS = 8, 4
TRAINED = {"finetune", "evaluate", "promote"}
NEVER_CACHED = {"plan", "report", "notify"}
PIPELINE = ("--pipeline", "face-finetuning", "--images", "build/images.json")
DEPLOY = ("deploy", "--overlay", "dev", "--namespace", NAMESPACE, *PIPELINE)
LABEL = "pod-security.kubernetes.io/enforce"


@pytest.fixture(scope="module", autouse=True)
def restricted() -> Iterator[None]:
    """Every pod that starts is held to the strictest of the pod security standards."""
    before = json.loads(kubectl("get", "namespace", NAMESPACE, "--output=json"))["metadata"]["labels"].get(LABEL)
    kubectl("label", "--overwrite", "namespace", NAMESPACE, f"{LABEL}=restricted")
    yield
    kubectl("label", "--overwrite", "namespace", NAMESPACE, f"{LABEL}={before}" if before else f"{LABEL}-")


@pytest.fixture(scope="module")
def people(orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Eight people with four photographs each in the cluster's store."""
    scratch = tmp_path_factory.mktemp("people") / "image"
    with store():
        source = f"s3://{BUCKET}/e2e-{int(time.time())}"
        for person in range(1, PEOPLE + 1):
            for number in range(1, PHOTOGRAPHS + 1):
                scratch.write_bytes(orl[f"s{person}/{number}.pgm"])
                objects.upload(scratch, f"{source}/people/s{person}/{number}.pgm")
        yield source


@pytest.fixture(scope="module")
def values(people: str) -> dict[str, Any]:
    """Parameters of a run that takes minutes."""
    return {
        "source": f"{people}/people",
        "models": f"{people}/models",
        "name": "e2e",
        "degradation": "noise:60",
        "split": {"heldout_fraction": 0.5},
        "finetune": {"strategy": "full", "epochs": 1},
        "evaluate": {"bootstrap": 100, "probes": "none"},
    }


def test_deploying_twice_changes_nothing() -> None:
    command("compile", *PIPELINE, "--weights-claim", "kubeface-weights")
    command(*DEPLOY)
    assert "nothing to change" in command(*DEPLOY)
    kubectl("rollout", "status", "statefulset/kubeface-store", "--timeout=180s")


def test_the_doctor_finds_nothing_wrong() -> None:
    said = command("doctor", "--overlay", "dev", "--namespace", NAMESPACE, "--images", "build/images.json")
    assert "FAIL" not in said


def test_a_run_goes_through_and_says_so(values: dict[str, Any], tmp_path: Path) -> None:
    run = submitted(values, tmp_path)
    status = wait(run)
    assert status.state == "SUCCEEDED", status.text
    assert set(status.steps.values()) == {"SUCCEEDED"}, status.text
    assert "epoch 1/1" in command("logs", run, "--step", "finetune")


def test_the_cache_serves_a_second_and_a_third_run_of_the_same_data(values: dict[str, Any], tmp_path: Path) -> None:
    for _ in range(2):
        status = wait(submitted(values, tmp_path))
        assert status.state == "SUCCEEDED", status.text
        assert status.cached == status.steps.keys() - NEVER_CACHED, status.text


def test_new_photographs_are_trained_on(
    people: str, values: dict[str, Any], orl: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "new").write_bytes(orl["s1/9.pgm"])
    objects.upload(tmp_path / "new", f"{people}/people/s1/9.pgm")
    status = wait(submitted(values, tmp_path))
    assert status.state == "SUCCEEDED", status.text
    assert not status.cached & TRAINED, status.text


def test_a_run_of_the_form_needs_source_and_models_alone(people: str, tmp_path: Path) -> None:
    """And the rest as the form shows it; on these few people the training is short."""
    status = wait(submitted({"source": f"{people}/people", "models": f"{people}/form"}, tmp_path), minutes=25)
    assert status.state == "SUCCEEDED", status.text


def test_a_schedule_starts_a_run_and_lets_it_end(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "monthly.yaml").write_text(yaml.safe_dump(values))
    command("schedule", "e2e", "--cron", "0 * * * * *", "--params", tmp_path / "monthly.yaml")
    end = time.monotonic() + 240
    while not running() and time.monotonic() < end:
        time.sleep(5)
    assert running()
    command("unschedule", "e2e")
    assert not running()
    assert "e2e" not in command("schedules")


def running() -> str:
    """Names of the Workflows that are going."""
    return kubectl("get", "workflows", "--selector=workflows.argoproj.io/phase=Running", "--output=name")


def test_a_cancelled_run_is_resumed(values: dict[str, Any], tmp_path: Path) -> None:
    run = submitted(values | {"finetune": {"strategy": "full", "epochs": 2}}, tmp_path)
    assert wait(run, until=("finetune", "RUNNING")).state == "RUNNING"
    command("cancel", run)
    assert wait(run, minutes=5).state in {"CANCELED", "FAILED"}
    said = command("resume", run)
    again = re.search(r"^run: +(\S+)$", said, re.M)
    status = wait(again[1] if again else run)
    assert status.state == "SUCCEEDED", status.text


def test_a_step_that_fails_is_named_with_its_reason_and_told(
    people: str, values: dict[str, Any], orl: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "one").write_bytes(orl["s1/1.pgm"])
    for folder in ("s1", "more/s1"):
        objects.upload(tmp_path / "one", f"{people}/twice/{folder}/{len(folder)}.pgm")
    run = submitted(values | {"source": f"{people}/twice"}, tmp_path)
    status = wait(run)
    assert status.state == "FAILED"
    assert "identity 's1' stands in two folders" in status.text
    assert status.steps["notify"] == "SUCCEEDED"
    assert "failed" in command("logs", run, "--step", "notify")


def test_twelve_shards(values: dict[str, Any], tmp_path: Path) -> None:
    status = wait(submitted(values | {"resources": {"shards": 12}}, tmp_path), minutes=25)
    assert status.state == "SUCCEEDED", status.text


def test_undeploying_leaves_the_data() -> None:
    command("undeploy", "--overlay", "dev", "--namespace", NAMESPACE)
    assert "data-kubeface-store-0" in kubectl("get", "persistentvolumeclaims", "--output=name")
    assert "kubeface-store" not in kubectl("get", "statefulsets", "--output=name")
