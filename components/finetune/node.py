"""python -m components.finetune.node JOB: one process of a training that torchrun started, on one node or several.

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

from components.faces import storage
from components.faces.folders import write_json
from components.faces.runtime import guarded, limit_threads, timed


def work(arguments: dict[str, Any], figures: str, upload: str = "") -> None:
    """Trains with the others; the first of all processes hands the model and the figures on.

    Args:
        arguments: of `components.finetune.step.finetune`.
        figures: file or s3:// address to write its figures to.
        upload: s3:// address to copy the model folder to; empty for none.
    """
    from components.finetune.step import finetune

    found = timed(finetune, **arguments | {"out": Path(arguments["out"])})
    if os.environ.get("RANK", "0") == "0":
        guarded(_hand_on, found=found, out=Path(arguments["out"]), figures=figures, upload=upload)


def _hand_on(found: dict[str, Any], out: Path, figures: str, upload: str) -> None:
    if upload:
        storage.upload_folder(out, upload, "finetune")
    with TemporaryDirectory() as scratch:
        write_json(Path(scratch, "figures.json"), found)
        storage.upload(Path(scratch, "figures.json"), figures)


if __name__ == "__main__":
    limit_threads()
    work(**json.loads(sys.argv[1]))
