"""A container engine for the tests that need one; they are skipped, with the reason, where there is none."""

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from kubeface.runtime.errors import KubefaceError
from pipelines.build.images import Images, find_engine, read_images
from tests.support.commands import run_in
from tests.support.shared import made_once

# Makes podman work on a machine without an engine or a registry, where it lies beside the repository.
SETUP = Path(__file__).resolve().parents[3] / "shared" / "tools" / "setup-containers.sh"

REGISTRY, TAG = "localhost/kubeface-test", "test"


@cache
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


def built_images() -> Images:
    """The images of all steps, built from the files as they are, once in a run of the tests."""
    names = ("--engine", working_engine(), "--registry", REGISTRY, "--tag", TAG)

    def build(folder: Path) -> None:
        folder.mkdir()
        run_in(folder, "images", *names, "--record", "images.json", timeout=1800)

    return read_images(made_once("images", build) / "images.json")
