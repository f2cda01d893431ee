"""The step on one real face; see components/faces/self_check.py."""

from pathlib import Path

from components.faces.detection import make_detector
from components.faces.errors import require
from components.faces.images import decode_rgb


def self_check(tables: Path) -> str:
    """What was done with the tables; raises KubefaceError where it is not what it should be."""
    photograph = decode_rgb((tables / "photographs" / "s0" / "0.pgm").read_bytes())
    for detector in ("mtcnn", "retinaface"):
        found = make_detector(detector, 20)(photograph)
        require(len(found) == 1, f"{detector} found {len(found)} faces where there is one")
    return "1 face found by mtcnn and retinaface"
