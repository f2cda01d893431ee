"""Pairs of one photograph in few pixels and in many, as data sets for super-resolution have them.

What a camera far away sees of a face, and the sharp photograph that it stands for. A table's rows say which they are by
their group `resolution`; the two of a pair have the same identity and the same file name, up to its suffix.
"""

import hashlib
import json
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from kubeface.runtime.errors import KubefaceError, require
from kubeface.tables.table import Table

LOW, HIGH = "low", "high"
RESOLUTION = "resolution"  # the group that says which of the two an image is
ENLARGED = "enlarged"  # the group that says how many times its photograph was enlarged


def resolution_of(groups: str | None) -> str | None:
    """`low` or `high` by a row's groups (JSON), None where they say neither."""
    if not groups or RESOLUTION not in groups:
        return None
    found = json.loads(groups).get(RESOLUTION)
    return found if found in (LOW, HIGH) else None


def enlarged_of(groups: str | None) -> float:
    """How many times a row's photograph was enlarged before its face was cropped, by its groups (JSON); 1 for never.

    Raises:
        KubefaceError: the group is no number above 0, as of a listing's column that has the same name.
    """
    said = json.loads(groups).get(ENLARGED, 1) if groups and ENLARGED in groups else 1
    try:
        found = float(said)
    except (TypeError, ValueError):
        found = 0.0
    if not 0 < found < float("inf"):
        raise KubefaceError(
            f"group {ENLARGED} is '{said}': it must be a number above 0; call the listing's column else"
        )
    return found


def pair_key(identity: str, source: str) -> int:
    """A number of identity and file name without suffix, the same for both images of a pair; never 0."""
    text = f"{identity}\0{PurePosixPath(source).stem}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") | 1


def partners(table: Table) -> dict[str, str]:
    """image_id of the sharp image by image_id of each low one that has one; reads names and groups alone.

    Raises:
        KubefaceError: two images of one resolution make the same pair with one of the other.
    """
    found: dict[str, dict[int, tuple[str, str]]] = {LOW: {}, HIGH: {}}
    twice: dict[int, str] = {}
    for rows in table.row_groups(["image_id", "identity", "source", "groups"]):
        for row in rows:
            resolution = resolution_of(row["groups"])
            if resolution is None:
                continue
            key = pair_key(row["identity"], row["source"])
            _, other = found[resolution].setdefault(key, (row["image_id"], row["source"]))
            if other != row["source"]:
                said = (
                    f"{other} and {row['source']} are both the {resolution} image of one photograph: rename one of them"
                )
                twice.setdefault(key, said)
    low, high = found[LOW], found[HIGH]
    both = low.keys() & high.keys()
    wrong = [said for key, said in twice.items() if key in both]
    require(not wrong, wrong[0] if wrong else "")
    return {image_id: high[key][0] for key, (image_id, _) in low.items() if key in both}


def native_side(landmarks: NDArray[np.float64], enlarged: float = 1.0) -> float:
    """The side of the crop on the ArcFace template in pixels of what the camera took.

    Args:
        landmarks: 5×2, in pixels of the photograph that was aligned.
        enlarged: how many times that photograph was enlarged before.
    """
    from kubeface.faces.geometry import CROP_SIZE, similarity_transform  # of OpenCV, which ingest and gather lack

    scale = float(np.linalg.norm(similarity_transform(landmarks)[0, :2]))
    return CROP_SIZE / scale / enlarged
