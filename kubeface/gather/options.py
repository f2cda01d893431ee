"""Options of gather."""

from kubeface.runtime.options import Options, Seed


class GatherOptions(Options):
    """What the merged tables are checked against, and their order."""

    forget: str = ""
    """Text file with the people or images to leave out, as given to ingest: gather fails if one of them is still
    there."""
    previous: str = ""
    """data.json of the run before, as path or s3:// address, to tell which shards changed. Empty or absent: all did."""
    seed: Seed = 0
    """Seed of the order in which ingest stored the rows."""
