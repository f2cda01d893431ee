"""Processors and threads of a process."""

import os
from pathlib import Path
from typing import Any

import pytest

from kubeface.runtime import processors

QUOTA_V2 = "/sys/fs/cgroup/cpu.max"
QUOTA_V1 = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
V1, OWN = "/sys/fs/cgroup/cpu", "/proc/self/cgroup"
PERIOD_V1 = "/sys/fs/cgroup/cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("affinity", "files", "expected"),
    [
        (16, {}, 16),
        (16, {QUOTA_V2: "max 100000\n"}, 16),
        (16, {QUOTA_V2: "200000 100000\n"}, 2),
        (16, {QUOTA_V2: "150000 100000\n"}, 2),
        (16, {QUOTA_V2: "10000 100000\n"}, 1),
        (16, {QUOTA_V2: "50000 10000\n"}, 5),
        (2, {QUOTA_V2: "800000 100000\n"}, 2),
        (16, {QUOTA_V2: "nonsense"}, 16),
        (16, {QUOTA_V1: "-1\n", PERIOD_V1: "100000\n"}, 16),
        (16, {QUOTA_V1: "250000\n", PERIOD_V1: "100000\n"}, 3),
        (2, {QUOTA_V1: "250000\n", PERIOD_V1: "100000\n"}, 2),
        (16, {QUOTA_V1: "250000\n"}, 16),
        (16, {OWN: "0::/pod/step\n", "/sys/fs/cgroup/pod/step/cpu.max": "200000 100000\n"}, 2),
        (16, {OWN: "0::/pod/step\n", "/sys/fs/cgroup/pod/cpu.max": "300000 100000\n", QUOTA_V2: "max 100000\n"}, 3),
        (16, {OWN: "3:cpu,cpuacct:/pod\n", f"{V1}/pod/cpu.cfs_quota_us": "5", f"{V1}/pod/cpu.cfs_period_us": "1"}, 5),
        (16, {OWN: "3:memory:/pod\n", f"{V1}/pod/cpu.cfs_quota_us": "5", f"{V1}/pod/cpu.cfs_period_us": "1"}, 16),
    ],
)
def test_processors_are_the_quota_rounded_up_and_never_above_the_affinity(
    monkeypatch: pytest.MonkeyPatch, affinity: int, files: dict[str, str], expected: int
) -> None:
    def read_text(path: Path, *arguments: Any, **options: Any) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)))
    assert processors.cpu_limit() == expected


def test_processors_of_this_machine() -> None:
    assert 1 <= processors.cpu_limit() <= len(os.sched_getaffinity(0))


def test_threads_are_limited_unless_set_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "cpu_limit", lambda: 3)
    monkeypatch.setattr(os, "environ", {"MKL_NUM_THREADS": "7"})
    processors.limit_threads()
    threads = {"MKL_NUM_THREADS": "7", "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}
    assert os.environ == threads | {"OMP_WAIT_POLICY": "PASSIVE"}
