"""A TrainJob: what is asked of Kubernetes (a stub of its API on loopback), what is shown, and that it goes away."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client

from kubeface.finetune import launch, trainjob
from kubeface.finetune.launch import Nodes
from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from tests.kubeface.finetune.conftest import QUICK

ROOT = Path(__file__).resolve().parents[3]
UID = "0123abcd-0000-0000-0000-000000000000"
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs"
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
                    {
                        "name": "AWS_SECRET_ACCESS_KEY",
                        "valueFrom": {"secretKeyRef": {"name": "mlpipeline-minio-artifact", "key": "secretkey"}},
                    },
                    {"name": "KUBEFACE_IMAGE", "value": "registry.example/finetune@sha256:1f"},
                    {"name": "KFP_POD_UID", "value": UID},
                ],
            },
        ],
    },
}
NODES = Nodes(
    2, {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": 4}, "torch-distributed", "s3://b/a", "s3://b/s", "s3://b/m"
)
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

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                outer.asked.append((self.command, self.path))
                length = int(self.headers.get("Content-Length") or 0)
                status, body = outer.serve(self.command, self.path, json.loads(self.rfile.read(length) or b"null"))
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def client(self) -> client.ApiClient:
        settings = client.Configuration(host=self.url)
        settings.retries = False
        return client.ApiClient(settings)

    @staticmethod
    def pod(index: int, ended: dict[str, Any] | None) -> dict[str, Any]:
        state = {"terminated": ended} if ended else {"running": {}}
        one = {"name": "node", "image": "i", "imageID": "i", "ready": True, "restartCount": 0, "state": state}
        return {
            "metadata": {"name": f"pod-{index}", "labels": {trainjob.INDEX: str(index)}},
            "status": {"containerStatuses": [one]},
        }

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
        return 200, self.jobs[name] | {
            "status": {"conditions": conditions, "jobsStatus": [{"name": "node", "active": 2}]}
        }


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("HOSTNAME", "step-1")
    monkeypatch.setenv("S3_ENDPOINT", "http://store:8333")
    monkeypatch.setattr(trainjob, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(trainjob, "PATIENCE_SECONDS", 5.0)
    monkeypatch.setattr(objects, "download_folder", lambda uri, path, step: path.mkdir())
    monkeypatch.setattr(objects, "read_bytes", lambda uri: json.dumps({"rows_in": 3, "from": uri}).encode())
    found = Api()
    yield found
    found.server.shutdown()
    found.server.server_close()


def run(api: Api, folder: Path, **changes: Any) -> dict[str, Any]:
    arguments = {
        "aligned": folder / "a",
        "split": folder / "s",
        "out": folder / "model",
        "seed": 7,
        "settings": {"lr": 1e-3},
    }
    nodes = Nodes(**vars(NODES) | changes)
    return trainjob.run_trainjob(nodes, arguments, api.client(), "team")


def test_the_nodes_are_made_after_the_steps_own_pod(api: Api, tmp_path: Path) -> None:
    assert run(api, tmp_path) == {"rows_in": 3, "from": "s3://b/m.figures.json"}
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
    run(api, tmp_path)
    trainer = api.made["spec"]["trainer"]
    assert trainer["command"] == ["python", "-m", "torch.distributed.run", "-m", "kubeface.finetune.node"]
    told = json.loads(trainer["args"][0])
    assert told["upload"] == "s3://b/m" and told["figures"] == "s3://b/m.figures.json"
    assert told["arguments"] == {
        "aligned": "s3://b/a", "split": "s3://b/s", "out": trainjob.MODEL, "seed": 7, "settings": {"lr": 1e-3},
    }  # fmt: skip


def test_the_log_is_shown_once_and_the_job_is_gone(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(api, tmp_path)
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
        run(api, tmp_path)
    assert str(caught.value) == f"TrainJob finetune-0123abcd failed: {said}"
    assert api.jobs == {} and not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        ("POST trainjob", 403, "the step's service account may not: give it the role of manifests/base"),
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
        run(api, tmp_path)
    assert said in str(caught.value) and "for you" in str(caught.value) and "\n" not in str(caught.value)
    assert api.jobs == {}


def test_an_api_that_is_away_for_a_while_costs_nothing(api: Api, tmp_path: Path) -> None:
    api.faults = {"GET trainjob": [503, 500, 429]}
    assert run(api, tmp_path)["rows_in"] == 3


def test_a_job_that_somebody_deletes_ends_the_step(api: Api, tmp_path: Path) -> None:
    api.faults["GET trainjob"] = [404]
    with pytest.raises(KubefaceError, match="see who deleted it"):
        run(api, tmp_path)


def test_data_that_not_all_nodes_reach_are_refused(api: Api, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"the split lies at '/data/s': it must be s3://"):
        run(api, tmp_path, split="/data/s")
    assert api.asked == []


@pytest.mark.parametrize(
    ("resources", "count"),
    [({}, 1), ({"cpu": "8"}, 1), ({"amd.com/gpu": "2"}, 2), ({"nvidia.com/mig-1g.5gb": 3, "rdma/hca": 1}, 3)],
)
def test_a_process_for_each_gpu_of_a_node(resources: dict[str, Any], count: int) -> None:
    assert trainjob.gpus(resources) == count


def test_a_number_of_gpus_that_is_none_is_refused() -> None:
    with pytest.raises(KubefaceError, match=r"nvidia\.com/gpu is 'two'"):
        trainjob.gpus({"nvidia.com/gpu": "two"})


PROGRAM = """
import sys
from kubernetes import client
from kubeface.finetune import trainjob
from kubeface.finetune.launch import Nodes
trainjob.POLL_SECONDS = 0.05
nodes = Nodes(2, {}, "torch-distributed", "s3://b/a", "s3://b/s", "s3://b/m")
trainjob.run_trainjob(nodes, {"out": "/nowhere"}, client.ApiClient(client.Configuration(host=sys.argv[1])), "team")
"""


def test_a_step_that_is_ended_takes_its_nodes_with_it(api: Api) -> None:
    api.states = [[]]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, api.url], cwd=ROOT, env=os.environ | {"HOSTNAME": "step-1"}
    )
    try:
        end = time.monotonic() + 60
        while sum(method == "GET" and path.startswith(JOBS) for method, path in api.asked) < 2:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        assert list(api.jobs) == ["finetune-0123abcd"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert api.jobs == {} and api.asked[-1][0] == "DELETE"


@pytest.mark.slow
def test_two_processes_of_the_pods_own_train_the_model_and_hand_on_the_figures(
    tmp_path: Path, aligned_table: Path, split_table: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The entry point that a TrainJob's nodes run, under a real torchrun, with gloo."""
    monkeypatch.setattr(launch, "processes", lambda device: 2)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = {"aligned": aligned_table, "split": split_table, "device": "cpu", "workers": 0}
    settings = QUICK | {"strategy": "head_only"}
    figures = launch.launch(Nodes(), out=tmp_path / "model", settings=settings, **arguments)
    assert figures["identities"] == 3 and figures["rows_out"] == 12
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert capfd.readouterr().out.count("epoch 1") == 1  # of two processes, one tells
    with pytest.raises(KubefaceError, match="setting 'speed' is unknown"):
        launch.launch(Nodes(), out=tmp_path / "other", settings={"speed": 1}, **arguments)


def test_one_processor_or_gpu_is_trained_on_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.processes("cpu") == 1
    monkeypatch.setattr(launch, "finetune", lambda **given: {"given": given})
    assert launch.launch(Nodes(), device="cpu", seed=3) == {"given": {"device": "cpu", "seed": 3}}
    with pytest.raises(KubefaceError, match="num_nodes is 0"):
        launch.launch(Nodes(0), device="cpu")
