"""The manifest of a table: which kind it is, what wrote it with which settings, and its shards."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from kubeface.runtime.errors import KubefaceError, require

SCHEMA_VERSION = 3
MANIFEST_FILE = "manifest.json"
Settings = Mapping[str, JsonValue]  # a step's options, and the hashes of the tables that it read


class ShardEntry(BaseModel):
    """A Parquet file of the table."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """File name in the table's folder."""
    rows: int
    """Rows in the file."""
    sha256: str
    """SHA-256 of the file, 64 hex digits."""


class Manifest(BaseModel):
    """manifest.json of a table folder."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    schema_version: int | None = None
    """Version of the tables' schemas."""
    kind: str
    """faces, aligned, filter, audit or split."""
    producer: str = ""
    """Step that wrote the table, and its version."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """The step's options, and the hashes of the tables that it read."""
    rows: int
    """Rows of all shards."""
    identities: int
    """Different identities among the rows; 0 where the kind has no such column."""
    rejected: dict[str, int] = Field(default_factory=dict)
    """Images that the step left out, by reason."""
    shards: list[ShardEntry]
    """The files, in the order of the rows."""

    def setting(self, name: str, default: str = "") -> str:
        """A setting as text, or the default where the table's step has none of that name."""
        return str(self.settings.get(name, default))

    @classmethod
    def parse(cls, value: object, where: str, kind: str) -> "Manifest":
        """Checks the manifest of a kind of table that was read as JSON from `where`.

        Raises:
            KubefaceError: it is no manifest, or one of another kind or schema version.
        """
        folder = where.removesuffix(f"/{MANIFEST_FILE}")
        try:
            manifest = cls.model_validate(value)
        except ValidationError:
            raise KubefaceError(f"{where} is not a table's manifest: run the step again") from None
        require(manifest.kind == kind, f"{folder} holds a '{manifest.kind}' table where '{kind}' is needed")
        require(
            manifest.schema_version == SCHEMA_VERSION,
            f"{folder} has schema version {manifest.schema_version}, this release reads {SCHEMA_VERSION}: run the step "
            "that wrote it again",
        )
        return manifest
