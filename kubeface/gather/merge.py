"""Merging the aligned and the filter tables of all shards, with a last check that nobody erased is among the rows."""

import heapq
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from kubeface import __version__
from kubeface.faces.templates import WHOLE
from kubeface.gather.shard_tables import ShardTables, common_settings
from kubeface.runtime.errors import require
from kubeface.runtime.keyed_rng import rank, stored_name
from kubeface.runtime.progress import Progress
from kubeface.tables.erasure import name_digest
from kubeface.tables.labels import PERSON
from kubeface.tables.resolution_pairs import resolution_of
from kubeface.tables.table import Row, TableWriter


def merge(
    shards: Sequence[ShardTables], out_aligned: Path, out_filtered: Path, erased: frozenset[str], seed: int
) -> tuple[Counter[str], Counter[str]]:
    """Writes the merged tables, in the order in which ingest with this seed stores a whole source.

    Returns:
        how many images each identity has, and how many of them the filter rejects.

    Raises:
        KubefaceError: different settings, no face, a single identity, or an image that should have been erased.
    """
    aligned, filtered = ([shard.tables[step] for shard in shards] for step in ("align", "filter"))
    settings = common_settings(aligned)
    counts, rejected = Counter[str](), Counter[str]()
    with ExitStack() as stack:
        crops = stack.enter_context(TableWriter(out_aligned, "aligned", f"align {__version__}", settings))
        verdicts = stack.enter_context(
            TableWriter(out_filtered, "filter", f"filter {__version__}", common_settings(filtered))
        )
        progress = stack.enter_context(Progress("gather", sum(table.rows for table in aligned)))
        for crop, verdict in heapq.merge(*(shard.rows() for shard in shards), key=lambda pair: _rank(seed, pair[0])):
            _require_not_erased(crop, erased)
            crops.add(crop)
            verdicts.add(verdict)
            counts[crop["identity"]] += 1
            rejected[crop["identity"]] += not verdict["kept"]
            progress.advance()
        for tables, writer in ((aligned, crops), (filtered, verdicts)):
            for table in tables:
                for rejection in table.rejected():
                    writer.reject(*rejection)
        images = sum(shard.tables["ingest"].rows for shard in shards)
        _require_identities(crops, images, settings.get("template") == WHOLE)
    return counts, rejected


def _rank(seed: int, crop: Row) -> bytes:
    """The sort key of ingest. Both images of a resolution pair have the same and are in one shard: they keep their
    order."""
    return rank(seed, stored_name(crop["source"], crop["identity"], resolution_of(crop["groups"])))


def _require_not_erased(crop: Row, erased: frozenset[str]) -> None:
    if not erased:
        return
    person = str(json.loads(crop["groups"] or "{}").get(PERSON, ""))
    hits = erased.intersection(map(name_digest, (crop["identity"], crop["source"], person)))
    require(not hits, f"image {crop['image_id']} is to be forgotten and is still there: this is a bug")


def _require_identities(crops: TableWriter, images: int, whole: bool) -> None:
    """Refuses a merged table without at least two identities; `whole` are photographs of classes, not faces."""
    require(
        crops.rows > 0,
        f"none of {images} images can be decoded: look at rejected.csv of align"
        if whole
        else f"no face was found in any of {images} images: lower min_confidence or min_face_size",
    )
    require(
        crops.identities > 1,
        f"all {crops.rows} {'images are of one class' if whole else 'faces are of one identity'}: put the images "
        f"of each {'class' if whole else 'person'} into a folder of their own, or give identity_pattern or listing",
    )
