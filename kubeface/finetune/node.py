"""python -m kubeface.finetune.node JOB: one process of a training that torchrun started, on one node or several.

JOB is JSON: `arguments` of the step, `figures` (file or s3:// address for what the step returns) and `upload` (s3://
address for the model folder; empty where `out` is where it is wanted). torchrun knows the other nodes from its flags,
or from PET_… in the environment, which Kubeflow Trainer sets.
"""

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kubeface.runtime.errors import exit_on_error
from kubeface.runtime.process import timed
from kubeface.runtime.processors import limit_threads
from kubeface.storage import objects
from kubeface.storage.folders import write_json


def work(arguments: dict[str, Any], figures: str, upload: str = "") -> None:
    """Trains with the others; the first of all processes hands the model and the figures on.

    Args:
        arguments: of `kubeface.finetune.step.finetune`.
        figures: file or s3:// address to write its figures to.
        upload: s3:// address to copy the model folder to; empty for none.
    """
    from kubeface.finetune.step import finetune

    found = timed(finetune, **arguments | {"out": Path(arguments["out"])})
    if os.environ.get("RANK", "0") == "0":
        exit_on_error(_hand_on, found=found, out=Path(arguments["out"]), figures=figures, upload=upload)


def _hand_on(found: dict[str, Any], out: Path, figures: str, upload: str) -> None:
    if upload:
        objects.upload_folder(out, upload, "finetune")
    with TemporaryDirectory() as scratch:
        write_json(Path(scratch, "figures.json"), found)
        objects.upload(Path(scratch, "figures.json"), figures)


if __name__ == "__main__":
    limit_threads()
    work(**json.loads(sys.argv[1]))
