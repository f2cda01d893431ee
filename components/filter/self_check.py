"""The step on one real face; see components/faces/self_check.py."""

from pathlib import Path

from components.faces.errors import require
from components.faces.self_check import IMAGES
from components.filter.step import filter_faces


def self_check(tables: Path) -> str:
    """What was done with the tables; raises KubefaceError where it is not what it should be."""
    figures = filter_faces(tables / "faces", tables / "aligned", tables / "out")
    require(figures["rows_out"] == IMAGES, f"the face was rejected: {figures}")
    return "1 face looked at by retinaface"
