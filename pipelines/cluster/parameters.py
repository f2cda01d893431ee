"""A run's parameters as a file has them, and the refusal of those that carry a secret."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from kubeface.runtime.errors import KubefaceError, require

SECRETS = re.compile(
    r"""://[^/\s:@]*:[^/\s@]+@                    # a password before the host
    | [?&](?:[\w-]*(?:token|secret|password|passwd|signature|credential|access_?key)[\w-]*|sig)=[^&\s]
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b               # ids of AWS's keys
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----""",
    re.VERBOSE | re.IGNORECASE,
)
SECRET_NAME = re.compile(r"token|secret|password|passwd|access_?key", re.IGNORECASE)
SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "KFP_TOKEN", "KFP_COOKIE")
SHORTEST_SECRET = 8  # shorter values are words that stand anywhere


def read_parameters(path: Path) -> dict[str, Any]:
    """The parameters in a YAML or JSON file. Raises KubefaceError if the file is not there or is no mapping of names to
    values."""
    require(path.is_file(), f"{path} is not there: write the run's parameters into it, as 'source: s3://bucket/prefix'")
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        raise KubefaceError(f"{path} is not YAML or JSON{f' (line {where.line + 1})' if where else ''}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise KubefaceError(f"{path} holds no parameters: write one name and value a line, as 'source: s3://bucket'")
    return values


def refuse_secrets(values: Mapping[str, Any]) -> None:
    """Refuses parameters that carry a key or password, since they are kept in the clear, shown in the UI, and reported:
    raises KubefaceError with the parameter's name, without the key."""
    known = [os.environ[name] for name in SECRET_VARIABLES if len(os.environ.get(name, "")) >= SHORTEST_SECRET]
    for place, text in _texts(values, ""):
        named = SECRET_NAME.search(place) and bool(text)
        require(
            not named and not SECRETS.search(text) and not any(secret in text for secret in known),
            f"parameter '{place}' carries a key or password, and a run's parameters can be read by all who see the "
            "run: take it out, and put it into the cluster's secret ('make secret')",
        )


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text in a value, with the names that lead to it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{place}.{name}".strip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, place)
    elif isinstance(value, str):
        yield place, value
