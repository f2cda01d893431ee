"""One recurring run by name: set, replaced without a moment of none or two, paused, listed, deleted."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeface.cli import main
from kubeface.runtime.errors import KubefaceError
from pipelines.cluster import recurring, watch
from pipelines.cluster.schedule import require_cron
from tests.support.commands import GOOD, Files, Told
from tests.support.stubs.kfp_api import DROP, Fault, KfpApi
from tests.support.stubs.kubectl import FakeKubectl, fake_kubectl

pytestmark = pytest.mark.usefixtures("bare_deployment", "kubectl")
PARAMETERS = GOOD | {"name": "staff"}
SUNDAYS, MONDAYS = "0 0 3 * * 0", "0 0 3 * * MON"


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    """A kubectl that finds a Workflow of every run."""
    return fake_kubectl(tmp_path, monkeypatch, "print('workflow.argoproj.io/wf')")


@pytest.fixture
def put(told: Told, kfp: KfpApi, files: Files, tmp_path: Path) -> Told:
    """Sets the schedule `weekly`; what is printed."""

    def call(cron: str = SUNDAYS, run: Told = told, **more: Any) -> str:
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(PARAMETERS | more))
        return run("schedule", "weekly", "--cron", cron, *files)

    return call


@pytest.fixture
def failure(put: Told, refused: Told) -> Told:
    """The one line that setting the schedule fails with."""
    return partial(put, run=refused)


def states(kfp: KfpApi) -> list[tuple[str, str]]:
    return [(one["trigger"]["cron_schedule"]["cron"], one["status"]) for one in kfp.state.recurring]


@pytest.mark.parametrize("cron", [SUNDAYS, MONDAYS, "*/10 * * * * *", "0 0,30 8-18 ? * 1-5", "0 0 3 1 JAN,JUL ?"])
def test_six_fields(cron: str) -> None:
    assert require_cron(f" {cron} ") == cron


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("0 3 * * 0", 'has five fields, KFP\'s has six, seconds first: write "0 0 3 * * 0"'),
        ("0 3", "has 2 fields"),
        ("0 60 3 * * 0", "minute is '60'"),
        ("0 0 3 0 * 0", "day of month is '0'"),
        ("0 0 3 * * 7", "day of week is '7'"),
        ("0 0 3 * FOO *", "month is 'FOO'"),
        ("0 0 5-3 * * *", "hour is '5-3'"),
        ("0 */0 3 * * *", "minute is '*/0'"),
        ("0 ? 3 * * *", "minute is '?'"),
        ("@weekly", "has 1 fields"),
    ],
)
def test_other_expressions_are_refused(cron: str, said: str) -> None:
    with pytest.raises(KubefaceError) as caught:
        require_cron(cron)
    assert said in str(caught.value)


def test_a_schedule_neither_catches_up_nor_overlaps(put: Told, kfp: KfpApi) -> None:
    put()
    (made,) = kfp.state.recurring
    assert (made["no_catchup"], int(made["max_concurrency"]), made["status"]) == (True, 1, "ENABLED")
    assert made["runtime_config"]["parameters"] == PARAMETERS
    assert made["service_account"] == "kubeface-runner"


def test_the_same_again_changes_nothing(put: Told, kfp: KfpApi) -> None:
    put()
    before = len(kfp.state.writes())
    assert "is as it was" in put()
    assert len(kfp.state.writes()) == before


@pytest.mark.parametrize("more", [{"cron": MONDAYS}, {"seed": 3}])
def test_another_replaces_it(put: Told, kfp: KfpApi, more: dict[str, Any]) -> None:
    put()
    old = kfp.state.recurring[0]["recurring_run_id"]
    put(more.pop("cron", SUNDAYS), **more)
    (made,) = kfp.state.recurring
    assert made["recurring_run_id"] != old
    assert made["status"] == "ENABLED"


@pytest.mark.parametrize("status", [500, 409, DROP])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("pattern", ["POST .*/recurringruns$", ":disable$", ":enable$", "DELETE "])
def test_a_fault_anywhere_in_a_replacement_leaves_exactly_one_on(
    put: Told, failure: Told, kfp: KfpApi, pattern: str, after: bool, status: int
) -> None:
    put()
    kfp.state.faults = [Fault(pattern, status, times=1, after=after and status != DROP)]
    assert failure(MONDAYS).startswith("error: ")
    assert [state for _, state in states(kfp)].count("ENABLED") == 1
    assert states(kfp)[0] == (SUNDAYS, "ENABLED") or (MONDAYS, "ENABLED") in states(kfp)
    put(MONDAYS)  # the next one sets it right
    assert states(kfp) == [(MONDAYS, "ENABLED")]


def test_two_are_at_no_moment_on(put: Told, kfp: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    put()
    seen = []

    class Watching(list[str]):
        def append(self, line: str) -> None:
            seen.append([state for _, state in states(kfp)].count("ENABLED"))
            super().append(line)

    kfp.state.asked = Watching()
    put(MONDAYS)
    assert len(seen) > 5
    assert max(seen) == 1


def test_a_server_that_goes_away_in_the_middle_is_told(put: Told, failure: Told, kfp: KfpApi) -> None:
    put()
    kfp.state.faults = [Fault(":enable$", 500), Fault("DELETE", 500)]
    assert "nor put back: look at 'make schedules'" in failure(MONDAYS)


def test_pause_unpause_list_delete(put: Told, told: Told, refused: Told, kfp: KfpApi) -> None:
    assert "no schedule" in told("schedules")
    put()
    told("pause", "weekly")
    assert states(kfp) == [(SUNDAYS, "DISABLED")]
    row = told("schedules").splitlines()[1].split("  ")
    assert [cell.strip() for cell in row if cell.strip()] == ["weekly", SUNDAYS, "paused", "staff"]
    told("unpause", "weekly")
    assert states(kfp) == [(SUNDAYS, "ENABLED")]
    told("unschedule", "weekly")
    assert states(kfp) == []
    for verb in ("pause", "unpause", "unschedule"):
        assert "schedule weekly does not exist" in refused(verb, "weekly")


@pytest.fixture
def going(put: Told, kfp: KfpApi) -> str:
    """Id of a run of the schedule that is going."""
    put()
    return kfp.fire("weekly")


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has things happen while a command waits, one each time."""

    def plan(*happens: Callable[[], Any]) -> None:
        left = list(happens)
        monkeypatch.setattr(watch, "rest", lambda: left.pop(0)() if left else pytest.fail("it waits too long"))

    return plan


def nothing() -> None:
    """Nothing happens."""


def test_a_schedule_is_deleted_when_its_run_has_ended(
    told: Told, kfp: KfpApi, going: str, after: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    after(lambda: seen.extend(states(kfp)), lambda: kfp.finish(going))
    first, last = told("unschedule", "weekly").splitlines()
    assert seen == [(SUNDAYS, "DISABLED")]  # at once, so that nothing new starts
    assert f"schedule weekly is paused, and deleted when its run weekly-1 ({going}) RUNNING has ended" in first
    assert last == "schedule weekly is deleted"
    assert (states(kfp), kfp.state.collected) == ([], [])


def test_what_is_waited_for_is_shown(
    kfp: KfpApi, going: str, after: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    after(nothing, lambda: kfp.finish(going))
    main(["unschedule", "weekly"])
    assert capsys.readouterr().err == "waiting for weekly-1 RUNNING: 0 s\n"  # once a minute


def test_without_waiting_the_schedule_is_left_paused(told: Told, kfp: KfpApi, going: str) -> None:
    (line,) = told("unschedule", "weekly", "--no-wait").splitlines()
    assert line.startswith(f"schedule weekly is paused, not deleted: its run weekly-1 ({going}) RUNNING is going")
    assert line.endswith("When it has ended, repeat 'make unschedule NAME=weekly'")
    assert states(kfp) == [(SUNDAYS, "DISABLED")]
    kfp.finish(going)
    assert told("unschedule", "weekly") == "schedule weekly is deleted\n"
    assert states(kfp) == []


def test_ctrl_c_leaves_it_paused(
    kfp: KfpApi, going: str, after: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    after(interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["unschedule", "weekly"])
    assert ended.value.code == 130
    assert "schedule weekly is paused, not deleted. Repeat 'make unschedule NAME=weekly'" in capsys.readouterr().out
    assert states(kfp) == [(SUNDAYS, "DISABLED")]


def test_the_run_is_cancelled_where_that_is_asked_for(
    told: Told, kfp: KfpApi, going: str, after: Callable[..., None]
) -> None:
    after(lambda: kfp.finish(going, state="FAILED"))
    assert "schedule weekly is deleted" in told("unschedule", "weekly", "--stop")
    stops = [line for line in kfp.state.asked if line.endswith(":terminate")]
    assert len(stops) == 1 and (states(kfp), kfp.state.collected) == ([], [])


def test_a_run_that_kfp_shows_for_ever_is_named_and_no_obstacle_to_stop(
    told: Told, kfp: KfpApi, going: str, kubectl: FakeKubectl
) -> None:
    kubectl.does("")  # it finds no Workflow
    said = "Kubernetes has nothing of weekly-1 any more: --stop (make: STOP=1) goes on without it"
    assert said in told("unschedule", "weekly", "--no-wait")
    kfp.state.faults = [Fault(":terminate", 500, after=True)]
    assert told("unschedule", "weekly", "--stop") == "schedule weekly is deleted\n"


def test_a_replaced_schedule_is_deleted_when_its_run_has_ended(
    put: Told, kfp: KfpApi, going: str, after: Callable[..., None]
) -> None:
    seen = []
    after(lambda: seen.extend(states(kfp)), lambda: kfp.finish(going))
    lines = put(MONDAYS).splitlines()
    assert seen == [(SUNDAYS, "DISABLED"), (MONDAYS, "ENABLED")]
    assert f"the schedule weekly of before is paused, and deleted when its run weekly-1 ({going})" in lines[1]
    assert lines[2] == "the schedule weekly of before is deleted"
    assert (states(kfp), kfp.state.collected) == ([(MONDAYS, "ENABLED")], [])


def test_a_replacement_that_does_not_wait_is_completed_by_the_same_command(
    put: Told, told: Told, kfp: KfpApi, going: str, files: Files
) -> None:
    (Path(files[1])).write_text(yaml.safe_dump(PARAMETERS))
    command = ("schedule", "weekly", "--cron", MONDAYS, *files)
    assert "When it has ended, repeat this command" in told(*command, "--no-wait")
    assert states(kfp) == [(SUNDAYS, "DISABLED"), (MONDAYS, "ENABLED")]
    assert "weekly is there more than once: repeat the command that set it" in told("schedules")
    kfp.finish(going)
    newest = kfp.state.recurring[-1]["recurring_run_id"]
    assert "is as it was" in told(*command)
    assert [one["recurring_run_id"] for one in kfp.state.recurring] == [newest]


@pytest.mark.parametrize("status", [DROP, 503])
def test_a_connection_that_is_lost_while_it_waits_is_made_anew(
    told: Told, kfp: KfpApi, going: str, after: Callable[..., None], status: int
) -> None:
    def lose() -> None:
        kfp.state.faults = [Fault("GET ", status, times=2)]

    after(lose, nothing, nothing, lambda: kfp.finish(going))
    assert "schedule weekly is deleted" in told("unschedule", "weekly")


def test_a_connection_that_stays_lost_ends_the_wait(
    refused: Told, kfp: KfpApi, going: str, after: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOST_SECONDS", 0.0)
    after(lambda: kfp.state.faults.append(Fault("GET ", 503)), nothing, nothing)
    with pytest.raises(SystemExit):
        main(["unschedule", "weekly"])
    assert states(kfp) == [(SUNDAYS, "DISABLED")]


def test_what_was_broken_off_is_listed_and_unpaused_once(put: Told, told: Told, kfp: KfpApi) -> None:
    put()
    newer = {"recurring_run_id": "other", "status": "DISABLED", "created_at": "2099-01-01T00:00:00Z"}
    kfp.state.recurring.append(kfp.state.recurring[0] | newer)
    assert "weekly is there more than once" in told("schedules")
    told("unpause", "weekly")
    assert [state for _, state in states(kfp)] == ["DISABLED", "ENABLED"]


def test_schedules_of_other_pipelines_are_left_alone(put: Told, told: Told, kfp: KfpApi) -> None:
    kfp.state.recurring.append(
        {
            "recurring_run_id": "theirs",
            "display_name": "weekly",
            "status": "ENABLED",
            "created_at": "2026-01-01T00:00:00Z",
            "pipeline_version_reference": {"pipeline_id": "another"},
        }
    )
    put()
    told("unschedule", "weekly")
    assert [one["recurring_run_id"] for one in kfp.state.recurring] == ["theirs"]


def test_more_schedules_than_a_page_holds(put: Told, told: Told, kfp: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    put()
    kfp.state.recurring[:0] = [
        kfp.state.recurring[0] | {"display_name": f"s{n}", "recurring_run_id": f"s{n}"} for n in range(5)
    ]
    monkeypatch.setattr(recurring, "PAGE", 2)
    told("unschedule", "weekly")
    assert len(kfp.state.recurring) == 5


def test_nothing_is_sent_when_something_is_wrong(failure: Told, kfp: KfpApi) -> None:
    assert "has five fields" in failure("0 3 * * 0")
    assert "seed is -1" in failure(seed=-1)
    assert kfp.state.asked == []
