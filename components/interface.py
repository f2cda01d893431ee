"""How a function becomes a component of Kubeflow Pipelines that its step's image carries."""

from collections.abc import Callable
from typing import Any

from kfp import dsl

from kubeface import __version__

EXECUTOR = "kfp.dsl.executor_main"
Function = Callable[..., Any]


def component(step: str) -> Callable[[Function], Any]:
    """Makes a component of a function in `components/<step>/component.py`, which runs in the image of the step.

    A pod is told the function's name. KFP would tell it the source, of which a run's Workflow keeps nine copies.
    """

    def make(function: Function) -> Any:
        if not hasattr(dsl, "component"):  # in the pod, where kfp has no compiler
            return function
        made = dsl.component(function, base_image=f"localhost/kubeface/{step}:{__version__}", install_kfp_package=False)
        # Named here too since kfp.local takes nothing for a Python component that does not name KFP's executor.
        made.component_spec.implementation.container.command = ["python3", "-m", "components", EXECUTOR, step]
        return made

    return make
