"""The step on one real face; see kubeface/self_check.py."""

from pathlib import Path

from kubeface.ingest.step import ingest
from kubeface.self_check import rows_of


def self_check(tables: Path) -> str:
    """What was done with the tables; raises KubefaceError where it is not what it should be."""
    ingest(str(tables / "photographs"), tables / "out")
    return f"{rows_of(tables / 'out', 'faces', 2)} photographs read"
