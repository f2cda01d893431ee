"""Fine-tune a face-recognition model on your own people, and know whether it got better.

    import kubeface

    model = kubeface.load("models/face-model/v3")
    embeddings = model.embed(["a.jpg", "b.jpg"])
    model.compare("a.jpg", "b.jpg").same

What stands in `kubeface.api` is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kubeface.api import Comparison, Identification, Model, compare, identify, load, run

__all__ = ["Comparison", "Identification", "Model", "__version__", "compare", "identify", "load", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kubeface' has no attribute '{name}'")
    import importlib  # a step's process does without the API and what it imports

    try:
        return getattr(importlib.import_module("kubeface.api"), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"kubeface.{name} needs {error.name}: pip install 'kubeface[inference]'") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
