"""A TrainJob: what is asked of Kubernetes (a stub of its API on loopback), what is shown, and that it goes away."""

import json
import multiprocessing
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client

from components.finetune import training, trainjob
from components.finetune.nodes import Nodes
from components.finetune.training import train
from kubeface.finetune.options import FinetuneOptions
from kubeface.finetune.result import FinetuneResult
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import read_options
from kubeface.storage import objects
from tests.support import servers

UID = "0123abcd-0000-0000-0000-000000000000"
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs"
SECRET = {"name": "mlpipeline-minio-artifact", "key": "secretkey"}
POD = {
    "metadata": {"name": "step-1", "namespace": "team", "uid": UID},
    "spec": {
        "serviceAccountName": "kubeface-runner",
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "containers": [
            {"name": "wait", "image": "argo"},
            {
                "name": "main",
                "image": "registry.example/finetune@sha256:1f",
                "env": [
                    {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": SECRET}},
                    {"name": "KUBEFACE_IMAGE", "value": "registry.example/finetune@sha256:1f"},
                    {"name": "KFP_POD_UID", "value": UID},
                ],
            },
        ],
    },
}
NODES = Nodes(num_nodes=2, resources={"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": 4.0})  # KFP has no integers
RESULT = FinetuneResult(
    rows_in=3, rows_out=3, trained=1, identities=2, labels=0, epochs=1, best_epoch=1, val_loss=None, val_accuracy=None,
    val_auc=None,
)  # fmt: skip
LOG = ["2026-01-01T00:00:00.1Z epoch 1 loss 2.0", "2026-01-01T00:00:01.2Z epoch 2 loss 1.0"]


class Api:
    """As much of Kubernetes' API as the step uses; a TrainJob's states are taken one by one, the last one stays."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.made: dict[str, Any] = {}
        self.states: list[list[dict[str, str]]] = [[], [], [{"type": "Complete", "status": "True"}]]
        self.pods: list[dict[str, Any]] = [self.pod(0, None), self.pod(1, None)]
        self.faults: dict[str, list[int]] = {}
        outer = self

        class Handler(servers.Handler):
            def take(self) -> None:
                outer.asked.append((self.command, self.path))
                status, body = outer.serve(self.command, self.path, json.loads(self.content() or b"null"))
                if isinstance(body, str):
                    self.answer(status, body.encode(), Content_Type="text/plain")
                else:
                    self.answer(status, json.dumps(body).encode(), Content_Type="application/json")

            do_GET = do_POST = do_DELETE = take

        self.server = servers.LoopbackServer(Handler)

    def client(self) -> client.ApiClient:
        settings = client.Configuration(host=self.server.url)
        settings.retries = False
        return client.ApiClient(settings)

    @staticmethod
    def pod(index: int, ended: dict[str, Any] | None) -> dict[str, Any]:
        state = {"terminated": ended} if ended else {"running": {}}
        one = {"name": "node", "image": "i", "imageID": "i", "ready": True, "restartCount": 0, "state": state}
        metadata = {"name": f"pod-{index}", "labels": {trainjob.INDEX: str(index)}}
        return {"metadata": metadata, "status": {"containerStatuses": [one]}}

    def serve(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        url = urlsplit(path)
        name = url.path.removeprefix(JOBS).strip("/")
        kind = "pod" if "/pods/" in url.path else "trainjob"
        faults = self.faults.get(f"{method} {kind}", [])
        if faults:
            return faults.pop(0), {"kind": "Status", "message": f"no {kind} for you"}
        if url.path.endswith("/pods/step-1"):
            return 200, POD
        if url.path.endswith("/pods"):
            selector = parse_qs(url.query)["labelSelector"][0]
            assert f"{trainjob.JOBSET}=finetune-0123abcd" in selector
            return 200, {"items": self.pods[:1] if f"{trainjob.INDEX}=0" in selector else self.pods}
        if url.path.endswith("/log"):
            dated = "timestamps" in parse_qs(url.query)
            return 200, "\n".join(LOG) if dated else "epoch 1\nerror: out of memory on node 1\nerror: and so on\n"
        if method == "POST":
            self.made = self.jobs[body["metadata"]["name"]] = body
            return 201, body
        if method == "DELETE":
            return (200, {"kind": "Status"}) if self.jobs.pop(name, None) else (404, {"message": "not found"})
        if name not in self.jobs:
            return 404, {"message": f"trainjobs {name} not found"}
        conditions = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        status = {"conditions": conditions, "jobsStatus": [{"name": "node", "active": 2}]}
        return 200, self.jobs[name] | {"status": status}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("HOSTNAME", "step-1")
    monkeypatch.setenv("S3_ENDPOINT", "http://store:8333")
    monkeypatch.setattr(trainjob, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(trainjob, "PATIENCE_SECONDS", 5.0)
    monkeypatch.setattr(objects, "download_folder", lambda uri, path, step: path.mkdir())
    monkeypatch.setattr(objects, "read_bytes", lambda uri: RESULT.model_dump_json().encode())
    found = Api()
    monkeypatch.setattr(
        training, "run_trainjob", lambda nodes, job: trainjob.run_trainjob(nodes, job, found.client(), "team")
    )
    with found.server:
        yield found


@dataclass
class Stored:
    """An artifact as KFP hands it over."""

    uri: str
    path: str
    metadata: dict[str, Any] = field(default_factory=dict)


def run(folder: Path, split: str = "s3://b/s", nodes: Nodes = NODES, **changes: Any) -> FinetuneResult:
    aligned, divided, model = (
        Stored(uri, str(folder / name)) for uri, name in (("s3://b/a", "a"), (split, "s"), ("s3://b/m", "model"))
    )
    given: dict[str, Any] = {"champion": "", "decision": "train"} | changes
    return train(aligned, divided, model, FinetuneOptions(seed=7, lr=1e-3), nodes=nodes, **given)


def test_the_nodes_are_made_after_the_steps_own_pod(api: Api, tmp_path: Path) -> None:
    assert run(tmp_path) == RESULT
    made, trainer = api.made, api.made["spec"]["trainer"]
    assert (made["apiVersion"], made["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made["metadata"]["name"])  # RFC 1035, as the API wants it
    assert made["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "step-1", "uid": UID}]
    assert made["spec"]["runtimeRef"] == {"name": "torch-distributed"}
    assert trainer["image"] == "registry.example/finetune@sha256:1f"
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    asked = {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "4"}
    assert trainer["resourcesPerNode"] == {"requests": asked, "limits": asked}
    assert [one["name"] for one in trainer["env"]] == ["AWS_SECRET_ACCESS_KEY", "KUBEFACE_IMAGE", "S3_ENDPOINT"]
    assert trainer["env"][0]["valueFrom"]["secretKeyRef"]["key"] == "secretkey" and "value" not in trainer["env"][0]
    (patch,) = made["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert replicated["name"] == "node" and pod["serviceAccountName"] == "kubeface-runner"
    assert pod["nodeSelector"] == {"pool": "gpu"} and pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["securityContext"]["runAsNonRoot"] and pod["volumes"][0]["emptyDir"] == {"medium": "Memory"}


def test_the_nodes_run_the_step_on_what_all_of_them_reach(api: Api, tmp_path: Path) -> None:
    run(tmp_path)
    trainer = api.made["spec"]["trainer"]
    assert trainer["command"] == ["python", "-m", "torch.distributed.run", "-m", "kubeface.finetune.node"]
    assert json.loads(trainer["args"][0]) == {
        "aligned": "s3://b/a/aligned", "split": "s3://b/s", "out": str(training.MODEL),
        "options": {"seed": 7, "lr": 1e-3},
        "champion": "", "decision": "train", "result": "s3://b/m.result.json", "upload": "s3://b/m",
    }  # fmt: skip


def test_the_log_is_shown_once_and_the_job_is_gone(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("epoch")] == ["epoch 1 loss 2.0", "epoch 2 loss 1.0"]
    assert lines[0] == "finetune: made TrainJob finetune-0123abcd of 2 nodes"
    assert api.jobs == {} and lines[-1] == "finetune: deleted TrainJob finetune-0123abcd"


FAILED = [[{"type": "Failed", "status": "True", "message": "jobset failed due to one or more job failures"}]]


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ({"exitCode": 1, "reason": "Error", "message": "nobody to train on\n"}, "node 1 of 2: nobody to train on"),
        ({"exitCode": 1, "reason": "Error"}, "node 1 of 2: out of memory on node 1"),
        (None, "jobset failed due to one or more job failures"),
    ],
)
def test_a_node_that_fails_is_named_with_its_last_words(
    api: Api, tmp_path: Path, ended: dict[str, Any] | None, said: str
) -> None:
    api.states, api.pods[1] = FAILED, api.pod(1, ended)
    with pytest.raises(KubefaceError) as caught:
        run(tmp_path)
    assert str(caught.value) == f"TrainJob finetune-0123abcd failed: {said}"
    assert api.jobs == {} and not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (
            "POST trainjob",
            403,
            "the step's service account may not: start the run with kubeface-trainer of manifests/base",
        ),
        ("POST trainjob", 404, "install Kubeflow Trainer 2.2 or later"),
        ("POST trainjob", 409, "it exists already"),
        ("POST trainjob", 500, "Kubernetes answered 500"),
        ("GET pod", 401, "token is not accepted"),
        ("GET trainjob", 403, "the step's service account may not"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(
    api: Api, tmp_path: Path, fault: str, status: int, said: str
) -> None:
    api.faults[fault] = [status]
    with pytest.raises(KubefaceError) as caught:
        run(tmp_path)
    assert said in str(caught.value) and "for you" in str(caught.value)
    assert api.jobs == {}


def test_an_api_that_is_away_for_a_while_costs_nothing(api: Api, tmp_path: Path) -> None:
    api.faults = {"GET trainjob": [503, 500, 429]}
    assert run(tmp_path).rows_in == 3


def test_a_job_that_somebody_deletes_ends_the_step(api: Api, tmp_path: Path) -> None:
    api.faults["GET trainjob"] = [404]
    with pytest.raises(KubefaceError, match="see who deleted it"):
        run(tmp_path)


def test_data_that_not_all_nodes_reach_are_refused(api: Api, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"the split lies at '/data/s': it must be s3://"):
        run(tmp_path, split="/data/s")
    assert api.asked == []


def test_a_process_for_each_gpu_of_a_node() -> None:
    assert Nodes().gpus() == Nodes(resources={"cpu": "8"}).gpus() == 1
    assert Nodes(resources={"amd.com/gpu": "2"}).gpus() == 2
    assert Nodes(resources={"nvidia.com/mig-1g.5gb": 3, "rdma/hca": 1}).gpus() == 3
    with pytest.raises(KubefaceError, match=r"nvidia\.com/gpu is 'two'"):
        Nodes(resources={"nvidia.com/gpu": "two"}).gpus()


def test_a_step_that_is_ended_takes_its_nodes_with_it(api: Api) -> None:
    api.states = [[]]
    context = multiprocessing.get_context("fork")
    process = context.Process(target=trainjob.run_trainjob, args=(NODES, "{}", api.client(), "team"))
    process.start()
    try:
        end = time.monotonic() + 60
        while sum(method == "GET" and path.startswith(JOBS) for method, path in api.asked) < 2:
            assert time.monotonic() < end and process.is_alive()
            time.sleep(0.05)
        assert list(api.jobs) == ["finetune-0123abcd"]
        process.terminate()
        process.join(30)
        assert process.exitcode == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert api.jobs == {} and api.asked[-1][0] == "DELETE"


def test_what_a_keeping_run_hands_on_needs_no_nodes(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "find_promoted", lambda champion: champion)
    monkeypatch.setattr(training, "hand_on", lambda promoted, out, reason: (promoted, out))
    result: object = run(tmp_path, champion="s3://models/face", decision="keep")
    assert result == ("s3://models/face", tmp_path / "model")
    assert api.asked == []


def test_decision_and_nodes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="decision is 'stop': input should be 'train' or 'keep'"):
        run(tmp_path, decision="stop")
    with pytest.raises(KubefaceError, match=r"nodes\.num_nodes is 0"):
        read_options(Nodes, {"num_nodes": 0}, "nodes.")
