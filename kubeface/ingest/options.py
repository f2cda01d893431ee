"""Options of ingest."""

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from kubeface.runtime.options import Options, Seed


class IngestOptions(Options):
    """How identities are read off names and listings, and which images are left out."""

    listing: str = ""
    """Tables of what is known of each image: CSV, Parquet or CelebA's text files (paths, s3:// or https:// with
    #sha256=…), separated by spaces and joined. Column path is required; identity and split (train, val, test) are
    optional; other columns are kept as groups. Only listed images are read."""
    identity_pattern: str = ""
    r"""Regular expression that is searched in a file's name; its group `identity`, or else its first group, is the
    identity, as in ^(\d+)_. Empty: the folder's name is."""
    forget: str = ""
    """Text file with the people or images to leave out: one name of a person, or of a file below the source, a line."""
    max_pixels: Annotated[int, Field(ge=1)] = 50_000_000
    """Largest width × height in pixels; larger images are rejected."""
    seed: Seed = 0
    """Seed of the order in which rows are stored."""

    @model_validator(mode="after")
    def _pattern_has_a_group(self) -> Self:
        try:
            groups = re.compile(self.identity_pattern).groups
        except re.error as error:
            raise ValueError(f"identity_pattern '{self.identity_pattern}' is no regular expression: {error}") from None
        if self.identity_pattern and not groups:
            raise ValueError(
                f"identity_pattern '{self.identity_pattern}' has no group: put what names the person in brackets"
            )
        return self
