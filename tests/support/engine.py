"""A container engine for the tests that need one; they are skipped, with the reason, where there is none."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from kubeface.runtime.errors import KubefaceError
from pipelines.build.images import find_engine

# Makes podman work on a machine without an engine or a registry, where it lies beside the repository.
SETUP = Path(__file__).resolve().parents[3] / "shared" / "tools" / "setup-containers.sh"


def working_engine() -> str:
    """Name of the engine to use: podman as SETUP prepares it, else docker or podman, whichever answers."""
    if SETUP.is_file():
        done = subprocess.run(["bash", SETUP], capture_output=True, text=True, timeout=500)
        if done.returncode:
            pytest.skip(f"{SETUP.name} could not prepare podman: {done.stderr.strip()[-200:]}")
        os.environ.update(re.findall(r"^export (CONTAINERS_CONF)=(.*)$", done.stdout, re.MULTILINE))
    try:
        return find_engine("podman" if SETUP.is_file() else "")
    except KubefaceError as error:
        pytest.skip(str(error))
