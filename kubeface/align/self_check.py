"""The step on one real face; see kubeface/self_check.py."""

from pathlib import Path

from kubeface.align.options import AlignOptions
from kubeface.align.step import align
from kubeface.runtime.options import read_options
from kubeface.self_check import rows_of


def self_check(tables: Path) -> str:
    """Aligns the face table with both detectors; KubefaceError where a face was not found."""
    for detector in ("mtcnn", "retinaface"):
        align(tables / "faces", tables / detector, read_options(AlignOptions, {"detector": detector}))
        rows_of(tables / detector, "aligned")
    return "1 face found by mtcnn and retinaface"
