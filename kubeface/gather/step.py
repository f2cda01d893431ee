"""Gather: the tables of all shards as one, the same whatever the number of shards."""

import csv
import heapq
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubeface import __version__
from kubeface.faces.templates import WHOLE
from kubeface.gather.options import GatherOptions
from kubeface.records.data import DataRecord, Erasure, previous_shards
from kubeface.records.record import StepResult
from kubeface.runtime.errors import require
from kubeface.runtime.keyed_rng import rank, stored_name
from kubeface.runtime.progress import Progress
from kubeface.storage.folders import new_folder, write_json
from kubeface.tables.erasure import name_digest, read_forget
from kubeface.tables.labels import PERSON
from kubeface.tables.resolution_pairs import resolution_of
from kubeface.tables.table import REJECTED_FIELDS, Table, TableWriter

STEPS = ("ingest", "align", "filter")
# What a shard's manifest says of the shard alone.
OF_A_SHARD = ("faces", "aligned", "forgotten")

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One shard's tables, and what the steps said of them.

    Args:
        place: <number>/<count>.
        fingerprint: of the shard.
        tables: by step.
        receipts: rows_in, rows_out and seconds, by step.
    """

    place: str
    fingerprint: str
    tables: dict[str, Table]
    receipts: dict[str, dict[str, Any]]


class GatherResult(StepResult):
    """Aligned images of all shards, in and out."""

    identities: int
    """People with an aligned image."""
    rejected: int
    """Images that gather left out: none, ever."""
    shards: int
    """Shards that were merged."""
    changed_shards: int
    """Shards that are new or have changed since the run before."""
    forgotten: int
    """Files that ingest left out because of `forget`."""


def gather(
    ingested: Sequence[str],
    aligned: Sequence[str],
    filtered: Sequence[str],
    out: Path,
    out_aligned: Path,
    out_filtered: Path,
    options: GatherOptions = GatherOptions(),
) -> GatherResult:
    """Merges the aligned tables and the filter tables of all shards into one of each.

    Rows come in the order that ingest gives a whole source, so that the result does not depend on how many shards
    there were. A row group of each shard is in memory at a time. Looks once more that nobody who is to be forgotten is
    among them.

    Args:
        ingested: Receipts of ingest, one of each shard: JSON with shard, fingerprint, uri, rows_in, rows_out, seconds;
            or the face tables themselves, as folders or s3:// prefixes.
        aligned: The same of align, in the same order.
        filtered: The same of filter.
        out: Folder to write data.json (shards, which of them changed, erasure), steps.json, rejected.csv and
            identities.csv to.
        out_aligned: Folder to write the aligned table to.
        out_filtered: Folder to write the filter table to.
        options: The checks against the run before and the list of the forgotten.

    Raises:
        KubefaceError: tables that do not belong together, no image with a face, one identity only, or somebody who is
            to be forgotten.
    """
    require(
        len(ingested) == len(aligned) == len(filtered) > 0,
        f"gather was given {len(ingested)}, {len(aligned)} and {len(filtered)} tables: it needs each shard's three",
    )
    parts = [_part(receipts) for receipts in zip(ingested, aligned, filtered, strict=True)]
    parts.sort(key=lambda part: int(part.place.partition("/")[0]))
    before = previous_shards(options.previous)
    unwanted = read_forget(options.forget)
    with new_folder(out) as folder:
        people = _merge(parts, out_aligned, out_filtered, unwanted, options.seed)
        _write_people(people, folder / "identities.csv")
        rejected = _write_rejected(parts, folder / "rejected.csv")
        shards = {part.place: part.fingerprint for part in parts}
        changed = [place for place, seen in shards.items() if seen != before.get(place)]
        ingest_tables = [part.tables["ingest"] for part in parts]
        rows = sum(part.tables["align"].rows for part in parts)
        forgotten = sum(table.manifest.settings.get("forgotten", 0) for table in ingest_tables)
        DataRecord(
            producer=f"gather {__version__}",
            images=sum(table.rows for table in ingest_tables),
            identities=sum(table.identities for table in ingest_tables),
            rejected=rejected,
            shards=shards,
            changed_shards=changed,
            erasure=Erasure(marks=sorted(unwanted), files_left_out=forgotten, rows_checked=rows),
        ).write(folder / "data.json")
        write_json(folder / "steps.json", {step: _total(parts, step) for step in STEPS})
    told = f"gather: {len(parts)} shards, {len(changed)} of them changed: {', '.join(changed) or 'none'}"
    print(told, file=sys.stderr)
    return GatherResult(
        rows_in=rows,
        rows_out=rows,
        identities=len(people),
        rejected=0,
        shards=len(parts),
        changed_shards=len(changed),
        forgotten=forgotten,
    )


def _part(receipts: tuple[str, str, str]) -> Part:
    """Opens a shard's tables."""
    told = {step: _receipt(text) for step, text in zip(STEPS, receipts, strict=True)}
    places = {(receipt.get("shard", "0/1"), receipt.get("fingerprint", "")) for receipt in told.values()}
    require(len(places) == 1, f"{sorted(places)} are different shards: give the tables of a shard in the same order")
    kinds = {"ingest": "faces", "align": "aligned", "filter": "filter"}
    tables = {step: Table(told[step]["uri"], kinds[step]) for step in STEPS}
    require(
        tables["align"].manifest.settings["faces"] == tables["ingest"].sha256
        and tables["filter"].manifest.settings["aligned"] == tables["align"].sha256,
        f"{tables['align'].folder} or {tables['filter'].folder} was made from another table: give those of one shard",
    )
    return Part(*places.pop(), tables, told)


def _receipt(text: str) -> dict[str, Any]:
    return dict(json.loads(text)) if text.startswith("{") else {"uri": text}


def _merge(
    parts: list[Part], out_aligned: Path, out_filtered: Path, unwanted: frozenset[str], seed: int
) -> dict[str, list[int]]:
    """Writes the merged tables; returns each identity's images, and how many of them the filter rejects."""
    people: dict[str, list[int]] = {}
    aligned = [part.tables["align"] for part in parts]
    filtered = [part.tables["filter"] for part in parts]
    aligned_with = _settings(aligned)
    with ExitStack() as stack:
        faces = stack.enter_context(TableWriter(out_aligned, "aligned", f"align {__version__}", aligned_with))
        verdicts = stack.enter_context(
            TableWriter(out_filtered, "filter", f"filter {__version__}", _settings(filtered))
        )
        progress = stack.enter_context(Progress("gather", sum(table.rows for table in aligned)))
        streams = [_pairs(part) for part in parts]
        for face, verdict in heapq.merge(*streams, key=lambda pair: _rank(seed, pair[0])):
            found = unwanted.intersection(map(name_digest, _names(face))) if unwanted else None
            require(not found, f"image {face['image_id']} is to be forgotten and is still there: this is a bug")
            faces.add(face)
            verdicts.add(verdict)
            counts = people.setdefault(face["identity"], [0, 0])
            counts[0] += 1
            counts[1] += not verdict["kept"]
            progress.advance()
        for table, writer in (*((table, faces) for table in aligned), *((table, verdicts) for table in filtered)):
            for row in table.rejected():
                writer.reject(row["source"], row["reason"], row["detail"])
        images = sum(part.tables["ingest"].rows for part in parts)
        whole = aligned_with.get("template") == WHOLE
        require(
            faces.rows > 0,
            f"none of {images} images can be decoded: look at rejected.csv of align"
            if whole
            else f"no face was found in any of {images} images: lower min_confidence or min_face_size",
        )
        require(
            faces.identities > 1,
            f"all {faces.rows} {'images are of one class' if whole else 'faces are of one identity'}: put the images "
            f"of each {'class' if whole else 'person'} into a folder of their own, or give identity_pattern or listing",
        )
    return people


def _pairs(part: Part) -> Iterator[tuple[Row, Row]]:
    """Aligned images with the filter's verdicts; both tables of a shard have the same rows in the same order."""
    verdicts = (row for rows in part.tables["filter"].row_groups() for row in rows)
    for rows in part.tables["align"].row_groups():
        for face in rows:
            verdict = next(verdicts, None)
            require(
                verdict is not None and verdict["image_id"] == face["image_id"],
                f"{part.tables['filter'].folder} says nothing of image {face['image_id']}: run filter on this table",
            )
            yield face, verdict or {}


def _rank(seed: int, face: Row) -> bytes:
    """What decides on a row's place, as ingest has it; the two of a pair, which are in one shard, keep their order."""
    return rank(seed, stored_name(face["source"], face["identity"], resolution_of(face["groups"])))


def _names(face: Row) -> tuple[str, str, str]:
    """What an image may be forgotten by: its identity, its file, and its person where the groups tell one."""
    return face["identity"], face["source"], str(json.loads(face["groups"] or "{}").get(PERSON, ""))


def _settings(tables: list[Table]) -> dict[str, Any]:
    """What all shards were made with."""
    settings = [table.manifest.settings for table in tables]
    for name in settings[0].keys() - set(OF_A_SHARD):
        require(
            all(other.get(name) == settings[0][name] for other in settings),
            f"{tables[0].folder} and others of its kind were made with different {name}: give the tables of one run",
        )
    return {name: value for name, value in settings[0].items() if name not in OF_A_SHARD}


def _write_rejected(parts: list[Part], path: Path) -> dict[str, dict[str, int]]:
    """Lists what each step left out, by step and source; returns the numbers by step and reason."""
    counts: dict[str, Counter[str]] = {step: Counter() for step in STEPS}
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("step", *REJECTED_FIELDS))
        for step in STEPS:
            for row in heapq.merge(*(part.tables[step].rejected() for part in parts), key=lambda row: row["source"]):
                writer.writerow((step, *(row[name] for name in REJECTED_FIELDS)))
                counts[step][row["reason"]] += 1
    return {step: dict(sorted(found.items())) for step, found in counts.items()}


def _write_people(people: dict[str, list[int]], path: Path) -> None:
    """Lists what share of each identity's images the filter rejects, and warns of those who lose most of theirs."""
    ordered = sorted(people.items(), key=lambda item: (-item[1][1] / item[1][0], item[0]))
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("identity", "images", "rejected", "share"))
        writer.writerows((name, images, rejected, f"{rejected / images:.4f}") for name, (images, rejected) in ordered)
    losing = [name for name, (images, rejected) in ordered if 2 * rejected > images]
    if losing:
        names = ", ".join(losing[:5]) + (" …" if len(losing) > 5 else "")
        print(f"warning: the filter rejects most images of {len(losing)} identities: {names}", file=sys.stderr)


def _total(parts: list[Part], step: str) -> dict[str, float]:
    """What a step did on all shards together; seconds are those of all its tasks, not of the clock."""
    receipts = [part.receipts[step] for part in parts]
    return {
        name: round(sum(receipt.get(name, 0) for receipt in receipts), 2) for name in ("rows_in", "rows_out", "seconds")
    }
