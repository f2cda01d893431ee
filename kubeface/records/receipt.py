"""The record that a step inside the loop over shards returns: KFP collects texts from a loop, not artifacts."""

from pydantic import ValidationError

from kubeface.records.record import Record
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import explain


class Receipt(Record):
    """What a step did with one shard."""

    shard: str = "0/1"
    fingerprint: str = ""
    """What the shard held when it was planned; empty where it was not planned."""
    uri: str
    """Folder or s3:// prefix of the table that the step wrote."""
    rows_in: int = 0
    """Rows (of ingest: files) that it read."""
    rows_out: int = 0
    seconds: float = 0.0

    @classmethod
    def from_text(cls, text: str) -> "Receipt":
        """Reads a receipt as JSON, or takes the text for the address of a table without one.

        Raises:
            KubefaceError: JSON that is no receipt.
        """
        if not text.startswith("{"):
            return cls(uri=text)
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise KubefaceError(f"'{text}' is no receipt of a shard: {explain(error, cls)}") from None
