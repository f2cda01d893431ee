"""The commands about schedules: a recurring run by name, set, replaced, paused, listed, deleted."""

import re
from contextlib import redirect_stdout
from io import StringIO
from typing import Annotated, Any

import kfp_server_api
import urllib3
from cyclopts import Parameter

from kubeface.runtime.errors import KubefaceError, require
from pipelines.build.catalogue import FACE_FINETUNING
from pipelines.cluster.client import Client, connect
from pipelines.cluster.recurring import Deletion, all_recurring, cron_of, delete_when_idle, is_on, named
from pipelines.cluster.request import PackageFlag, ParamsFlag, PipelineFlag, Request, configure, read_request
from pipelines.cluster.runs import RunConfig
from pipelines.formatting import table

SCHEDULE_NAME = re.compile(r"[a-zA-Z0-9][\w.-]{0,62}")
# Six fields, seconds first: github.com/robfig/cron, which KFP's scheduler reads them with.
FIELDS = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day of month": (1, 31),
    "month": (1, 12),
    "day of week": (0, 6),
}
NAMES = {
    "month": ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    "day of week": ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
}
WaitFlag = Annotated[
    bool, Parameter(help="Wait for the run that is going; else the schedule to delete is left paused.")
]
StopFlag = Annotated[bool, Parameter(help="Cancel the run that is going.", negative="")]
ScheduleName = Annotated[str, Parameter(help="Name of the schedule.")]


def require_cron(cron: str) -> str:
    """A cron expression of six fields that KFP's scheduler takes, with single spaces. Raises KubefaceError if it has
    not six fields (six are shown), or a field is out of range."""
    fields = cron.split()
    if len(fields) == 5:
        raise KubefaceError(
            f"cron '{cron}' has five fields, KFP's has six, seconds first: write \"0 {' '.join(fields)}\""
        )
    require(
        len(fields) == 6, f"cron '{cron}' has {len(fields)} fields: write six, as \"0 0 3 * * 0\" ({', '.join(FIELDS)})"
    )
    for text, (field, limits) in zip(fields, FIELDS.items(), strict=True):
        require(
            all(_is_valid_field(part, field, *limits) for part in text.split(",")),
            f"cron '{cron}': {field} is '{text}', it must lie in {limits[0]} to {limits[1]} (or be *, a-b, a,b, */n)",
        )
    return " ".join(fields)


def _is_valid_field(part: str, field: str, least: int, most: int) -> bool:
    """Whether `*`, `?`, `a`, `a-b`, or one of these with `/step`, is valid in a field."""
    span, slash, step = part.partition("/")
    if slash and not (step.isdecimal() and int(step) > 0):
        return False
    if span in ("*", "?"):
        return span == "*" or (field.startswith("day") and not slash)
    names = {name: number for number, name in enumerate(NAMES.get(field, ()), least)}
    ends = [names.get(end.upper(), int(end) if end.isdecimal() else -1) for end in span.split("-")]
    return len(ends) <= 2 and all(least <= end <= most for end in ends) and ends == sorted(ends)


def schedule(
    name: ScheduleName,
    *,
    cron: str,
    params: ParamsFlag,
    pipeline: PipelineFlag = FACE_FINETUNING,
    package: PackageFlag = None,
    wait: WaitFlag = True,
    stop: StopFlag = False,
) -> None:
    """Runs a pipeline at times, as the one recurring run of this name: another one is replaced.

    KFP cannot change a recurring run. The new one is made switched off, then the old one is switched off and the new
    one on: at no moment are two on, and where a request in between fails, the old one is on again. The old one is
    deleted last, when a run of it that is going has ended.

    Args:
        cron: Six fields, seconds first, in the time zone of KFP's scheduler (UTC unless set otherwise): "0 0 3 * * 0"
            is Sundays at 3:00.
    """
    require(bool(SCHEDULE_NAME.fullmatch(name)), f"name '{name}': use a-z, 0-9, -")
    cron = require_cron(cron)
    request = read_request(params, pipeline, package)
    with connect() as client:
        old = _set(client, name, cron, request)
    if old:
        what = f"the schedule {name} of before"
        if delete_when_idle(Deletion(old, stop), what, "this command", wait):
            print(f"{what} is deleted")


def _set(client: Client, name: str, cron: str, request: Request) -> list[str]:
    """Has the recurring run of this name on, and no other; the ids of those that are to be deleted."""
    config = configure(client, request)
    before = named(client, name)
    if before and _is_same(before[-1], cron, config):
        for one in filter(is_on, before[:-1]):
            client.disable_recurring_run(one.recurring_run_id)
        print(f"schedule {name} is as it was: {cron}")
        return [str(one.recurring_run_id) for one in before[:-1]]
    with redirect_stdout(StringIO()):  # kfp prints links of its own
        experiment = client.create_experiment(request.package.pipeline).experiment_id
    new = client.create_recurring_run(
        experiment,
        name,
        cron_expression=cron,
        max_concurrency=1,
        no_catchup=True,
        enabled=False,
        **config.arguments(),
    ).recurring_run_id
    _swap(client, name, [one for one in before if is_on(one)], str(new))
    print(f"schedule {name}: {cron} ({'replaced' if before else 'new'}; no catch-up, one run at a time)")
    return [str(one.recurring_run_id) for one in before]


def _swap(client: Client, name: str, old: list[Any], new: str) -> None:
    """Switches the old ones off and the new one on; where that fails, the old ones are on and the new one is gone."""
    try:
        for one in old:
            client.disable_recurring_run(one.recurring_run_id)
        client.enable_recurring_run(new)
    except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError):
        # The request that failed may have been done all the same: the new one goes before the old one is on.
        try:
            client.delete_recurring_run(new)
            for one in old:
                client.enable_recurring_run(one.recurring_run_id)
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError):
            raise KubefaceError(
                f"schedule {name} could not be replaced, nor put back: look at 'make schedules', and run this again"
            ) from None
        raise


def _is_same(one: Any, cron: str, config: RunConfig) -> bool:
    return bool(
        is_on(one)
        and cron_of(one) == cron
        and RunConfig.of(one) == config
        and one.no_catchup
        and int(one.max_concurrency or 0) == 1
    )


def _existing(client: Client, name: str) -> list[Any]:
    found = named(client, name)
    require(bool(found), f"schedule {name} does not exist: 'make schedules' lists those that do")
    return found


def pause(name: ScheduleName) -> None:
    """Switches a schedule off; runs that have begun go on."""
    with connect() as client:
        for one in _existing(client, name):
            client.disable_recurring_run(one.recurring_run_id)
    print(f"schedule {name} is paused")


def unpause(name: ScheduleName) -> None:
    """Switches a schedule on; runs that were missed are not made up for. Of several with one name, it is the newest."""
    with connect() as client:
        *others, newest = _existing(client, name)
        for one in others:
            client.disable_recurring_run(one.recurring_run_id)
        client.enable_recurring_run(newest.recurring_run_id)
    print(f"schedule {name} is on: {cron_of(newest)}")


def unschedule(name: ScheduleName, *, wait: WaitFlag = True, stop: StopFlag = False) -> None:
    """Deletes a schedule when a run of it that is going has ended. It starts nothing from now on."""
    with connect() as client:
        found = _existing(client, name)
        for one in filter(is_on, found):
            client.disable_recurring_run(one.recurring_run_id)
    deletion = Deletion([str(one.recurring_run_id) for one in found], stop)
    if delete_when_idle(deletion, f"schedule {name}", f"'make unschedule NAME={name}'", wait):
        print(f"schedule {name} is deleted")


def schedules() -> None:
    """Prints the schedules of the pipelines of kubeface."""
    with connect() as client:
        found = all_recurring(client)
    if not found:
        print("no schedule: make one with 'make schedule NAME=weekly CRON=\"0 0 3 * * 0\" PARAMS=file.yaml'")
        return
    rows: list[tuple[str, ...]] = [("name", "cron", "state", "model")]
    for one in found:
        model = str(RunConfig.of(one).parameters.get("name", "-"))
        rows.append((one.display_name, cron_of(one), "on" if is_on(one) else "paused", model))
    print(table(rows))
    names = [one.display_name for one in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        print(f"{name} is there more than once: repeat the command that set it, and what was before is deleted")
