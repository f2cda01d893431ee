"""What a run came to, as report keeps it beside the models and notify reads it."""

import re
from typing import Literal

from kubeface.records.record import Record
from kubeface.runtime.errors import require
from kubeface.storage import objects

Verdict = Literal["promoted", "not promoted", "not trained"]


class ConclusionRecord(Record):
    """The outcome of a run whose every step succeeded."""

    schema_version: Literal[1] = 1
    verdict: Verdict
    reason: str
    model: str
    """Address of the promoted model; empty for none."""
    report: str


def conclusion_uri(models: str, name: str, run: str) -> str:
    """The address of a run's conclusion, `<models>/<name>/runs/<run>.json`.

    Raises:
        KubefaceError: a name or run that holds anything but letters, digits, - and _, or empty models.
    """
    for what, value in (("name", name), ("run", run)):
        require(bool(re.fullmatch(r"[\w-]+", value)), f"{what} is '{value}': use letters, digits, - and _")
    require(bool(models), "models is empty: give s3://bucket/models or a folder")
    return objects.join(objects.join(models, name), f"runs/{run}.json")
