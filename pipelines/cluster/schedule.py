"""One recurring run by name; set, replaced in place, paused, listed, taken away."""

import argparse
import re
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import kfp_server_api
import urllib3

from kubeface.runtime.errors import KubefaceError, require
from pipelines.build.catalogue import PACKAGE, TASKS
from pipelines.cluster.client import Client, Cluster, connect
from pipelines.cluster.deployed import ROOT, deployed_settings, with_settings
from pipelines.cluster.parameters import read_parameters, read_spec, validated
from pipelines.cluster.runs import table
from pipelines.cluster.versions import find_pipeline, pipeline_name, upload

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
PAGE = 100


def require_cron(cron: str) -> str:
    """The expression with single spaces, when it has six fields that KFP's scheduler takes.

    Raises:
        KubefaceError: it has five or another number (six are shown), or a field cannot be.
    """
    given = cron.split()
    if len(given) == 5:
        raise KubefaceError(
            f"cron '{cron}' has five fields, KFP's has six, seconds first: write \"0 {' '.join(given)}\""
        )
    require(
        len(given) == 6, f"cron '{cron}' has {len(given)} fields: write six, as \"0 0 3 * * 0\" ({', '.join(FIELDS)})"
    )
    for text, (field, limits) in zip(given, FIELDS.items(), strict=True):
        require(
            all(_possible(part, field, *limits) for part in text.split(",")),
            f"cron '{cron}': {field} is '{text}', it must lie in {limits[0]} to {limits[1]} (or be *, a-b, a,b, */n)",
        )
    return " ".join(given)


def _possible(part: str, field: str, least: int, most: int) -> bool:
    """Whether `*`, `?`, `a`, `a-b`, or one of these with `/step`, can be in a field."""
    span, slash, step = part.partition("/")
    if slash and not (step.isdecimal() and int(step) > 0):
        return False
    if span in ("*", "?"):
        return span == "*" or (field.startswith("day") and not slash)
    names = {name: number for number, name in enumerate(NAMES.get(field, ()), least)}
    ends = [names.get(end.upper(), int(end) if end.isdecimal() else -1) for end in span.split("-")]
    return len(ends) <= 2 and all(least <= end <= most for end in ends) and ends == sorted(ends)


def schedule(
    client: Client,
    cluster: Cluster,
    name: str,
    cron: str,
    package: Path,
    values: dict[str, Any],
    root: str | None = None,
) -> bool:
    """Has the pipeline run at times, as the one recurring run of this name: another one is replaced.

    KFP cannot change a recurring run. The new one is made switched off, then the old is switched off and the new on,
    and the old is deleted last: at no moment are two on, and where a request in between fails, the old one is on again.

    Args:
        client, cluster: of `connect`.
        name: of the recurring run.
        cron: six fields, of `require_cron`, in the time zone of KFP's scheduler (UTC unless set otherwise).
        package: compiled pipeline.
        values: parameters, of `validated`.
        root: where KFP keeps the runs' artifacts; None for its own choice.

    Returns:
        whether something was changed; not where the one that is there is the same and on.

    Raises:
        KubefaceError: KFP refuses; the line says what is on.
    """
    called = pipeline_name(package)
    version, _ = upload(client, package)
    pipeline = find_pipeline(client, called) or ""
    before = _named(client, name)
    if len(before) == 1 and _same(before[0], cron, version, values, root, cluster.service_account):
        print(f"schedule {name} is as it was: {cron}")
        return False
    with redirect_stdout(StringIO()):
        experiment = client.create_experiment(called).experiment_id
    new = client.create_recurring_run(
        experiment,
        name,
        cron_expression=cron,
        max_concurrency=1,
        no_catchup=True,
        params=values,
        pipeline_id=pipeline,
        version_id=version,
        enabled=False,
        pipeline_root=root,
        service_account=cluster.service_account or None,
    ).recurring_run_id
    _swap(client, name, [one for one in before if _on(one)], str(new))
    for one in before:
        client.delete_recurring_run(one.recurring_run_id)
    print(f"schedule {name}: {cron} ({'replaced' if before else 'new'}; no catch-up, one run at a time)")
    return True


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


def _same(one: Any, cron: str, version: str, values: dict[str, Any], root: str | None, account: str) -> bool:
    return bool(
        _on(one)
        and _cron(one) == cron
        and one.pipeline_version_reference.pipeline_version_id == version
        and ((one.runtime_config and one.runtime_config.parameters) or {}) == values
        and ((one.runtime_config and one.runtime_config.pipeline_root) or None) == root
        and (one.service_account or "") == account
        and one.no_catchup
        and int(one.max_concurrency or 0) == 1
    )


def _on(one: Any) -> bool:
    return bool(one.status == "ENABLED")


def _cron(one: Any) -> str:
    planned = one.trigger and one.trigger.cron_schedule
    return str(planned.cron) if planned else "-"


def _all(client: Client) -> list[Any]:
    """Every recurring run of our pipelines', oldest first."""
    found: list[Any] = []
    token = ""
    while True:
        page = client.list_recurring_runs(page_token=token, page_size=PAGE, namespace=client.namespace or None)
        found += page.recurring_runs or []
        token = page.next_page_token or ""
        if not token:
            break
    pipelines = {pipeline for name in TASKS if (pipeline := find_pipeline(client, name))}
    ours = [one for one in found if getattr(one.pipeline_version_reference, "pipeline_id", "") in pipelines]
    return sorted(ours, key=lambda one: one.created_at)


def _named(client: Client, name: str) -> list[Any]:
    return [one for one in _all(client) if one.display_name == name]


def _known(client: Client, name: str) -> list[Any]:
    found = _named(client, name)
    require(bool(found), f"schedule {name} does not exist: 'make schedules' lists those that do")
    return found


def pause(client: Client, name: str) -> None:
    """Switches a schedule off; runs that have begun go on.

    Raises:
        KubefaceError: there is none.
    """
    for one in _known(client, name):
        client.disable_recurring_run(one.recurring_run_id)
    print(f"schedule {name} is paused")


def unpause(client: Client, name: str) -> None:
    """Switches a schedule on; what was missed is not made up for. Of several by one name, it is the newest.

    Raises:
        KubefaceError: there is none.
    """
    *others, newest = _known(client, name)
    for one in others:
        client.disable_recurring_run(one.recurring_run_id)
    client.enable_recurring_run(newest.recurring_run_id)
    print(f"schedule {name} is on: {_cron(newest)}")


def unschedule(client: Client, name: str) -> None:
    """Deletes a schedule, and not the runs that it has made.

    Raises:
        KubefaceError: there is none.
    """
    for one in _known(client, name):
        client.delete_recurring_run(one.recurring_run_id)
    print(f"schedule {name} is deleted")


def schedules(client: Client) -> None:
    """Prints the schedules."""
    found = _all(client)
    if not found:
        print("no schedule: make one with 'make schedule NAME=weekly CRON=\"0 0 3 * * 0\" PARAMS=file.yaml'")
        return
    rows: list[tuple[str, ...]] = [("name", "cron", "state", "model")]
    for one in found:
        parameters = (one.runtime_config and one.runtime_config.parameters) or {}
        rows.append((one.display_name, _cron(one), "on" if _on(one) else "paused", str(parameters.get("name", "-"))))
    print(table(rows))
    names = [one.display_name for one in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        print(f"{name} is there more than once, a replacement was broken off: set it again with 'make schedule'")


def main() -> None:
    """The command line."""
    given = _parser().parse_args()
    try:
        if given.command == "set":
            require(bool(re.fullmatch(r"[a-zA-Z0-9][\w.-]{0,62}", given.name)), f"name '{given.name}': use a-z, 0-9, -")
            cron = require_cron(given.cron)
            wanted = read_parameters(given.params) | ({"only_if_changed": True} if given.only_if_changed else {})
            values = validated(wanted, read_spec(given.package))
        cluster = Cluster.from_environment()
        with connect(cluster) as client:
            match given.command:
                case "set":
                    settings = deployed_settings(cluster)
                    values = with_settings(values, settings)
                    schedule(client, cluster, given.name, cron, given.package, values, settings.get(ROOT))
                case "list":
                    schedules(client)
                case "pause":
                    pause(client, given.name)
                case "unpause":
                    unpause(client, given.name)
                case "delete":
                    unschedule(client, given.name)
    except KubefaceError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.cluster.schedule", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = commands.add_parser("set", help="have the pipeline run at times, in the place of a schedule of this name")
    one.add_argument("name", help="of the schedule")
    one.add_argument("--cron", required=True, help='six fields, seconds first: "0 0 3 * * 0" is Sundays at 3:00')
    one.add_argument("--params", type=Path, required=True, help="YAML or JSON file of the runs' parameters")
    one.add_argument("--package", type=Path, default=PACKAGE, help="compiled pipeline (%(default)s)")
    one.add_argument("--only-if-changed", action="store_true", help="runs end early where there are no new data")
    commands.add_parser("list", help="the schedules")
    for command, text in (("pause", "switch one off"), ("unpause", "switch it on"), ("delete", "take it away")):
        commands.add_parser(command, help=text).add_argument("name", help="of the schedule")
    return parser


if __name__ == "__main__":
    main()
