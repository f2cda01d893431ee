"""A run's parameters: read from a file and held to the compiled pipeline's interface before anything is sent."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from kubeface.faces.degradation import Degradation
from kubeface.faces.geometry import TEMPLATES, require_alignment
from kubeface.finetune.settings import Settings, read_settings, recipe_names
from kubeface.records.gate import GATES
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.options import read_options
from pipelines.build.catalogue import TASKS
from pipelines.signatures import SCRATCH_RECIPE

# ParameterType of pipeline_spec.proto in kubeflow/pipelines.
TYPES: dict[str, Any] = {
    "STRING": str,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": float,
    "BOOLEAN": bool,
    "LIST": list[Any],
    "STRUCT": dict[str, Any],
}
Share = Annotated[float, Field(ge=0, le=1)]
# A quantity of Kubernetes' (apimachinery, resource.Quantity), as 500m or 8Gi.
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$")]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
# What the steps refuse, minutes or hours into a run; here it is refused at once. Each step says the same of itself.
LIMITS: dict[str, Any] = {
    "num_shards": Annotated[int, Field(ge=1, le=10_000)],
    "detector": Literal["mtcnn", "retinaface", "none"],
    "template": Literal[tuple(TEMPLATES)],
    "min_face_size": Annotated[int, Field(ge=1)],
    "min_confidence": Share,
    "filter_min_score": Share,
    "filter_min_face_size": Annotated[float, Field(ge=0)],
    "max_faces": Annotated[int, Field(ge=0)],
    "min_sharpness": Annotated[float, Field(ge=0)],
    "max_turn": Share,
    "min_agreement": Share,
    "on_leak": Literal["drop", "fail", "warn"],
    "suspects": Literal["keep", "drop"],
    "duplicates": Literal["group", "drop"],
    "max_drift": Annotated[float, Field(ge=0)],
    "on_drift": Literal["warn", "stop", "retrain"],
    "apply_filter": Literal["validation", "all", "none"],
    "heldout_fraction": ShareBelowOne,
    "val_fraction": ShareBelowOne,
    "val_people_fraction": ShareBelowOne,
    "unknown_fraction": ShareBelowOne,
    "refuse": ShareBelowOne,
    "min_images": Annotated[int, Field(ge=1)],
    "device": Literal["auto", "cpu", "cuda"],
    "fmr": Annotated[float, Field(gt=0, lt=1)],
    "bootstrap": Annotated[int, Field(ge=100)],
    "seed": Annotated[int, Field(ge=0, lt=2**63)],
    "num_nodes": Annotated[int, Field(ge=1)],
    "finetune_gpus": Annotated[str, Field(pattern=r"^[0-9]+$")],
}
# What a task refuses beyond that.
LIMITS_OF: dict[str, dict[str, Any]] = {
    RECOGNITION: {"detector": Literal["mtcnn", "retinaface"], "min_images": Annotated[int, Field(ge=2)]},
    ATTRIBUTES: {},
    CLASSES: {},
}
SECRETS = re.compile(
    r"""://[^/\s:@]*:[^/\s@]+@                    # a password before the host
    | [?&](?:[\w-]*(?:token|secret|password|passwd|signature|credential|access_?key)[\w-]*|sig)=[^&\s]
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b               # ids of AWS's keys
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----""",
    re.VERBOSE | re.IGNORECASE,
)
ASKED = ("detector", "template", "recipe", "settings", "scratch_settings", "gate")  # with their defaults
SECRET_NAME = re.compile(r"token|secret|password|passwd|access_?key", re.IGNORECASE)
SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "KFP_TOKEN", "KFP_COOKIE")
SHORTEST_SECRET = 8  # shorter values are words that stand anywhere


def read_parameters(path: Path) -> dict[str, Any]:
    """The parameters in a YAML or JSON file.

    Raises:
        KubefaceError: the file is not there or is no mapping of names to values.
    """
    require(path.is_file(), f"{path} is not there: write the run's parameters into it, as 'source: s3://bucket/prefix'")
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        raise KubefaceError(f"{path} is not YAML or JSON{f' (line {where.line + 1})' if where else ''}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise KubefaceError(f"{path} holds no parameters: write one name and value a line, as 'source: s3://bucket'")
    return values


def validated(values: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, when the pipeline and its steps take them.

    Args:
        values: by name.
        spec: compiled pipeline, of `read_spec`.

    Returns:
        the given ones; numbers where the pipeline wants them with a fraction are floats.

    Raises:
        KubefaceError: one line with all that is wrong: names that are unknown (with the nearest that is known), missing
            ones, wrong types, values that a step refuses; or a parameter that carries a key, which is not shown.
    """
    _refuse_secrets(values)
    definitions = spec["root"]["inputDefinitions"]["parameters"]
    task = TASKS.get(spec["pipelineInfo"]["name"], RECOGNITION)
    limits = LIMITS | LIMITS_OF[task]
    fields: dict[str, Any] = {name: _field(name, entry, limits) for name, entry in definitions.items()}
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
    model: type[BaseModel] = create_model("Parameters", __config__=config, **fields)
    try:
        checked = model.model_validate(dict(values))
    except ValidationError as error:
        raise KubefaceError("; ".join(_told(entry, definitions) for entry in error.errors())) from None
    found = checked.model_dump(exclude_unset=True)
    _ask_steps(found | {name: getattr(checked, name) for name in ASKED if name in definitions}, task)
    return found


def with_defaults(values: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of the pipeline: the given value, else the default."""
    definitions = spec["root"]["inputDefinitions"]["parameters"]
    return {name: values.get(name, entry.get("defaultValue")) for name, entry in definitions.items()}


def _field(name: str, entry: Mapping[str, Any], limits: Mapping[str, Any]) -> Any:
    kind = TYPES[entry["parameterType"]]
    if name in limits:
        kind = limits[name]
    elif name.endswith(("_cpu", "_memory")):
        kind = Quantity
    return (kind, entry["defaultValue"]) if "defaultValue" in entry else (kind, ... if _needed(entry) else None)


def _needed(entry: Mapping[str, Any]) -> bool:
    return not entry.get("isOptional", False)


def _told(error: ErrorDetails, definitions: Mapping[str, Any]) -> str:
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, definitions, 1)
        return f"parameter '{name}' is unknown: {f'did you mean {near[0]}?' if near else 'docs/parameters.md has all'}"
    if error["type"] == "missing":
        return f"parameter '{name}' is missing: {definitions[name].get('description', 'give it').rstrip('.')}"
    text = error["msg"][0].lower() + error["msg"][1:]
    return f"parameter '{name}' is {error['input']!r}: {text}"


def _ask_steps(values: Mapping[str, Any], task: str) -> None:
    """What is a rule of a step's own, asked of the step's model."""
    if "detector" in values and "template" in values:
        require_alignment(values["detector"], values["template"])
    if "degradation" in values:
        Degradation.parse(values["degradation"])
    read_options(GATES[task], values.get("gate") or {}, "gate.")
    if "scratch_settings" in values:
        read_settings(SCRATCH_RECIPE, values["scratch_settings"] or {}, task)
    recipe, settings = values.get("recipe") or "", values.get("settings") or {}
    if not recipe or recipe in recipe_names() or "/" not in recipe:
        read_settings(recipe, settings, task)
        return
    try:  # the recipe is a file that only the step has; what goes before it can be looked at
        Settings.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        raise KubefaceError(f"setting {first['loc'][0]} is {first['input']!r}: {first['msg']}") from None


def _refuse_secrets(values: Mapping[str, Any]) -> None:
    """Parameters are kept in the clear, shown in the UI and written into reports: none may carry a key."""
    known = [os.environ[name] for name in SECRET_VARIABLES if len(os.environ.get(name, "")) >= SHORTEST_SECRET]
    for place, text in _texts(values, ""):
        named = SECRET_NAME.search(place) and bool(text)
        require(
            not named and not SECRETS.search(text) and not any(secret in text for secret in known),
            f"parameter '{place}' carries a key or password, and a run's parameters can be read by all who see the "
            "run: take it out, and put it into the cluster's secret ('make secret')",
        )


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text in a value, and the names that lead to it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{place}.{name}".strip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, place)
    elif isinstance(value, str):
        yield place, value
