"""The step on one real face; see kubeface/self_check.py."""

from pathlib import Path

from kubeface.self_check import rows_of
from kubeface.split.options import SplitOptions
from kubeface.split.step import split


def self_check(tables: Path) -> str:
    """Divides the tables of one face; KubefaceError where the result is not what it should be."""
    split(tables / "aligned", tables / "filtered", tables / "out", options=SplitOptions(heldout_fraction=0.0))
    return f"{rows_of(tables / 'out', 'split')} images divided"
