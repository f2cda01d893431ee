"""The step on one real face; see kubeface/self_check.py."""

from pathlib import Path

from kubeface.models.superresolution_networks import Enlarging, save_network
from kubeface.runtime.errors import require
from kubeface.self_check import IMAGES, rows_of
from kubeface.superresolve.step import superresolve


def self_check(tables: Path) -> str:
    """What was done with the tables; raises KubefaceError where it is not what it should be."""
    save_network(Enlarging("espcn", 2, channels=4, blocks=1), tables / "network.safetensors")
    for model in ("bicubic", str(tables / "network.safetensors")):
        figures = superresolve(tables / "faces", tables / Path(model).stem, model=model, scale=2, which="all")
        require(figures["enlarged"] == rows_of(tables / Path(model).stem, "faces") == IMAGES, f"{model}: {figures}")
    return "1 photograph enlarged by bicubic interpolation and by a network"
