"""What every evaluation records besides its figures: tables, settings, image and versions."""

import os
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import sklearn

from kubeface import __version__
from kubeface.faces.degradation import Degradation
from kubeface.records.evaluation import ComparedModel, EvaluationSettings
from kubeface.tables.table import Table


def provenance(
    table: Table,
    divided: Table,
    degradation: Degradation,
    settings: EvaluationSettings,
    models: Mapping[str, ComparedModel],
) -> dict[str, Any]:
    """Fields of an `EvaluationRecord` that do not depend on the task.

    Args:
        table, divided: aligned table and split.
        degradation: put on the target set.
        settings: what besides the data decides on the figures.
        models: that are compared.
    """
    return {
        "producer": f"evaluate {__version__}",
        "aligned": table.sha256,
        "split": divided.sha256,
        "degradation": str(degradation),
        "settings": settings,
        "image": os.environ.get("KUBEFACE_IMAGE"),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "models": dict(models),
    }
