"""`status`: the steps of a run as they stand, and change by change."""

import re
from collections.abc import Callable

import pytest

from kubeface.cli import main
from pipelines.cluster import watch
from tests.pipelines.cluster.conftest import TOKEN
from tests.support.commands import Told
from tests.support.stubs.kfp_api import Fault, KfpApi, step
from tests.support.stubs.kubectl import FakeKubectl
from tests.support.workflows import EXECUTOR, POD, SHARD, STEPS, node, pod, task, workflow

pytestmark = pytest.mark.usefixtures("bare_deployment", "kubectl")


def test_status_shows_steps_times_and_last_words(told: Told, api: KfpApi, run: str) -> None:
    tasks = [
        *step("plan", 20),
        *step("ingest", 60, start=30, cached=True),
        *step("ingest", 120, start=30),
        *step("gather", 300, start=200),
        *step("audit", 7300, start=600, state="FAILED", pod="pod-audit", error="exit code 1"),
    ]
    api.finish(run, *tasks, state="FAILED")
    api.state.logs["pod-audit"] = f"audit: 3 sets\nerror: lfw.tar is not there: check {TOKEN}\n"
    text = told("status", run)
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line.strip()}
    assert rows["first:"] == "FAILED"
    assert rows["plan"] == "SUCCEEDED 20 s"
    assert rows["ingest"] == "1 CACHED, 1 SUCCEEDED 2 min"
    assert rows["gather"] == "SUCCEEDED 5 min"
    assert "audit failed: lfw.tar is not there: check …" in text
    assert "audit         FAILED                 2 h 02 min" in text
    assert rows["finetune"] == "not begun -"
    assert TOKEN not in text


def test_status_is_that_of_the_workflow_where_kubectl_reaches_it(
    told: Told, api: KfpApi, run: str, kubectl: Callable[..., FakeKubectl]
) -> None:
    why = "Unschedulable: 1 Insufficient nvidia.com/gpu"
    nodes = [*task(f"{STEPS}.plan"), node(f"{SHARD}.ingest", EXECUTOR, cached=True), *task(f"{STEPS}.split", "Failed")]
    nodes += [node(f"{STEPS}.finetune", EXECUTOR, "Running")]
    nodes += [node(f"{STEPS}.finetune(0).executor(0)", POD, "Pending", message=why)]
    api.finish(run, *step("plan", state="RUNNING"))  # which is late
    kubectl(workflows=[workflow(*nodes, packed=True)])
    lines = told("status", run).splitlines()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.strip()}
    assert [rows[name] for name in ("plan", "ingest", "align")] == ["SUCCEEDED 60 s", "CACHED -", "not begun -"]
    assert rows["split"].startswith("failed: ") and f"finetune waits: {why}" in lines
    shown = [name for name in rows if name in ("plan", "ingest", "align", "filter-faces", "gather", "notify")]
    assert shown == ["plan", "ingest", "align", "filter-faces", "gather", "notify"]  # as they run


def test_status_without_a_log_shows_what_kfp_says(told: Told, api: KfpApi, run: str) -> None:
    api.finish(run, *step("plan", state="FAILED", error="OOMKilled"), state="FAILED")
    assert "plan failed: OOMKilled" in told("status", run)


def test_the_last_words_are_the_steps_not_the_launchers(told: Told, api: KfpApi, run: str) -> None:
    """KFP's launcher writes on, with klog, behind the traceback of a step that broke."""
    api.finish(run, *step("gather", state="FAILED", pod="pod-gather"), state="FAILED")
    api.state.logs["pod-gather"] = (
        "Traceback (most recent call last):\nImportError: cannot import name 'x'\n"
        "E1130 20:43:30.806793      15 launcher_v2.go:449] Component failed to execute successfully: exit status 1\n"
        "F1130 20:43:30.858400      15 main.go:59] failed to execute component: exit status 1\n"
    )
    assert "gather failed: ImportError: cannot import name 'x'" in told("status", run)


def test_a_step_that_was_tried_again_has_its_last_attempts_words(told: Told, api: KfpApi, run: str) -> None:
    driver, task, retry = step("plan", state="FAILED", pod="retries")
    attempts = [
        retry | {"display_name": f"executor({n})", "pod_name": f"try-{n}", "task_id": f"t{n}", "child_tasks": []}
        for n in range(2)
    ]
    retry["child_tasks"] = [{"pod_name": one["pod_name"]} for one in attempts]
    api.finish(run, driver, task, retry, *attempts, state="FAILED")
    api.state.logs = {"try-0": "error: first", "try-1": "error: second"}
    assert "plan failed: second" in told("status", run)


def test_a_running_step_has_its_last_line_of_progress(
    told: Told, run: str, kubectl: Callable[..., FakeKubectl], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    nodes = [*task(f"{STEPS}.plan"), *task(f"{SHARD}.align", "Running"), *task(f"{STEPS}.finetune", "Running")]
    said = "finetune: epoch 3/10, 1200/4000 30 % images, 45.1/s, ETA 62 s, loss 0.21"
    lines = {pod(f"{STEPS}.finetune"): ["finetune: epoch 2/10", said], pod(f"{SHARD}.align"): None}
    program = kubectl(workflows=[workflow(*nodes)], logs=lines)
    text = told("status", run)
    assert f"\n{f'finetune: {said}'[:59]}…\n" in text  # on one line of the terminal
    assert "align (shard 1): " not in text  # its container has not begun
    asked = [line for line in program.asked() if line.startswith("logs ")]
    assert all("--tail=1 " in line and "--container=main " in line for line in asked) and len(asked) == 2


def test_a_run_that_kubernetes_has_nothing_of_is_told(told: Told, run: str) -> None:
    assert "kubectl finds no Workflow of it in namespace kubeflow" in told("status", run)


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has things happen between two looks, one each time."""

    def plan(*happens: Callable[[], object]) -> None:
        left = list(happens)
        monkeypatch.setattr(watch, "rest", lambda: left.pop(0)() if left else pytest.fail("it looks too long"))

    return plan


def followed(run: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit code of a status that is followed, and the lines after the first look, without their time and the run's."""
    with pytest.raises(SystemExit) as ended:
        main(["status", run, "--follow"])
    _, _, lines = capsys.readouterr().out.partition("\npage: ")
    *changes, last = [line[10:] for line in lines.splitlines()[1:]]
    assert re.fullmatch(r"first: \w+ after \d s", last)
    return int(str(ended.value.code)), [*changes, last.partition(" after ")[0]]


def test_status_follows_a_run_change_by_change(
    api: KfpApi,
    run: str,
    kubectl: Callable[..., FakeKubectl],
    after: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    done, path = task(f"{STEPS}.plan"), f"{STEPS}.finetune"
    waiting = [node(path, EXECUTOR, "Running"), node(f"{path}(0).executor(0)", POD, "Pending", message="no GPU")]
    again = [*task(path, "Running"), node(f"{path}(0).executor(1)", POD, "Running", minute=3)]
    shard = task(f"{SHARD}.align", "Running")
    after(
        lambda: None,
        lambda: kubectl(workflows=[workflow(*done, *shard, *waiting)]),
        lambda: kubectl(workflows=[workflow(*done, *shard, *task(path, "Running"))]),
        lambda: kubectl(workflows=[workflow(*done, *task(f"{SHARD}.align"), *again)]),
        lambda: kubectl(workflows=[workflow(*done, *task(f"{SHARD}.align"), *task(path))]),
        lambda: api.finish(run),
    )
    kubectl(workflows=[workflow(*task(f"{STEPS}.plan", "Running"))])
    code, lines = followed(run, capsys)
    assert code == 0
    assert lines == [
        "plan: SUCCEEDED after 60 s",
        "align (shard 1): RUNNING",
        "finetune: PENDING: no GPU",
        "finetune: RUNNING",
        "align (shard 1): SUCCEEDED after 60 s",
        "finetune: RUNNING, retry 1",
        "finetune: SUCCEEDED after 60 s",
        "first: SUCCEEDED",
    ]


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_a_status_that_is_followed_ends_with_1_where_the_run_did_not_succeed(
    api: KfpApi, run: str, after: Callable[..., None], capsys: pytest.CaptureFixture[str], state: str
) -> None:
    failed = step("plan", state="FAILED", pod="pod-plan")
    api.state.logs["pod-plan"] = "error: the bucket is not there\n"
    after(lambda: api.finish(run, *failed, state=state))
    code, lines = followed(run, capsys)
    assert code == 1
    assert lines == ["plan: FAILED after 60 s: the bucket is not there", f"first: {state}"]


def test_a_status_that_is_followed_outlives_a_lost_connection(
    api: KfpApi, run: str, after: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    after(lambda: api.state.faults.append(Fault("GET ", 503, times=2)), *[lambda: None] * 2, lambda: api.finish(run))
    assert followed(run, capsys) == (0, ["first: SUCCEEDED"])
