"""What surrounds a step, whichever door it is entered by: time, counts, errors in one line."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubeface.runtime.errors import KubefaceError, exit_on_error, report_error


def timed(step: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
    """Runs a step; returns its figures with the seconds it took. Errors end the process as in `exit_on_error`."""
    start = time.monotonic()
    figures = exit_on_error(step, **arguments)
    return figures | {"seconds": round(time.monotonic() - start, 2)}


def use_stores(s3_endpoint: str, weights_mirror: str = "") -> None:
    """Sets S3 endpoint and mirror of published weights for this process; empty leaves the environment's."""
    for name, value in (("S3_ENDPOINT", s3_endpoint), ("KUBEFACE_WEIGHTS_MIRROR", weights_mirror)):
        if value:
            os.environ[name] = value


def run_component(metrics: Any, step: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
    """Body of a KFP component: runs the step and leaves its figures as the task's metrics.

    Args:
        metrics: the component's `Output[Metrics]`. Its file gets the figures as JSON, for the report
            step; its metadata gets the numbers, for the UI.
        step: function of a step module.
        arguments: its arguments.
    """
    figures = timed(step, **arguments)
    _leave(metrics, figures)
    return figures


def run_shard(shard: str, output: Any, metrics: Any, step: Callable[..., dict[str, Any]], /, **arguments: Any) -> str:
    """Body of a KFP component that works on one shard: as run_component, but with a second attempt.

    KFP ignores a task's retries inside ParallelFor (kubeflow/pipelines#12389), and a shard that fails for good is to be
    named.

    Args:
        shard: text of the shard, <number>/<count> first.
        output: the component's `Output[Dataset]` that the step writes.
        metrics: its `Output[Metrics]`.
        step: function of a step module.
        arguments: its arguments.

    Returns:
        the receipt as JSON: shard, fingerprint, uri, rows_in, rows_out, seconds. Parameters are collected from a loop
        where artifacts are not.
    """
    place, _, seen = shard.partition(" ")
    start = time.monotonic()
    try:
        figures = step(**arguments)
    except Exception as error:
        print(f"shard {place}: {_in_one_line(error)}; trying once more", file=sys.stderr, flush=True)
        try:
            figures = step(**arguments)
        except Exception as again:
            report_error(f"shard {place} failed twice: {_in_one_line(again)}")
            if isinstance(again, KubefaceError):
                raise SystemExit(1) from None
            raise
    figures |= {"seconds": round(time.monotonic() - start, 2)}
    _leave(metrics, figures)
    told = {name: figures[name] for name in ("rows_in", "rows_out", "seconds")}
    return json.dumps({"shard": place, "fingerprint": seen.partition(",")[0], "uri": output.uri} | told)


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, KubefaceError) else f"{type(error).__name__}: {text}"


def _leave(metrics: Any, figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            metrics.log_metric(name, value)
    Path(metrics.path).parent.mkdir(parents=True, exist_ok=True)
    Path(metrics.path).write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
