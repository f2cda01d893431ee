"""Resolution pairs: a low-resolution image and the sharp image of the same photograph, as in data sets for
super-resolution.

A row's group `resolution` says which of the two it is; both have the same identity and the same file name without its
suffix.
"""

import json
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from kubeface.runtime.errors import require
from kubeface.runtime.keyed_rng import text_digest
from kubeface.tables.table import Table

LOW, HIGH = "low", "high"
RESOLUTION = "resolution"  # group: low or high
ENLARGED = "enlarged"  # group: the factor by which superresolve enlarged the photograph


def resolution_of(groups: str | None) -> str | None:
    """The resolution in a row's groups (JSON): low, high, or None for neither."""
    if not groups or RESOLUTION not in groups:
        return None
    resolution = json.loads(groups).get(RESOLUTION)
    return resolution if resolution in (LOW, HIGH) else None


def enlarged_of(groups: str | None) -> float:
    """The factor in a row's groups (JSON) by which its photograph was enlarged before the face was cropped; 1 for none.

    Raises:
        KubefaceError: the group is no number above 0, as where a listing has a column of that name.
    """
    value = json.loads(groups).get(ENLARGED, 1) if groups and ENLARGED in groups else 1
    try:
        factor = float(value)
    except (TypeError, ValueError):
        factor = 0.0
    require(
        0 < factor < float("inf"),
        f"group {ENLARGED} is '{value}': it must be a number above 0; rename the listing's column",
    )
    return factor


def pair_key(identity: str, source: str) -> int:
    """A 64-bit hash of identity and file name without suffix, the same for both images of a pair; never 0."""
    return int.from_bytes(text_digest(identity, PurePosixPath(source).stem)[:8], "big") | 1


def partners(table: Table) -> dict[str, str]:
    """The image_id of the sharp image for each low image that has one, by the low one's image_id.

    Raises:
        KubefaceError: two images of one resolution pair with the same image of the other.
    """
    images: dict[str, dict[int, tuple[str, str]]] = {LOW: {}, HIGH: {}}
    ambiguous: dict[int, str] = {}  # error by pair
    for rows in table.row_groups(["image_id", "identity", "source", "groups"]):
        for row in rows:
            resolution = resolution_of(row["groups"])
            if resolution is None:
                continue
            key = pair_key(row["identity"], row["source"])
            _, other = images[resolution].setdefault(key, (row["image_id"], row["source"]))
            if other != row["source"]:
                message = f"{other} and {row['source']} are both the {resolution} image of one photograph: rename one"
                ambiguous.setdefault(key, message)
    low, high = images[LOW], images[HIGH]
    both = low.keys() & high.keys()
    errors = [message for key, message in ambiguous.items() if key in both]
    require(not errors, "".join(errors[:1]))
    return {image_id: high[key][0] for key, (image_id, _) in low.items() if key in both}


def native_side(landmarks: NDArray[np.float64], enlarged: float = 1.0) -> float:
    """The side of the ArcFace crop in pixels of the original photograph.

    Args:
        landmarks: 5×2, in pixels of the photograph that was aligned.
        enlarged: factor by which that photograph had been enlarged.
    """
    from kubeface.faces.geometry import CROP_SIZE, similarity_transform  # needs OpenCV, which ingest and gather lack

    scale = float(np.linalg.norm(similarity_transform(landmarks)[0, :2]))
    return CROP_SIZE / scale / enlarged
