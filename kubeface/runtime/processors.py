"""Processors and threads: how many this process may use, and what numeric libraries and the allocator are told."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

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
