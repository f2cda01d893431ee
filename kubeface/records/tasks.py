"""What a model is made for: recognition of people, many binary labels at once, or one of several classes."""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import JsonValue

from kubeface.runtime.errors import require

Task = Literal["recognition", "attributes", "classes"]
RECOGNITION: Final = "recognition"
ATTRIBUTES: Final = "attributes"
CLASSES: Final = "classes"
TASKS = (RECOGNITION, ATTRIBUTES, CLASSES)


def require_task(name: str) -> None:
    """Raises:
    KubefaceError: no task of this name.
    """
    require(name in TASKS, f"task is '{name}': use {', '.join(TASKS[:-1])} or {TASKS[-1]}")


def task_of(config: Mapping[str, JsonValue]) -> str:
    """The task that model.json or evaluation.json tells of; recognition where it tells of none.

    Raises:
        KubefaceError: a task that this release does not know.
    """
    name = str(config.get("task", RECOGNITION))
    require_task(name)
    return name
