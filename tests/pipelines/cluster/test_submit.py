"""Submit, status, logs, cancel and resume through the real kfp.Client against a stub server."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from pipelines.cluster import submit, watch
from pipelines.cluster.client import Cluster
from tests.support.commands import GOOD, Files, Told
from tests.support.stubs.kfp_api import Fault, KfpApi, step
from tests.support.stubs.kubectl import FakeKubectl, fake_kubectl
from tests.support.workflows import EXECUTOR, POD, SHARD, STEPS, node, task, workflow

pytestmark = pytest.mark.usefixtures("bare_deployment")
TOKEN = "token-that-nobody-may-see"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpApi]:
    """A server that wants a token."""
    with KfpApi(token=TOKEN) as running:
        monkeypatch.setenv("KFP_HOST", running.url)
        monkeypatch.setenv("KFP_TOKEN", TOKEN)
        yield running


@pytest.fixture(autouse=True)
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeKubectl]:
    """Puts a kubectl into place that shows pods and Workflows, none at first, and says `log of <pod>`."""
    names = "if '--output=name' in sys.argv: shown[sys.argv[2]] = ' '.join(['name'] * counts[sys.argv[2]])"

    def make(*pods: object, workflows: Sequence[object] = ()) -> FakeKubectl:
        lists = {"pods": ("PodList", pods), "workflows.argoproj.io": ("WorkflowList", workflows)}
        shown = {of: json.dumps({"kind": kind, "items": items}) for of, (kind, items) in lists.items()}
        counts = {"pods": len(pods), "workflows.argoproj.io": len(workflows)}
        said = "print(shown.get(sys.argv[2], 'log of ' + sys.argv[2]))"
        return fake_kubectl(tmp_path, monkeypatch, f"shown, counts = {shown!r}, {counts!r}\n{names}\n{said}")

    make()
    return make


@pytest.fixture
def run(told: Told, api: KfpApi, files: Files) -> str:
    """A run that was submitted."""
    told("submit", *files, "--name", "first")
    return str(api.state.runs[0]["run_id"])


def test_a_run_on_several_nodes_has_the_account_that_may_start_a_trainjob(
    told: Told, api: KfpApi, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nodes.yaml").write_text(yaml.safe_dump(GOOD | {"resources": {"nodes": {"num_nodes": 2}}}))
    told("submit", tmp_path / "nodes.yaml", *files[2:])
    monkeypatch.setenv("KFP_SERVICE_ACCOUNT", "ours")
    told("submit", tmp_path / "nodes.yaml", *files[2:])
    assert [made["service_account"] for made in api.state.runs] == ["kubeface-trainer", "ours"]


def test_submit_sends_the_parameters_and_says_where_the_run_is(told: Told, api: KfpApi, files: Files) -> None:
    lines = told("submit", *files).splitlines()
    (made,) = api.state.runs
    assert made["runtime_config"]["parameters"] == GOOD
    assert made["service_account"] == "kubeface-runner"
    assert made["pipeline_version_reference"]["pipeline_version_id"] == api.state.versions[0]["pipeline_version_id"]
    page = f"page: {api.url}/#/runs/details/{made['run_id']}"
    assert lines[1:] == [f"run:  {made['run_id']}", page]  # and none of kfp's own links
    assert "(unchanged)" in told("submit", *files)
    counts = [len(held) for held in (api.state.pipelines, api.state.versions, api.state.experiments, api.state.runs)]
    assert counts == [1, 1, 1, 2]


def test_nothing_is_sent_when_a_parameter_is_wrong(refused: Told, api: KfpApi, files: Files, tmp_path: Path) -> None:
    for wrong, name in (
        ({"resources": {"shards": 0}}, "resources.shards is 0"),
        ({"sauce": "s3://a"}, "sauce is unknown, did you mean source?"),
        ({"promote": {"mlflow": "https://me:hunter22@mlflow.example"}}, "'promote.mlflow' carries a key"),
    ):
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(GOOD | wrong))
        line = refused("submit", *files)
        assert name in line and "hunter22" not in line
    assert api.state.asked == []


def test_a_refusal_is_one_line(refused: Told, api: KfpApi, files: Files) -> None:
    api.state.faults = [Fault("POST .*/runs$", 403)]
    assert "(403" in refused("submit", *files)
    assert api.state.runs == []


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


@pytest.mark.parametrize("verb", ["status", "logs", "cancel", "resume"])
def test_a_run_that_is_not_there_is_named(refused: Told, api: KfpApi, verb: str) -> None:
    assert "run nothing does not exist" in refused(verb, "nothing")


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


def test_cancel(told: Told, refused: Told, api: KfpApi, run: str) -> None:
    told("cancel", run)
    assert api.state.runs[0]["state"] == "CANCELING"
    assert "is over or ending (CANCELING)" in refused("cancel", run)


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "SUCCEEDED"])
def test_what_neither_failed_nor_was_cancelled_is_not_resumed(refused: Told, api: KfpApi, run: str, state: str) -> None:
    api.finish(run, state=state)
    line = refused("resume", run)
    assert f"run {run} is {state}: only one that failed or was cancelled is resumed" in line
    assert not any(asked.endswith(":retry") for asked in api.state.asked)


def test_resume_goes_on_in_place(told: Told, api: KfpApi, run: str) -> None:
    api.finish(run, state="FAILED")
    assert "goes on from the steps that had not ended" in told("resume", run)
    assert (len(api.state.runs), api.state.runs[0]["state"]) == (1, "RUNNING")


def assert_same_but_for_the_name(api: KfpApi) -> None:
    first, second = api.state.runs
    for field in ("runtime_config", "pipeline_version_reference", "experiment_id", "service_account"):
        assert second[field] == first[field]
    assert second["display_name"] == "first (again)"


@pytest.mark.parametrize("checkpoints", [False, True])
def test_where_kfp_cannot_the_same_starts_anew_and_is_said(
    told: Told, api: KfpApi, run: str, checkpoints: bool
) -> None:
    api.finish(run, state="FAILED")
    config = api.state.runs[0]["runtime_config"]
    config["pipeline_root"] = "s3://faces/runs"
    if checkpoints:
        config["parameters"] |= {"finetune": {"checkpoints": "s3://faces/checkpoints"}}
    api.state.faults = [Fault(":retry", 500, message="Workflow cannot be retried with node x in Running phase")]
    line, *rest = told("resume", run).splitlines()
    assert_same_but_for_the_name(api)
    assert "cannot be retried with node x in Running phase: the same starts anew as 'first (again)'" in line
    kept = "goes on from its last checkpoint" if checkpoints else "starts anew unless it had ended"
    assert line.endswith(f"the cache serves the steps that ended, and finetune {kept}")
    assert rest[0] == f"run:  {api.state.runs[1]['run_id']}" and rest[1].startswith("page: ")


def test_a_run_that_was_cancelled_starts_anew_where_kfp_refuses_to_retry_it(told: Told, api: KfpApi, run: str) -> None:
    api.finish(run, state="CANCELED")
    assert "Workflow must be Failed/Error to retry: the same starts anew" in told("resume", run)
    assert_same_but_for_the_name(api)


def test_resume_waits_for_the_end_of_a_run_that_is_being_stopped(
    told: Told, api: KfpApi, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told("cancel", run)
    monkeypatch.setattr(watch, "rest", lambda: api.finish(run, state="FAILED"))
    assert f"run {run} is still being stopped: waiting for its end" in told("resume", run)
    assert (len(api.state.runs), api.state.runs[0]["state"]) == (1, "RUNNING")


@pytest.mark.parametrize("remains", [True, False])
def test_a_run_that_kfp_shows_as_stopping_for_ever_starts_anew_once_its_workflow_is_gone(
    told: Told,
    refused: Told,
    api: KfpApi,
    run: str,
    kubectl: Callable[..., FakeKubectl],
    monkeypatch: pytest.MonkeyPatch,
    remains: bool,
) -> None:
    told("cancel", run)
    monkeypatch.setattr(submit, "STOP_SECONDS", 0.0)
    kubectl(workflows=[workflow()] if remains else [])
    if remains:
        assert "is still being stopped after 0 s: try again in a minute" in refused("resume", run)
        assert len(api.state.runs) == 1
    else:
        told("resume", run)
        assert_same_but_for_the_name(api)


@pytest.mark.parametrize("status", [401, 403, 409])
def test_who_may_not_resume_does_not_submit_either(refused: Told, api: KfpApi, run: str, status: int) -> None:
    api.finish(run, state="FAILED")
    api.state.faults = [Fault(":retry", status)]
    assert f"({status}" in refused("resume", run)
    assert len(api.state.runs) == 1


def test_the_page_where_only_the_api_is_reached() -> None:
    told = Cluster().page("runs/details/1")
    assert told.startswith("http://localhost:8080/#/runs/details/1 after kubectl -n kubeflow port-forward svc/")
    assert Cluster(host="https://a/pipeline", ui="https://b").page("runs") == "https://b/#/runs"


def test_a_file_that_is_not_there_is_said_before_anything_is_sent(refused: Told, api: KfpApi, files: Files) -> None:
    none = Path("none.yaml")
    assert f"{none} is not there" in refused("submit", "--params", none, *files[2:])
    assert "run 'make compile'" in refused("submit", *files[:2], "--package", none)
    assert api.state.asked == []
