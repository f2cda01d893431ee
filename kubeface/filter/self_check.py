"""The step on one real face; see kubeface/self_check.py."""

from pathlib import Path

from kubeface.filter.step import filter_faces
from kubeface.runtime.errors import require
from kubeface.self_check import IMAGES


def self_check(tables: Path) -> str:
    """Filters the aligned table; KubefaceError where a face was rejected."""
    result = filter_faces(tables / "faces", tables / "aligned", tables / "out")
    require(result.rows_out == IMAGES, f"the face was rejected: {result}")
    return "1 face looked at by retinaface"
