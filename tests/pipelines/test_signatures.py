"""Every parameter stands once; KFP and the command line read the same of it."""

import inspect
from typing import Any, NamedTuple

import docstring_parser
import pytest

from pipelines.build.catalogue import TASKS, load
from pipelines.signatures import PARAMETERS, REQUIRED, Parameter, chosen, interface


class Nothing(NamedTuple):
    """No outputs."""


def test_those_that_are_left_out_or_changed_must_be_known() -> None:
    with pytest.raises(KeyError, match="colour"):
        chosen("colour")
    with pytest.raises(KeyError, match="colour"):
        chosen("", colour={"default": "red"})


def test_a_pipelines_parameters_are_those_of_the_table_in_its_order() -> None:
    found = chosen("fmr probes", name={"default": "x"}, gate={"description": "When."})
    assert list(found) == [name for name in PARAMETERS if name not in ("fmr", "probes")]
    assert (found["name"].default, found["name"].description) == ("x", PARAMETERS["name"].description)
    assert (found["gate"].default, found["gate"].description) == ({}, "When.")
    assert PARAMETERS["name"].default == "face-model"


def test_those_without_a_default_come_first() -> None:
    defaults = [parameter.default for parameter in PARAMETERS.values()]
    first = next(place for place, default in enumerate(defaults) if default is not REQUIRED)
    assert first == 2 and REQUIRED not in defaults[first:]


def test_an_interface_says_what_the_table_says() -> None:
    text = "What is " + "very " * 40 + "long, as low-resolution: see `x`."
    given = {"a": Parameter(str, "First."), "b": Parameter(dict[str, Any], text, {"c": 1})}
    made = interface(lambda *values: values, given, "Does it.", Nothing)
    signature = inspect.signature(made)
    assert [(p.name, p.annotation, p.default) for p in signature.parameters.values()] == [
        ("a", str, REQUIRED),
        ("b", dict[str, Any], {"c": 1}),
    ]
    assert signature.return_annotation is Nothing
    parsed = docstring_parser.parse(inspect.getdoc(made) or "")
    assert parsed.short_description == "Does it."
    assert {entry.arg_name: " ".join((entry.description or "").split()) for entry in parsed.params} == {
        "a": "First.",
        "b": text,
    }
    assert made(1, 2) == (1, 2)


@pytest.mark.parametrize("name", TASKS)
def test_the_pipelines_descriptions_are_whole_sentences(name: str) -> None:
    texts = {e.arg_name: e.description or "" for e in docstring_parser.parse(load(name).pipeline_func.__doc__).params}
    assert texts.keys() == inspect.signature(load(name).pipeline_func).parameters.keys()
    assert [parameter for parameter, text in texts.items() if not text.endswith(".") or not text[0].isupper()] == [
        "device",
        "gpu_type",
    ]


def test_every_parameter_of_the_table_is_used_somewhere() -> None:
    used = {parameter for name in TASKS for parameter in inspect.signature(load(name).pipeline_func).parameters}
    assert used == PARAMETERS.keys()
