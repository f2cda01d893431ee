"""`logs`: what steps printed, and what they print."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.cluster import watch
from tests.support.commands import Told
from tests.support.stubs.kfp_api import KfpApi, step
from tests.support.stubs.kubectl import FakeKubectl, fake_kubectl
from tests.support.workflows import RUN, SHARD, STEPS, pod, task, workflow

pytestmark = pytest.mark.usefixtures("bare_deployment", "kubectl")


def test_logs_of_all_and_of_one_step(told: Told, refused: Told, api: KfpApi, run: str) -> None:
    tasks = [*step("plan", pod="a"), *step("filter-faces", pod="b", start=9), *step("gather", cached=True, start=99)]
    api.finish(run, *tasks)
    api.state.logs = {"a": "one\ntwo\n", "b": '{"three": 3}\n'}
    one = '── filter-faces (SUCCEEDED)\n{"three": 3}\n'
    assert told("logs", run) == f"── plan (SUCCEEDED)\none\ntwo\n{one}"
    assert told("logs", run, "--step", "filter") == one
    assert "step 'plam' is unknown: use one of" in refused("logs", run, "--step", "plam")
    assert "the cache served it" in refused("logs", run, "--step", "gather")


def test_where_kfp_serves_no_log_kubectl_does(
    told: Told, refused: Told, api: KfpApi, run: str, kubectl: Callable[..., FakeKubectl]
) -> None:
    names = {"wf-impl-1": "wf.root.plan.executor", "wf-impl-2": "wf.root.gather.executor"}
    pods = [
        {"metadata": {"name": pod, "annotations": {"workflows.argoproj.io/node-name": path}}}
        for pod, path in names.items()
    ]
    program = kubectl(*pods)
    api.finish(run, *step("plan"))
    assert told("logs", run) == "── plan (SUCCEEDED)\nlog of wf-impl-1\n"
    asked = f"get pods --namespace=kubeflow --selector=pipeline/runid={run}"
    assert any(line.startswith(asked) for line in program.asked())
    kubectl()
    assert "the pods of plan are gone" in refused("logs", run)


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has things happen between two looks, one each time, when what is printed by then has come."""

    def plan(*happens: Callable[[], object]) -> None:
        left = list(happens)

        def rest() -> None:
            for thread in threading.enumerate():
                if thread.name.startswith(RUN):  # it reads the log of a pod of this name
                    thread.join()
            if not left:
                pytest.fail("it looks too long")
            left.pop(0)()

        monkeypatch.setattr(watch, "rest", rest)

    return plan


PLAN, FINETUNE = f"{STEPS}.plan", f"{STEPS}.finetune"


def test_logs_follow_what_runs_until_the_run_has_ended(
    told: Told, run: str, kubectl: Callable[..., FakeKubectl], after: Callable[..., None]
) -> None:
    done, shown = task(PLAN), workflow(*task(PLAN), *task(FINETUNE, "Running"))
    lines = {pod(FINETUNE): ["epoch 1", "epoch 2"]}
    after(
        # The connection ended, and has more when it is made anew: no line is lost or comes twice.
        lambda: kubectl(workflows=[shown], logs={pod(FINETUNE): ["epoch 1", "epoch 2", "epoch 3"]}),
        lambda: kubectl(workflows=[workflow(*done, *task(FINETUNE), *task(f"{STEPS}.evaluate", "Running"))]),
        lambda: kubectl(workflows=[workflow(phase="Succeeded")]),
    )
    kubectl(workflows=[shown], logs=lines)
    assert told("logs", run, "--follow").splitlines() == [
        "── finetune",
        "epoch 1",
        "epoch 2",
        "epoch 3",
        "── evaluate",
        f"log of {pod(f'{STEPS}.evaluate')}",
    ]


def test_logs_follow_the_step_that_is_named_and_no_other(
    told: Told, run: str, kubectl: Callable[..., FakeKubectl], after: Callable[..., None]
) -> None:
    running = workflow(*task(PLAN, "Running"), *task(FINETUNE, "Running"))
    after(
        lambda: kubectl(workflows=[running], logs={pod(FINETUNE): ["epoch 1", "!failed to watch file"]}),
        lambda: kubectl(workflows=[workflow(*task(PLAN, "Running"), *task(FINETUNE))]),
    )
    kubectl(workflows=[running], logs={pod(FINETUNE): None})  # it is asked again until it has begun
    assert told("logs", run, "--step", "finetune", "--follow") == "── finetune\nepoch 1\nfailed to watch file\n"


def test_logs_of_several_shards_say_whose_a_line_is(
    told: Told, run: str, kubectl: Callable[..., FakeKubectl], after: Callable[..., None]
) -> None:
    other = SHARD.replace("(0:1)", "(1:2)")
    kubectl(workflows=[workflow(*task(f"{SHARD}.align", "Running"), *task(f"{other}.align", "Running"))])
    after(lambda: kubectl(workflows=[workflow(phase="Failed")]))
    lines = told("logs", run, "--follow").splitlines()
    assert sorted(lines) == [
        f"align (shard {number}) | log of {pod(f'{path}.align')}" for number, path in ((1, SHARD), (2, other))
    ]


def test_logs_that_cannot_be_followed_say_why(
    refused: Told, run: str, kubectl: Callable[..., FakeKubectl], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"kubectl finds no Workflow of run {run} in namespace kubeflow" in refused("logs", run, "--follow")
    kubectl(workflows=[workflow(*task(PLAN), phase="Succeeded")])
    assert f"run {run} has ended: 'make logs' without FOLLOW" in refused("logs", run, "--follow")
    fake_kubectl(tmp_path, monkeypatch, "sys.exit('error: You must be logged in to the server (Unauthorized)')")
    assert f"the pods of run {run} are not reached: kubectl get: You must be" in refused("logs", run, "--follow")
