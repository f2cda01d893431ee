"""Steps out of a Workflow object; its nodes are named and nested as Argo 4.0.5 wrote them for KFP 2.17.0."""

import base64
import gzip
import json
import zlib
from typing import Any

import pytest

from pipelines.cluster.workflow import steps_of_workflow

RUN = "face-finetuning-c8wdj"
NAMES = ["plan", "align", "audit", "split", "notify"]
STEPS = f"{RUN}(0).root(0).face-finetuning-steps(0)"
SHARD = f"{STEPS}.for-loop-1(0).iteration-iterations(0:1)(0).iteration-item(0)"
EXECUTOR, POD, DRIVER = (f"retry-system-container-{kind}" for kind in ("executor", "impl", "driver"))


def node(path: str, template: str, phase: str = "Succeeded", cached: bool = False, **more: Any) -> dict[str, Any]:
    number = zlib.crc32(path.encode())
    minute = more.pop("minute", 0)
    ended = f"2026-11-30T17:{minute + 1:02d}:00Z" if phase not in ("Running", "Pending") else None
    times = {"startedAt": f"2026-11-30T17:{minute:02d}:00Z", "finishedAt": ended}
    inputs = {"parameters": [{"name": "cached-decision", "value": str(cached).lower()}]}
    name = {"id": f"{RUN}-{number}", "name": path, "displayName": path.rpartition(".")[2], "templateName": template}
    return {**name, "type": "Retry", "phase": phase, "inputs": inputs, **times, **more}


def task(path: str, phase: str = "Succeeded", **more: Any) -> list[dict[str, Any]]:
    """A task with its driver, wrappers and one pod."""
    wrappers = [
        (path, EXECUTOR),
        (f"{path}(0)", EXECUTOR),
        (f"{path}(0).executor", POD),
        (f"{path}(0).executor(0)", POD),
    ]
    driver = node(f"{path}-driver", DRIVER, **{key: value for key, value in more.items() if key == "minute"})
    return [driver, *(node(name, template, phase, **more) for name, template in wrappers)]


def workflow(*nodes: dict[str, Any], packed: bool = False) -> dict[str, Any]:
    by_id = {one["id"]: one for one in nodes}
    status = {"compressedNodes": base64.b64encode(gzip.compress(json.dumps(by_id).encode())).decode()}
    return {"metadata": {"name": RUN}, "status": status if packed else {"nodes": by_id}}


@pytest.mark.parametrize("packed", [False, True])
def test_a_step_has_state_time_and_pods_however_argo_stores_its_nodes(packed: bool) -> None:
    said = "main: Error (exit code 1): the bucket is not there\n"
    nodes = [*task(f"{STEPS}.plan"), *task(f"{STEPS}.audit", "Failed", minute=2, message=said)]
    nodes += [node(f"{STEPS}.split-driver", DRIVER, "Omitted"), node(f"{STEPS}.split", EXECUTOR, "Omitted")]
    plan, audit, split = steps_of_workflow(workflow(*nodes, packed=packed), NAMES)
    assert (plan.name, plan.state, plan.seconds, plan.shard) == ("plan", "SUCCEEDED", 60.0, None)
    assert len(plan.pods) == 1 and plan.pods[0].startswith(f"{RUN}-{POD}-")
    assert (audit.state, audit.error) == ("FAILED", said.strip())
    assert (split.name, split.state, split.seconds, split.pods) == ("split", "SKIPPED", None, ())


def test_a_shard_s_task_and_what_the_cache_serves_are_known() -> None:
    served = node(f"{SHARD}.align", EXECUTOR, cached=True)
    (step,) = steps_of_workflow(workflow(node(f"{SHARD}.align-driver", DRIVER), served), NAMES)
    assert (step.state, step.shard, step.pods) == ("CACHED", 1, ())


def test_each_attempt_has_a_pod() -> None:
    path = f"{STEPS}.plan"
    again = node(f"{path}(0).executor(1)", POD, "Running", minute=5)
    (step,) = steps_of_workflow(workflow(*task(path, "Running"), again), NAMES)
    assert step.state == "RUNNING" and len(step.pods) == 2
    assert step.pods[-1].endswith(again["id"].rpartition("-")[2])


@pytest.mark.parametrize("driven", [True, False])
def test_what_waits_says_why(driven: bool) -> None:
    why = "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."
    path = f"{STEPS}.audit"
    nodes = [node(f"{path}-driver", DRIVER, "Succeeded" if driven else "Running")]
    if driven:
        nodes += [node(path, EXECUTOR, "Running"), node(f"{path}(0).executor(0)", POD, "Pending", message=why)]
    (step,) = steps_of_workflow(workflow(*nodes), NAMES)
    assert (step.state, step.error) == ("PENDING", why if driven else "")


def test_nodes_of_no_step_are_left_out() -> None:
    assert steps_of_workflow(workflow(node(f"{STEPS}.for-loop-1", "comp-for-loop-1")), NAMES) == []
    assert steps_of_workflow({"metadata": {"name": RUN}}, NAMES) == []
