"""What a run is started with: a compiled pipeline, the parameters of a file, the settings of the deployment."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter

from kubeface.faces.degradation import Degradation
from kubeface.plan.parameters import RunParameters, read_parameters
from kubeface.runtime.errors import KubefaceError, require
from pipelines.build.catalogue import package_of
from pipelines.cluster.client import Client
from pipelines.cluster.runs import RunConfig
from pipelines.cluster.versions import Package, read_package, upload

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
CONFIG_MAP = "kubeface-settings"
ROOT = "PIPELINE_ROOT"
# Arguments of the commands about runs.
ParamsFlag = Annotated[Path, Parameter(help="YAML or JSON file of the run's parameters.")]
PipelineFlag = Annotated[str, Parameter(help="Name of the pipeline.")]
RunId = Annotated[str, Parameter(help="Id of the run.")]
FollowFlag = Annotated[bool, Parameter(help="Go on until it has ended.", negative="")]
PackageFlag = Annotated[Path | None, Parameter(help="Compiled pipeline; build/<pipeline>.yaml where it is not given.")]


def read_file(path: Path) -> dict[str, Any]:
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


@dataclass(frozen=True, slots=True)
class Request:
    """A run that is asked for."""

    package: Package
    parameters: Mapping[str, Any]  # those that are given

    def read(self) -> RunParameters:
        """All parameters, checked as a whole. Raises KubefaceError with one line on all that is wrong."""
        return read_parameters(self.package.pipeline, self.parameters)


def read_request(params: Path, pipeline: str, package: Path | None = None) -> Request:
    """Reads a compiled pipeline (that of `kubeface compile` where None is named) and the parameters of a run of it, and
    checks these. Nothing is sent.

    Raises KubefaceError if a file does not exist, a parameter is wrong or carries a secret, or the compiled pipeline is
    an older one that does not know it."""
    values = read_file(params)
    refuse_secrets(values)
    request = Request(read_package(package or package_of(pipeline)), values)
    Degradation.parse(request.read().degradation)
    known = request.package.spec["root"]["inputDefinitions"]["parameters"]
    stale = ", ".join(sorted(values.keys() - known.keys()))
    require(not stale, f"{request.package.path} was compiled before {stale} was a parameter: run 'make compile'")
    return request


def configure(client: Client, request: Request) -> RunConfig:
    """Uploads the pipeline of a request; returns what a run of it is started with."""
    return RunConfig(
        version=upload(client, request.package),
        parameters=request.parameters,
        root=pipeline_root(client),
        service_account=client.cluster.account(request.read().resources.nodes.num_nodes),
    )


def pipeline_root(client: Client) -> str | None:
    """Where the deployment of the cluster's namespace keeps artifacts; None, with a note, where that cannot be read.

    A run can do without: not everybody who may start runs may read config maps.
    """
    namespace = client.cluster.namespace
    try:
        items = client.cluster.kubectl().objects(
            "get", "configmap", CONFIG_MAP, "--ignore-not-found", f"--namespace={namespace}"
        )
        reason = f"there is no {CONFIG_MAP} in namespace {namespace}"
    except KubefaceError as error:
        items, reason = [], str(error)
    if not items:
        print(f"note: artifacts go where Kubeflow Pipelines keeps them ({reason})", file=sys.stderr)
        return None
    return items[0].get("data", {}).get(ROOT) or None
