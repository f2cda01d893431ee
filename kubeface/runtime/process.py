"""What surrounds a step, whichever door it is entered by: time, counts, errors in one line, threads."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from kubeface.runtime.errors import KubefaceError

VERSION = "0.1.0"

# Torch on a CPU spends most of its time in page faults with glibc's defaults: keep freed memory.
MALLOC_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**30),
    "ARROW_DEFAULT_MEMORY_POOL": "jemalloc",  # Arrow's own choice keeps more the longer it works
}


def cpu_limit() -> int:
    """Processors this process may use: the least quota of its cgroups (v2 or v1) rounded up, at most its affinity."""
    limits = [-(-quota // period) for quota, period in _quotas()]
    return max(1, min([len(os.sched_getaffinity(0)), *limits]))


def _quotas() -> Iterator[tuple[int, int]]:
    """Quota and period of the process's cgroup and of every one above it that has a quota."""
    root, paths = Path("/sys/fs/cgroup"), {"": "/", "cpu": "/"}
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths |= dict.fromkeys(controllers.split(","), path)
    except (OSError, ValueError):
        pass  # no cgroups
    for folder in _with_parents(root, paths[""]):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            yield int(quota), int(period)  # "max" is no number
    for folder in _with_parents(root / "cpu", paths["cpu"]):
        with suppress(OSError, ValueError):
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:
                yield int(quota), int(period)


def _with_parents(root: Path, path: str) -> list[Path]:
    """The folder of a cgroup below `root`, and those of the cgroups it is in."""
    inside = Path(path.strip("/"))
    return [root / part for part in (inside, *inside.parents)]


def limit_threads() -> None:
    """Gives numeric libraries as many threads as the container has processors.

    Must run before they are imported. More threads than processors cost up to 100× under a cgroup
    limit (deepinsight/insightface#2899); threads that wait without spinning leave a shared node its processors.
    """
    threads = str(cpu_limit())
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def report_error(message: str) -> None:
    """Prints `error: …` and leaves the line where Kubernetes reads a pod's last words.

    TERMINATION_LOG names another file than /dev/termination-log.
    """
    print(f"error: {message}", file=sys.stderr, flush=True)
    try:
        Path(os.environ.get("TERMINATION_LOG", "/dev/termination-log")).write_text(message + "\n")
    except OSError:
        pass  # not in a pod


Result = TypeVar("Result")


def guarded(action: Callable[..., Result], **arguments: Any) -> Result:
    """Calls a function; a KubefaceError ends the process with one line and exit code 1."""
    try:
        return action(**arguments)
    except KubefaceError as error:
        report_error(str(error))
        raise SystemExit(1) from None


def timed(step: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
    """Runs a step; returns its figures with the seconds it took. Errors end the process as in `guarded`."""
    start = time.monotonic()
    figures = guarded(step, **arguments)
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
