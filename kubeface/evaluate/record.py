"""What every evaluation records besides its figures: tables, settings, programs, and room for what is compared."""

import os
import platform
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnxruntime
import sklearn

from kubeface import __version__
from kubeface.faces.degradation import Degradation
from kubeface.records.gate import Gate
from kubeface.tables.table import Table


def record(
    table: Table,
    divided: Table,
    degradation: Degradation,
    rule: Gate,
    settings: Mapping[str, Any],
    models: Collection[str],
) -> dict[str, Any]:
    """The beginning of evaluation.json.

    Args:
        table, divided: aligned table and split.
        degradation: put on the target set.
        rule: of the gate.
        settings: what else decides on the figures.
        models: names of what is compared; each gets a place for its figures by set.
    """
    return {
        "producer": f"evaluate {__version__}",
        "aligned": table.sha256,
        "split": divided.sha256,
        "degradation": str(degradation),
        "settings": {"gate": rule.model_dump(), **settings},
        "image": os.environ.get("KUBEFACE_IMAGE"),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "gain": {},
        "gain_over_champion": {},
        **{which: {} for which in models},
    }
