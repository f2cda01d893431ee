"""Folders that the first of several test processes makes and the others use."""

import fcntl
from collections.abc import Callable
from pathlib import Path

ROOT = Path()  # of this run of the tests, shared by its processes; a fixture of tests/conftest.py sets it


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder that is made once in a run of the tests, however many processes there are; nobody may change it. `make`
    gets a path that does not exist, and leaves a whole folder there or nothing."""
    folder = ROOT / name
    with open(ROOT / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_name(f"{name}.partial")
            make(partial)
            partial.rename(folder)
    return folder
