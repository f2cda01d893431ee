"""The command `status`: how a run and its steps stand, at this moment or change by change until it has ended."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kubeface.runtime.errors import KubefaceError
from pipelines.cluster.client import Client, connect
from pipelines.cluster.logs import last_words
from pipelines.cluster.request import FollowFlag, RunId
from pipelines.cluster.runs import OVER, Step, containers, get_run, spec_of_run
from pipelines.cluster.watch import cut_to_terminal, exit_on_interrupt, poll
from pipelines.cluster.workflow import steps_of_run
from pipelines.formatting import minutes, table

GOOD_ENDS = ("SUCCEEDED", "SKIPPED")
READERS = 8  # logs that are read at the same time


@dataclass(frozen=True, slots=True)
class RunView:
    """How a run stands."""

    run_id: str
    name: str
    state: str
    error: str  # what KFP says of the run as a whole
    seconds: float | None  # that it took; None while it goes on
    names: tuple[str, ...]  # of the pipeline's steps, as they run
    steps: tuple[Step, ...]
    has_workflow: bool | None  # whether Kubernetes has its Workflow; None where kubectl cannot tell

    @property
    def is_over(self) -> bool:
        """Whether KFP has told its end."""
        return self.state in OVER


class RunReader:
    """Reads a run again and again, its pipeline once."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._names: tuple[str, ...] = ()

    def read(self, client: Client) -> RunView:
        """The run as it stands. Raises KubefaceError if there is none with this id."""
        found = get_run(client, self._run)
        self._names = self._names or tuple(containers(spec_of_run(client, found)))
        read = steps_of_run(client, found, self._names)
        ended = found.finished_at if found.state in OVER else None
        took = (ended - found.created_at).total_seconds() if ended and found.created_at else 0.0
        return RunView(
            self._run,
            str(found.display_name),
            str(found.state),
            " ".join(found.error.message.split()) if found.error and found.error.message else "",
            took if took > 0 else None,
            self._names,
            read.steps,
            read.has_workflow,
        )


def status(run: RunId, *, follow: FollowFlag = False) -> None:
    """Prints the state of a run and of each of its steps, the last words of those that failed, why others wait, and the
    last line of progress of those that run. Followed, it prints each change and ends with the run, with exit code 1
    unless it succeeded."""
    if not follow:
        with connect() as client:
            _print_view(client, RunReader(run).read(client))
        return
    follower = _Follower(run)
    with exit_on_interrupt():
        for view in poll(follower.look):
            if view.is_over:
                raise SystemExit(0 if view.state in GOOD_ENDS else 1)


class _Follower:
    """Prints a run, and then what has changed since it was looked at before."""

    def __init__(self, run: str) -> None:
        self._reader = RunReader(run)
        self._before: dict[tuple[str, int | None], tuple[object, ...]] | None = None

    def look(self, client: Client) -> RunView:
        """Reads the run and prints what is new."""
        view = self._reader.read(client)
        now = {_key(step): _noted(step) for step in view.steps}
        if self._before is None:
            _print_view(client, view)
        else:
            changed = [step for step in view.steps if self._before.get(_key(step)) != now[_key(step)]]
            lines = [_change(client, view, step) for step in changed]  # all of them before one is printed
            if view.is_over:
                took = f" after {minutes(view.seconds)}" if view.seconds else ""
                lines.append(f"{view.name}: {view.state}{took}")
            for line in lines:
                print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
        self._before = now
        return view


def _key(step: Step) -> tuple[str, int | None]:
    return step.name, step.shard


def _noted(step: Step) -> tuple[object, ...]:
    """What of a step is worth a line when it changes."""
    return step.state, step.retries, step.error if step.state == "PENDING" else ""


def _change(client: Client, view: RunView, step: Step) -> str:
    took = f" after {minutes(step.seconds)}" if step.state in OVER and step.started else ""
    retry = f", retry {step.retries}" if step.retries else ""
    said = step.error if step.state == "PENDING" else ""
    if step.state == "FAILED":
        said = last_words(client, view.run_id, step)
    return f"{step.label}: {step.state}{took}{retry}{': ' if said else ''}{said}"


def _print_view(client: Client, view: RunView) -> None:
    print(f"{view.name}: {view.state}\n")
    rows: list[tuple[str, ...]] = [("step", "state", "time")]
    for name in view.names:
        rows.append((name, *_state_and_time([step for step in view.steps if step.name == name])))
    print(table(rows))
    for line in (*_remarks(client, view), *_progress(client, view)):
        print(f"\n{line}")
    print(f"\npage: {client.cluster.run_page(view.run_id)}", flush=True)


def _remarks(client: Client, view: RunView) -> Iterator[str]:
    """What failed and why, and why others wait."""
    for step in view.steps:
        if step.state == "FAILED":
            yield f"{step.label} failed: {last_words(client, view.run_id, step)}"
        if step.state == "PENDING" and step.error:
            yield f"{step.label} waits: {step.error}"
    if view.state == "FAILED" and view.error and not any(step.state == "FAILED" for step in view.steps):
        yield view.error
    if view.has_workflow is False and not view.is_over:
        yield (
            f"kubectl finds no Workflow of it in namespace {client.run_namespace}: if that is the run's namespace, it "
            "has been deleted, and Kubeflow Pipelines will never show its end"
        )


def _progress(client: Client, view: RunView) -> list[str]:
    """The last line of each running step's log, where kubectl shows it, cut to the terminal's width."""
    running = [step for step in view.steps if step.state == "RUNNING" and step.pods]
    if not running or not view.has_workflow:
        return []
    with ThreadPoolExecutor(READERS) as pool:
        lines = list(pool.map(lambda step: _last_line(client, step), running))
    return [cut_to_terminal(f"{step.label}: {line}") for step, line in zip(running, lines, strict=True) if line]


def _last_line(client: Client, step: Step) -> str:
    where = (f"--namespace={client.run_namespace}", "--container=main", "--tail=1")
    try:
        text = client.cluster.kubectl().run("logs", step.pods[-1], *where)
    except KubefaceError:  # its container has not begun, or its logs may not be read
        return ""
    lines = text.replace("\r", "\n").strip().splitlines()
    return client.cluster.without_secrets(" ".join(lines[-1].split())) if lines else ""


def _state_and_time(steps: list[Step]) -> tuple[str, str]:
    """State and time of a step, that of all its shards together where it has several."""
    if not steps:
        return "not begun", "-"
    counts = Counter(step.state for step in steps)
    state = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    if len(steps) == 1:
        state = steps[0].state + (f", retry {steps[0].retries}" if steps[0].retries else "")
    begun = [step for step in steps if step.started]
    if not begun or set(counts) == {"CACHED"}:
        return state, "-"
    if all(step.ended for step in begun):
        first, last = min(s.started for s in begun if s.started), max(s.ended for s in begun if s.ended)
        return state, minutes((last - first).total_seconds())
    return state, minutes(max(step.seconds or 0.0 for step in begun))
