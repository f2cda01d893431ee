"""Submit, cancel and resume through the real kfp.Client against a stub server."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipelines.cluster import submit, watch
from pipelines.cluster.client import Cluster
from tests.support.commands import GOOD, Files, Told
from tests.support.stubs.kfp_api import Fault, KfpApi
from tests.support.stubs.kubectl import FakeKubectl
from tests.support.workflows import workflow

pytestmark = pytest.mark.usefixtures("bare_deployment", "kubectl")


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


@pytest.mark.parametrize("verb", ["status", "logs", "cancel", "resume"])
def test_a_run_that_is_not_there_is_named(refused: Told, api: KfpApi, verb: str) -> None:
    assert "run nothing does not exist" in refused(verb, "nothing")


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
