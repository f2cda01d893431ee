"""The step on one real face; see kubeface/self_check.py."""

from pathlib import Path

import numpy as np

from kubeface.faces.images import decode_rgb
from kubeface.models.model import choose_device, load_pretrained
from kubeface.runtime.errors import require
from kubeface.tables.table import Table


def self_check(tables: Path) -> str:
    """What was done with the tables; raises KubefaceError where it is not what it should be."""
    device = choose_device("auto")
    crop = decode_rgb(Table(tables / "aligned", "aligned").columns(["image"])["image"][0].as_py())
    length = float(np.linalg.norm(load_pretrained("sface", device=device).embed(crop[None])))
    require(abs(length - 1) < 1e-3, f"the embedding has length {length}")
    return f"1 face embedded by sface, on {device}"
