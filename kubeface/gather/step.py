"""Gather: the tables of all shards as one, the same bytes whatever the number of shards."""

import heapq
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from kubeface import __version__
from kubeface.gather.merge import merge
from kubeface.gather.options import GatherOptions
from kubeface.gather.shard_tables import STEPS, ShardTables
from kubeface.records.data import DataRecord, Erasure, ShardStepsRecord, StepTotals, previous_shards
from kubeface.records.record import StepResult
from kubeface.runtime.errors import require
from kubeface.storage.folders import new_folder, write_csv
from kubeface.tables.erasure import read_erasure_list
from kubeface.tables.table import Rejection


class GatherResult(StepResult):
    """Aligned images of all shards, in and out."""

    identities: int
    """People with an aligned image."""
    rejected: int
    """Images that gather itself left out: 0."""
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

    Rows come in the order in which ingest stores a whole source. Memory holds a row group of each shard. Checks once
    more that nobody who is to be forgotten is among the rows.

    Args:
        ingested: Receipts of ingest, one a shard: JSON with shard, fingerprint, uri, rows_in, rows_out, seconds; or the
            face tables themselves, as folders or s3:// prefixes.
        aligned: The same of align, in the same order.
        filtered: The same of filter, in the same order.
        out: Folder to write data.json, steps.json, rejected.csv and identities.csv to.
        out_aligned: Folder to write the aligned table to; it may lie in `out`.
        out_filtered: Folder to write the filter table to; it may lie in `out`.
        options: What is checked, and the order of the rows.

    Raises:
        KubefaceError: tables that do not belong together, no image with a face, a single identity, or an image that is
            to be forgotten.
    """
    require(
        len(ingested) == len(aligned) == len(filtered) > 0,
        f"gather was given {len(ingested)}, {len(aligned)} and {len(filtered)} tables: it needs each shard's three",
    )
    shards = list(map(ShardTables.open, ingested, aligned, filtered))
    shards.sort(key=lambda shard: int(shard.shard.partition("/")[0]))
    before = previous_shards(options.previous)
    fingerprints = {shard.shard: shard.receipts["ingest"].fingerprint for shard in shards}
    changed = [shard for shard, fingerprint in fingerprints.items() if fingerprint != before.get(shard)]
    erased = read_erasure_list(options.forget)
    with new_folder(out) as folder:
        crops, verdicts = (_moved(table, out, folder) for table in (out_aligned, out_filtered))
        identities, losses = merge(shards, crops, verdicts, erased, options.seed)
        _write_identities(identities, losses, folder / "identities.csv")
        rejected = _write_rejected(shards, folder / "rejected.csv")
        record = _record(shards, rejected, fingerprints, changed, erased)
        record.write(folder / "data.json")
        ShardStepsRecord(**{step: _totals(shards, step) for step in STEPS}).write(folder / "steps.json")
    print(
        f"gather: {len(shards)} shards, {len(changed)} of them changed: {', '.join(changed) or 'none'}", file=sys.stderr
    )
    return GatherResult(
        rows_in=record.erasure.rows_checked,
        rows_out=record.erasure.rows_checked,
        identities=len(identities),
        rejected=0,
        shards=len(shards),
        changed_shards=len(changed),
        forgotten=record.erasure.files_left_out,
    )


def _moved(path: Path, out: Path, folder: Path) -> Path:
    """Where what lies in `out` is written until `folder` becomes `out`."""
    return folder / path.relative_to(out) if path.is_relative_to(out) else path


def _record(
    shards: Sequence[ShardTables],
    rejected: dict[str, dict[str, int]],
    fingerprints: dict[str, str],
    changed: list[str],
    erased: frozenset[str],
) -> DataRecord:
    faces = [shard.tables["ingest"] for shard in shards]
    return DataRecord(
        producer=f"gather {__version__}",
        images=sum(table.rows for table in faces),
        identities=sum(table.identities for table in faces),
        rejected=rejected,
        shards=fingerprints,
        changed_shards=changed,
        erasure=Erasure(
            marks=sorted(erased),
            files_left_out=sum(int(table.manifest.setting("forgotten", "0")) for table in faces),
            rows_checked=sum(shard.tables["align"].rows for shard in shards),
        ),
    )


def _totals(shards: Sequence[ShardTables], step: str) -> StepTotals:
    receipts = [shard.receipts[step] for shard in shards]
    return StepTotals(
        rows_in=sum(receipt.rows_in for receipt in receipts),
        rows_out=sum(receipt.rows_out for receipt in receipts),
        seconds=round(sum(receipt.seconds for receipt in receipts), 2),
    )


def _write_rejected(shards: Sequence[ShardTables], path: Path) -> dict[str, dict[str, int]]:
    """Lists the images that each step left out, by step and source; returns the counts by step and reason."""
    counts: dict[str, Counter[str]] = {step: Counter() for step in STEPS}

    def rows() -> Iterator[tuple[str, ...]]:
        for step in STEPS:
            lists = (shard.tables[step].rejected() for shard in shards)
            for rejection in heapq.merge(*lists, key=lambda rejection: rejection.source):
                counts[step][rejection.reason] += 1
                yield step, *rejection

    write_csv(path, ("step", *Rejection._fields), rows())
    return {step: dict(sorted(reasons.items())) for step, reasons in counts.items()}


def _write_identities(identities: Counter[str], rejected: Counter[str], path: Path) -> None:
    """Lists the share of each identity's images that the filter rejects; warns of identities that lose most of them."""
    shares = {name: rejected[name] / count for name, count in identities.items()}
    ordered = sorted(shares, key=lambda name: (-shares[name], name))
    rows = ((name, identities[name], rejected[name], f"{shares[name]:.4f}") for name in ordered)
    write_csv(path, ("identity", "images", "rejected", "share"), rows)
    losing = [name for name in ordered if shares[name] > 0.5]
    if losing:
        names = ", ".join(losing[:5]) + (" …" if len(losing) > 5 else "")
        print(f"warning: the filter rejects most images of {len(losing)} identities: {names}", file=sys.stderr)
