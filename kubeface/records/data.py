"""The records of a run's data, which gather writes: data.json and steps.json."""

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from kubeface.records.record import Record
from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects


class Erasure(Record):
    """Proof that the people and images of the option `forget` are not among the data."""

    marks: list[str] = Field(default_factory=list)
    """SHA-256 of each name to be forgotten, 32 hex digits, sorted: the names themselves are not kept."""
    files_left_out: int = 0
    """Files of the source that ingest left out for it."""
    rows_checked: int = 0
    """Aligned images that gather compared with the marks."""
    rows_found: Literal[0] = 0
    """Those among them that should have been left out: gather fails rather than write another number."""


class DataRecord(Record):
    """What a run's data are: how many images of whom, what each step left out, and which shards changed."""

    schema_version: Literal[1] = 1
    producer: str
    images: int
    """Usable images that ingest read."""
    identities: int
    """People (or classes) that they show."""
    rejected: dict[str, dict[str, int]]
    """Images left out, by step (ingest, align, filter) and reason."""
    shards: dict[str, str]
    """Fingerprint of each shard by its <number>/<count>; empty where a table was given without its receipt."""
    changed_shards: list[str]
    """The shards that are new or have another fingerprint than in the run before, as <number>/<count>."""
    erasure: Erasure = Field(default_factory=Erasure)


class StepTotals(Record):
    """What a step did on all shards together."""

    rows_in: int
    """Items that it read: files of ingest, else rows."""
    rows_out: int
    seconds: float
    """Sum of its tasks' times, which may have run side by side."""


class ShardStepsRecord(Record):
    """steps.json: the steps inside the loop over shards."""

    ingest: StepTotals
    align: StepTotals
    filter: StepTotals


def gathered_tables(folder: Path) -> tuple[Path, Path]:
    """The aligned table and the filter's, as a pipeline keeps them in the folder of gather."""
    return folder / "aligned", folder / "filtered"


def previous_shards(uri: str) -> dict[str, str]:
    """The fingerprint of each shard in the run before.

    Promote keeps the records of gather and audit as one file; only the shards are read here, so that what else it holds
    may change from release to release.

    Args:
        uri: data.json, as path or s3:// address; empty or absent for a first run.

    Raises:
        KubefaceError: the file cannot be read or is no such record.
    """
    if not uri or not objects.exists(uri):
        return {}
    try:
        shards = json.loads(objects.read_bytes(uri)).get("shards", {})
        return {str(number): str(fingerprint) for number, fingerprint in shards.items()}
    except (ValueError, AttributeError) as error:
        raise KubefaceError(f"{uri} is not the data.json of a run ({error}): give one, or none") from None
