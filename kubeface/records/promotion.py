"""promotion.json: what promote decided."""

from typing import Literal

from pydantic import Field

from kubeface.records.record import Record


class PromotionRecord(Record):
    """Whether a model was promoted, why, and where it is."""

    schema_version: Literal[1] = 1
    producer: str
    promoted: bool
    trained: bool = True
    """Whether the run trained a model; if not, it handed on the promoted one and nothing was written."""
    reason: str
    uri: str | None = None
    """Address of the version that this run promoted, or found in force where it trained nothing."""
    version: str | None = None
    champion: str | None = None
    """Address of the version that was in force before."""
    lost_to: str | None = None
    """Address of the version that another run promoted meanwhile."""
    registered: dict[str, str] = Field(default_factory=dict)
    """By registry: `registered`, or why it was not."""
    sha256: dict[str, str] = Field(default_factory=dict)
