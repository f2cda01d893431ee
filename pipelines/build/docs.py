"""The tables of options in the pages, made of the models that the options are: one line each, between two comments."""

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.options import Options

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("components/*/README.md", "docs/*.md")
# <!-- options: kubeface.align.options.AlignOptions --> … <!-- /options -->
BLOCK = re.compile(r"(<!-- options: ([\w.]+) -->\n).*?(<!-- /options -->)", re.DOTALL)
KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true, false",
    "array": "list",
    "object": "dictionary",
}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def write_docs(check: bool = False) -> None:
    """Writes the tables of options anew, in the pages of the components and of docs/.

    Args:
        check: Change nothing; fail where a page is out of date.
    """
    for path in (path for pattern in PAGES for path in sorted(ROOT.glob(pattern))):
        text, name = path.read_text("utf-8"), path.relative_to(ROOT)
        written = BLOCK.sub(lambda block: f"{block[1]}{options_table(_model(block[2], name))}{block[3]}", text)  # noqa: B023
        if written != text:
            require(not check, f"{name} is out of date: run 'make docs'")
            path.write_text(written, "utf-8")
            print(f"wrote {name}")


def _model(name: str, path: Path) -> type[Options]:
    module, _, kind = name.rpartition(".")
    try:
        found: type[Options] = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError, ValueError):
        raise KubefaceError(f"{path} names {name}: there are no such options") from None
    return found


def options_table(kind: type[Options]) -> str:
    """A Markdown table of the options: name, values, default, description; those of a nested model below its name, but
    a step's own options in one row."""
    rows = "".join(f"| {' | '.join(cells)} |\n" for cells in _rows(kind, {}, ""))
    return f"| option | values | default | |\n|---|---|---|---|\n{rows}"


def _rows(kind: type[Options], given: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """A row for each option, its name behind the prefix; `given` are values that the model around them has for
    defaults."""
    schema = kind.model_json_schema()
    for name, field in kind.model_fields.items():
        value = given.get(name, field.get_default(call_default_factory=True))
        text, description = f"`{prefix}{name}`", (field.description or "").replace("|", "\\|")
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Options)):
            default = "required" if field.is_required() and name not in given else _shown(value)
            yield text, _values(schema["properties"][name]), default, description
        elif field.annotation.__name__.endswith("Options"):  # a step's own, which has a page
            yield text, f"`{field.annotation.__name__}`", "", description
        else:
            yield from _rows(field.annotation, dict(value), f"{prefix}{name}.")


def _values(schema: dict[str, Any]) -> str:
    """The values that a field takes, of its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_values(one) for one in schema["anyOf"] if one.get("type") != "null"))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = KINDS.get(schema.get("type", ""), "")
    bounds = [f"{sign} {schema[key]:g}" for key, sign in BOUNDS.items() if key in schema and abs(schema[key]) < 2**53]
    return " ".join([kind, ", ".join(bounds)]).strip()


def _shown(value: Any) -> str:
    return f"`{value}`" if value not in ("", {}, (), None) else ""
