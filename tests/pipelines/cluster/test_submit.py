"""Submit, status, logs, cancel and resume through the real kfp.Client against a stub server."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.cluster.client import Cluster
from tests.support.commands import refusal
from tests.support.stubs.kfp_api import Fault, KfpApi, step
from tests.support.stubs.kubectl import FakeKubectl, fake_kubectl

pytestmark = pytest.mark.usefixtures("bare_deployment")
GOOD = {"source": "s3://faces/staff", "models": "s3://faces/models", "resources": {"shards": 2}}
TOKEN = "token-that-nobody-may-see"


Command = Callable[..., None]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpApi]:
    """A server that wants a token."""
    with KfpApi(token=TOKEN) as running:
        monkeypatch.setenv("KFP_HOST", running.url)
        monkeypatch.setenv("KFP_TOKEN", TOKEN)
        yield running


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    return path


@pytest.fixture
def run(command: Command, api: KfpApi, package: Path, parameters: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A run that was submitted; what was printed of it is gone."""
    command("submit", "--params", parameters, "--package", package, "--name", "first")
    capsys.readouterr()
    return str(api.state.runs[0]["run_id"])


def test_submit_sends_the_parameters_and_says_where_the_run_is(
    command: Command, api: KfpApi, package: Path, parameters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("submit", "--params", parameters, "--package", package)
    (made,) = api.state.runs
    assert made["runtime_config"]["parameters"] == GOOD
    assert made["service_account"] == "kubeface-runner"
    assert made["pipeline_version_reference"]["pipeline_version_id"] == api.state.versions[0]["pipeline_version_id"]
    told = capsys.readouterr().out
    assert told.splitlines()[1:] == [  # and none of kfp's own links
        f"run:  {made['run_id']}",
        f"page: {api.url}/#/runs/details/{made['run_id']}",
    ]
    command("submit", "--params", parameters, "--package", package)
    assert "(unchanged)" in capsys.readouterr().out
    counts = [len(held) for held in (api.state.pipelines, api.state.versions, api.state.experiments, api.state.runs)]
    assert counts == [1, 1, 1, 2]


def test_nothing_is_sent_when_a_parameter_is_wrong(
    command: Command, api: KfpApi, package: Path, parameters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong, name in (
        ({"resources": {"shards": 0}}, "resources.shards is 0"),
        ({"sauce": "s3://a"}, "sauce is unknown, did you mean source?"),
        ({"promote": {"mlflow": "https://me:hunter22@mlflow.example"}}, "'promote.mlflow' carries a key"),
    ):
        parameters.write_text(yaml.safe_dump(GOOD | wrong))
        line = refusal(capsys, "submit", "--params", parameters, "--package", package)
        assert name in line
        assert "hunter22" not in line
    assert api.state.asked == []


def test_each_refusal_is_one_line(
    command: Command, api: KfpApi, package: Path, parameters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for status in (401, 403, 404, 409, 500):
        api.state.faults = [Fault("POST .*/runs$", status)]
        assert f"({status}" in refusal(capsys, "submit", "--params", parameters, "--package", package)
    assert api.state.runs == []


def test_status_shows_steps_times_and_last_words(
    command: Command, api: KfpApi, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [
        *step("plan", 20),
        *step("ingest", 60, start=30, cached=True),
        *step("ingest", 120, start=30),
        *step("gather", 300, start=200),
        *step("audit", 7300, start=600, state="FAILED", pod="pod-audit", error="exit code 1"),
    ]
    api.finish(run, *tasks, state="FAILED")
    api.state.logs["pod-audit"] = f"audit: 3 sets\nerror: lfw.tar is not there: check {TOKEN}\n"
    command("status", run)
    told = capsys.readouterr().out
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in told.splitlines() if line.strip()}
    assert rows["first:"] == "FAILED"
    assert rows["plan"] == "SUCCEEDED 20 s"
    assert rows["ingest"] == "1 CACHED, 1 SUCCEEDED 2 min"
    assert rows["gather"] == "SUCCEEDED 5 min"
    assert "audit failed: lfw.tar is not there: check …" in told
    assert "audit         FAILED                 2 h 02 min" in told
    assert rows["finetune"] == "not begun -"
    assert TOKEN not in told


def test_status_without_a_log_shows_what_kfp_says(
    command: Command, api: KfpApi, run: str, capsys: pytest.CaptureFixture[str], kubectl: Callable[..., FakeKubectl]
) -> None:
    kubectl()
    api.finish(run, *step("plan", state="FAILED", error="OOMKilled"), state="FAILED")
    command("status", run)
    assert "plan failed: OOMKilled" in capsys.readouterr().out


def test_a_step_that_was_tried_again_has_its_last_attempts_words(
    command: Command, api: KfpApi, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    driver, task, retry = step("plan", state="FAILED", pod="retries")
    attempts = [
        retry | {"display_name": f"executor({n})", "pod_name": f"try-{n}", "task_id": f"t{n}", "child_tasks": []}
        for n in range(2)
    ]
    retry["child_tasks"] = [{"pod_name": one["pod_name"]} for one in attempts]
    api.finish(run, driver, task, retry, *attempts, state="FAILED")
    api.state.logs = {"try-0": "error: first", "try-1": "error: second"}
    command("status", run)
    assert "plan failed: second" in capsys.readouterr().out


def test_status_of_a_run_that_is_not_there(command: Command, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("status", "logs", "cancel", "resume"):
        assert "run nothing does not exist" in refusal(capsys, verb, "nothing")


def test_logs_of_all_and_of_one_step(
    command: Command, api: KfpApi, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [*step("plan", pod="a"), *step("filter-faces", pod="b", start=9), *step("gather", cached=True, start=99)]
    api.finish(run, *tasks)
    api.state.logs = {"a": "one\ntwo\n", "b": '{"three": 3}\n'}
    command("logs", run)
    assert capsys.readouterr().out == '── plan (SUCCEEDED)\none\ntwo\n── filter-faces (SUCCEEDED)\n{"three": 3}\n'
    command("logs", run, "--step", "filter")
    assert capsys.readouterr().out == '── filter-faces (SUCCEEDED)\n{"three": 3}\n'
    assert "step 'plam' is unknown: use one of" in refusal(capsys, "logs", run, "--step", "plam")
    assert "the cache served it" in refusal(capsys, "logs", run, "--step", "gather")


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeKubectl]:
    """Puts a kubectl into place that shows pods, and says `log of <pod>`."""

    def make(*pods: object) -> FakeKubectl:
        listed = json.dumps({"kind": "PodList", "items": pods})
        body = f"print({listed!r} if sys.argv[1] == 'get' else 'log of ' + sys.argv[2])"
        return fake_kubectl(tmp_path, monkeypatch, body)

    return make


def test_where_kfp_serves_no_log_kubectl_does(
    command: Command, api: KfpApi, run: str, kubectl: Callable[..., FakeKubectl], capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"wf-impl-1": "wf.root.plan.executor", "wf-impl-2": "wf.root.gather.executor"}
    pods = [
        {"metadata": {"name": pod, "annotations": {"workflows.argoproj.io/node-name": path}}}
        for pod, path in names.items()
    ]
    program = kubectl(*pods)
    api.finish(run, *step("plan"))
    command("logs", run)
    assert capsys.readouterr().out == "── plan (SUCCEEDED)\nlog of wf-impl-1\n"
    assert f"get pods --namespace=kubeflow --selector=pipeline/runid={run}" in program.asked()[0]
    kubectl()
    assert "the pods of plan are gone" in refusal(capsys, "logs", run)


def test_cancel(command: Command, api: KfpApi, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    command("cancel", run)
    assert api.state.runs[0]["state"] == "CANCELING"
    assert "is over or ending (CANCELING)" in refusal(capsys, "cancel", run)


def test_resume_goes_on_in_place(command: Command, api: KfpApi, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "only one that failed is resumed" in refusal(capsys, "resume", run)
    api.finish(run, state="FAILED")
    command("resume", run)
    assert (len(api.state.runs), api.state.runs[0]["state"]) == (1, "RUNNING")
    assert "goes on from the step that failed" in capsys.readouterr().out


def test_where_kfp_cannot_the_same_is_submitted_again_and_said(
    command: Command, api: KfpApi, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    api.finish(run, state="FAILED")
    api.state.faults = [Fault(":retry", 500, message="Workflow cannot be retried with node x in Omitted phase")]
    command("resume", run)
    first, second = api.state.runs
    for field in ("runtime_config", "pipeline_version_reference", "experiment_id", "service_account"):
        assert second[field] == first[field]
    told = capsys.readouterr().out
    assert "does not restart" in told
    assert "the cache serves what was finished" in told
    assert second["run_id"] in told


def test_who_may_not_resume_does_not_submit_either(
    command: Command, api: KfpApi, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    api.finish(run, state="FAILED")
    for status in (401, 403, 409):
        api.state.faults = [Fault(":retry", status)]
        assert f"({status}" in refusal(capsys, "resume", run)
    assert len(api.state.runs) == 1


def test_the_page_where_only_the_api_is_reached() -> None:
    told = Cluster().page("runs/details/1")
    assert told.startswith("http://localhost:8080/#/runs/details/1 after kubectl -n kubeflow port-forward svc/")
    assert Cluster(host="https://a/pipeline", ui="https://b").page("runs") == "https://b/#/runs"


def test_a_file_that_is_not_there_is_said_before_anything_is_sent(
    command: Command, api: KfpApi, package: Path, parameters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = parameters.with_name("none.yaml")
    assert f"{none} is not there" in refusal(capsys, "submit", "--params", none, "--package", package)
    assert "run 'make compile'" in refusal(capsys, "submit", "--params", parameters, "--package", none)
    assert api.state.asked == []
