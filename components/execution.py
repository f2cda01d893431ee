"""A step as a task of Kubeflow: its figures as metrics, its error in one line, a second attempt inside a loop."""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from kubeface.records.receipt import Receipt
from kubeface.records.record import STEP_FILE, StepRecord, StepResult
from kubeface.runtime.errors import KubefaceError, exit_on_error, report_error

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result", bound=StepResult)


class Artifact(Protocol):
    """What is used of KFP's artifacts: steps run where kfp is and are tested where it need not be."""

    uri: str
    path: str
    metadata: dict[str, Any]


class Metrics(Protocol):
    """What is used of KFP's `Output[Metrics]`."""

    path: str

    def log_metric(self, metric: str, value: float) -> None:
        """Sets a number that the UI shows."""


def run_step(
    output: Artifact | None,
    metrics: Metrics,
    step: Callable[Parameters, Result],
    /,
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> Result:
    """Body of a component: runs the step and leaves its figures and seconds as the task's metrics, for the UI.

    A KubefaceError ends the process with one line and exit code 1.

    Args:
        output: the folder that the step writes, which gets them as step.json for the report; None where it is a file.
    """
    start = time.monotonic()
    result = exit_on_error(step, *args, **kwargs)
    record = _leave(metrics, result, time.monotonic() - start)
    if output:
        record.write(Path(output.path, STEP_FILE))
    return result


def run_shard(
    shard: str,
    output: Artifact,
    metrics: Metrics,
    step: Callable[Parameters, Result],
    /,
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> str:
    """Body of a component that works on one shard: as run_step, but with a second attempt.

    KFP ignores a task's retries inside ParallelFor (kubeflow/pipelines#12389), and a shard that fails for good is to be
    named.

    Args:
        shard: text of the shard, <number>/<count> first.

    Returns:
        the Receipt as JSON: KFP collects parameters from a loop, not artifacts.
    """
    number, _, seen = shard.partition(" ")
    start = time.monotonic()
    try:
        result = step(*args, **kwargs)
    except Exception as error:
        print(f"shard {number}: {_in_one_line(error)}; trying once more", file=sys.stderr, flush=True)
        result = _second_attempt(number, step, *args, **kwargs)
    record = _leave(metrics, result, time.monotonic() - start)
    return Receipt(
        shard=number,
        fingerprint=seen.partition(",")[0],
        uri=output.uri,
        rows_in=record.rows_in,
        rows_out=record.rows_out,
        seconds=record.seconds,
    ).model_dump_json()


def _second_attempt(
    number: str, step: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    try:
        return step(*args, **kwargs)
    except Exception as error:
        report_error(f"shard {number} failed twice: {_in_one_line(error)}")
        if isinstance(error, KubefaceError):
            raise SystemExit(1) from None
        raise


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, KubefaceError) else f"{type(error).__name__}: {text}"


def _leave(metrics: Metrics, result: StepResult, elapsed: float) -> StepRecord:
    """Logs a result's numbers, true and false as 1 and 0; without those that are not finite, at which KFP's launcher
    ends.
    """
    figures = result.model_dump(mode="json") | {"seconds": round(elapsed, 2)}
    figures = {name: value for name, value in figures.items() if not isinstance(value, float) or math.isfinite(value)}
    for name, value in figures.items():
        if isinstance(value, int | float):
            metrics.log_metric(name, int(value) if isinstance(value, bool) else value)
    Path(metrics.path).parent.mkdir(parents=True, exist_ok=True)
    Path(metrics.path).write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
    return StepRecord.parse(figures, STEP_FILE)
