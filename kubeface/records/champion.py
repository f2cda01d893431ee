"""champion.json: which version of a model is in force, and how it got there."""

from typing import Literal

from kubeface.records.record import Record
from kubeface.runtime.errors import require
from kubeface.storage import objects

Action = Literal["promoted", "rolled back"]


class Change(Record):
    """One change of the champion."""

    number: int
    """Position in the history, from 1."""
    version: str
    action: Action
    reason: str


class ChampionRecord(Record):
    """The version in force and the history of changes.

    It holds no date: the history gives the order, and equal promotions give equal bytes.
    """

    schema_version: Literal[1] = 1
    version: str = ""
    """The version in force; empty while there is none."""
    uri: str = ""
    number: int = 0
    history: tuple[Change, ...] = ()

    def before(self) -> str:
        """The version that was champion before this one and was not rolled back itself; empty for none."""
        stack: list[str] = []
        for change in self.history:
            if change.action == "rolled back" and change.version in stack:
                del stack[stack.index(change.version) + 1 :]
            else:
                stack.append(change.version)
        return stack[-2] if len(stack) > 1 else ""


def model_home(destination: str, name: str) -> str:
    """The folder or prefix that holds every version of a model.

    Raises:
        KubefaceError: a name that holds anything but letters, digits, - and _, or an empty destination.
    """
    require(
        bool(name) and all(letter.isalnum() or letter in "-_" for letter in name),
        f"name is '{name}': use letters, digits, - and _",
    )
    require(bool(destination), "destination is empty: give s3://bucket/models or a folder")
    return objects.join(destination, name)
