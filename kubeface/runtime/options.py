"""What a step can be told: one frozen model a step, from which flags, checks, KFP's inputs and the docs are made."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from kubeface.runtime.errors import KubefaceError

Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Options(BaseModel):
    """Options of a step: each field has a type with its range, a default, and its description as the docstring below.

    Instances are checked when they are made and cannot be changed. Unknown names are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for field in cls.model_fields.values():  # a description is one paragraph, wherever its lines broke
            field.description = " ".join((field.description or "").split()) or None


AnyOptions = TypeVar("AnyOptions", bound=BaseModel)


def read_options(kind: type[AnyOptions], values: Mapping[str, Any], where: str = "") -> AnyOptions:
    """The options of a step by name, as a file, the UI or a compiled pipeline gives them; others have their defaults.

    Raises:
        KubefaceError: one line with all that is wrong: unknown names with the nearest known one, wrong types, values
            out of range. `where`, as `align.`, precedes each name.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise KubefaceError(explain(error, kind, where)) from None


def explain(error: ValidationError, kind: type[BaseModel], where: str = "") -> str:
    """All that a ValidationError holds against some options, in one line."""
    return "; ".join(dict.fromkeys(_explain(entry, kind, where) for entry in error.errors()))


def _explain(entry: ErrorDetails, kind: type[BaseModel], where: str) -> str:
    place = [str(part) for part in entry["loc"] if not str(part).startswith(("function-", "literal[", "constrained-"))]
    name = where + ".".join(place)
    if entry["type"] == "extra_forbidden":
        return f"{name} is unknown{nearest(place[-1], _names(kind, place[:-1]))}"
    if entry["type"] == "missing":
        return f"{name} is missing: give it"
    reason = entry["msg"].removeprefix("Value error, ")
    if not place:  # of several fields together
        return f"{where.rstrip('.')}: {reason}" if where else reason
    return f"{name} is {entry['input']!r}: {reason[0].lower()}{reason[1:]}"


def nearest(name: str, known: list[str]) -> str:
    """What is said of an unknown name: the one that was probably meant, or all there are."""
    close = difflib.get_close_matches(name, known, 1)
    return f", did you mean {close[0]}?" if close else f": use one of {', '.join(known)}" if known else ""


def _names(kind: type[BaseModel], place: list[str]) -> list[str]:
    """The fields of the model that stands at a place inside another one."""
    for part in place:
        field = kind.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        kind = field.annotation
    return list(kind.model_fields)
