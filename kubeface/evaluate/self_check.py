"""The step on one real face; see kubeface/self_check.py."""

from pathlib import Path

from kubeface.faces.detection import make_detector
from kubeface.faces.images import decode_rgb
from kubeface.runtime.errors import require


def self_check(tables: Path) -> str:
    """What was done with the tables; raises KubefaceError where it is not what it should be."""
    photograph = decode_rgb((tables / "photographs" / "s0" / "0.pgm").read_bytes())
    for detector in ("mtcnn", "retinaface"):
        found = make_detector(detector, 20)(photograph)
        require(len(found) == 1, f"{detector} found {len(found)} faces where there is one")
    return "1 face found by mtcnn and retinaface"
