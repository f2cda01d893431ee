"""python -m kubeface.finetune.node JOB: one process of a training that torchrun started, on one node or several.

JOB is `kubeface.finetune.launch.Job` as JSON. torchrun knows the other nodes from its flags, or from PET_… in the
environment, which Kubeflow Trainer sets.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from kubeface.runtime.errors import exit_on_error
from kubeface.runtime.processors import limit_threads


def work(text: str) -> None:
    """Trains with the others; the first of all processes hands on the model and what the step returned."""
    from kubeface.finetune.launch import Job  # numeric libraries read their number of threads when they are imported
    from kubeface.storage import objects

    job = Job.model_validate_json(text)
    result = exit_on_error(job.run)
    if os.environ.get("RANK", "0") != "0":
        return
    if job.upload:
        exit_on_error(objects.upload_folder, job.out, job.upload, "finetune")
    with TemporaryDirectory() as scratch:
        result.write(Path(scratch, "result.json"))
        exit_on_error(objects.upload, Path(scratch, "result.json"), job.result)


if __name__ == "__main__":
    limit_threads()
    work(sys.argv[1])
