"""Steps out of a Workflow object."""

import pytest

from pipelines.cluster.workflow import steps_of_workflow
from tests.support.workflows import DRIVER, EXECUTOR, POD, RUN, SHARD, STEPS, node, task, workflow

NAMES = ["plan", "align", "audit", "split", "notify"]


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


def test_an_attempt_that_has_not_begun_comes_last() -> None:
    path = f"{STEPS}.plan"
    again = node(f"{path}(0).executor(1)", POD, "", startedAt=None)
    (step,) = steps_of_workflow(workflow(again, *task(path, "Running")), NAMES)
    assert step.pods[-1].endswith(str(again["id"]).rpartition("-")[2])


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
