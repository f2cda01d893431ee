"""The step on one real face; see kubeface/self_check.py."""

from pathlib import Path

from kubeface.audit.step import audit
from kubeface.self_check import rows_of


def self_check(tables: Path) -> str:
    """Audits the tables of one face; KubefaceError where the result is not what it should be."""
    audit(tables / "aligned", tables / "filtered", tables / "out", tables / "data.html")
    return f"1 face embedded, {rows_of(tables / 'out', 'audit')} images compared"
