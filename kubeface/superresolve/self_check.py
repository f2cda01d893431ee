"""The step on one real face; see kubeface/self_check.py."""

from pathlib import Path

from kubeface.models.superresolution_networks import Enlarging, save_network
from kubeface.runtime.errors import require
from kubeface.self_check import IMAGES, rows_of
from kubeface.superresolve.options import SuperresolveOptions
from kubeface.superresolve.step import superresolve


def self_check(tables: Path) -> str:
    """Enlarges the face table in both ways and says so in one line.

    Raises:
        KubefaceError: an image was not enlarged.
    """
    save_network(Enlarging("espcn", 2, channels=4, blocks=1), tables / "network.safetensors")
    for model in ("bicubic", str(tables / "network.safetensors")):
        out = tables / Path(model).stem
        result = superresolve(tables / "faces", out, SuperresolveOptions(model=model, scale=2, which="all"))
        require(result.enlarged == rows_of(out, "faces") == IMAGES, f"{model}: {result}")
    return "1 photograph enlarged by bicubic interpolation and by a network"
