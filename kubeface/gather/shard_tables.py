"""The tables that the steps wrote for one shard, and what must hold between them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kubeface.records.receipt import Receipt
from kubeface.runtime.errors import require
from kubeface.tables.manifest import Settings
from kubeface.tables.table import Row, Table

STEPS = ("ingest", "align", "filter")
# Settings of a manifest that differ from shard to shard.
SHARD_SETTINGS = frozenset({"faces", "aligned", "forgotten"})


@dataclass(frozen=True, slots=True)
class ShardTables:
    """The tables of one shard, and their receipts, by the step that wrote them.

    ingest has photographs (of superresolve where the pipeline enlarges them), align face crops, and filter its verdict
    on each crop, in the same order.
    """

    tables: Mapping[str, Table]
    receipts: Mapping[str, Receipt]

    @classmethod
    def open(cls, ingested: str, aligned: str, filtered: str) -> "ShardTables":
        """Opens the tables of receipts, or of folders and s3:// prefixes.

        Raises:
            KubefaceError: the tables are of different shards, or one was not made from the other.
        """
        receipts = [Receipt.from_text(text) for text in (ingested, aligned, filtered)]
        shards = {(receipt.shard, receipt.fingerprint) for receipt in receipts}
        require(
            len(shards) == 1, f"{sorted(shards)} are different shards: give the tables of a shard in the same order"
        )
        faces, crops, verdicts = (
            Table(receipt.uri, kind) for receipt, kind in zip(receipts, ("faces", "aligned", "filter"), strict=True)
        )
        require(
            crops.manifest.settings.get("faces") == faces.sha256
            and verdicts.manifest.settings.get("aligned") == crops.sha256,
            f"{crops.folder} or {verdicts.folder} was made from another table: give those of one shard",
        )
        tables = zip(STEPS, (faces, crops, verdicts), strict=True)
        return cls(dict(tables), dict(zip(STEPS, receipts, strict=True)))

    @property
    def shard(self) -> str:
        """The shard as <number>/<count>."""
        return self.receipts["ingest"].shard

    def rows(self) -> Iterator[tuple[Row, Row]]:
        """Yields each crop's row with its verdict, a row group in memory at a time.

        Raises:
            KubefaceError: the filter table has other rows than the aligned one.
        """
        filtered = self.tables["filter"]
        verdicts = (row for rows in filtered.row_groups() for row in rows)
        for crops in self.tables["align"].row_groups():
            for crop in crops:
                verdict = next(verdicts, {})
                require(
                    verdict.get("image_id") == crop["image_id"],
                    f"{filtered.folder} says nothing of image {crop['image_id']}: run filter on this table",
                )
                yield crop, verdict


def common_settings(tables: Sequence[Table]) -> Settings:
    """The settings that all shards share.

    Raises:
        KubefaceError: a step ran with different settings on different shards.
    """
    settings = [
        {name: value for name, value in table.manifest.settings.items() if name not in SHARD_SETTINGS}
        for table in tables
    ]
    for name in settings[0]:
        require(
            all(other.get(name) == settings[0][name] for other in settings),
            f"{tables[0].folder} and others of its kind were made with different {name}: give the tables of one run",
        )
    return settings[0]
