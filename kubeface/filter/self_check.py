"""The step on one real face; see kubeface/self_check.py."""

from pathlib import Path

from kubeface.filter.step import filter_faces
from kubeface.runtime.errors import require
from kubeface.self_check import IMAGES


def self_check(tables: Path) -> str:
    """What was done with the tables; raises KubefaceError where it is not what it should be."""
    figures = filter_faces(tables / "faces", tables / "aligned", tables / "out")
    require(figures["rows_out"] == IMAGES, f"the face was rejected: {figures}")
    return "1 face looked at by retinaface"
