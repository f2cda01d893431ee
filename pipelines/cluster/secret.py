"""The command `secret`: keys of this process's environment as secrets of a namespace.

The keys travel on kubectl's standard input: process arguments can be read by every user of a machine. They are applied
on the server, since kubectl's own apply keeps a copy of what it applied in an annotation of the object.
"""

import base64
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubeface.runtime.errors import KubefaceError, require
from pipelines.cluster.kubectl import Kubectl

FIELD_MANAGER = "kubeface-secret"
MANAGED_BY = "app.kubernetes.io/managed-by"


@dataclass(frozen=True)
class SecretSource:
    """A secret, and the variables of the environment that its keys come from."""

    name: str
    keys: Mapping[str, str]
    optional: bool = False


# The first has the name and the keys that Kubeflow Pipelines gives the one of its own store.
SECRETS = (
    SecretSource("mlpipeline-minio-artifact", {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}),
    SecretSource("kubeface-webhook", {"url": "KUBEFACE_WEBHOOK"}, optional=True),
)


def make_secrets(kubectl: Kubectl, namespace: str, environment: Mapping[str, str], replace: bool = False) -> list[str]:
    """Puts the secrets into a namespace, which must exist; returns the names of what was written.

    One that is optional is left out where none of its keys is in the environment; one that somebody else made, as
    Kubeflow Pipelines does for its own store, stays unless it is to be replaced.

    Raises KubefaceError if a key is missing, the secret is somebody else's, or the cluster refuses."""
    wanted = [source for source in SECRETS if not source.optional or any(map(environment.get, source.keys.values()))]
    for source in wanted:
        missing = [name for name in source.keys.values() if not environment.get(name)]
        require(
            not missing, f"{' and '.join(missing)} must be set in the environment: they are the keys of {source.name}"
        )
        for variable in source.keys.values():
            value = environment[variable]
            require(
                value == value.strip() and value.isprintable(), f"{variable} has spaces or line ends around its value"
            )
    for source in wanted:
        owner = _owner(kubectl, namespace, source.name)
        require(
            replace or owner in (None, "kubeface"),
            f"secret {source.name} in namespace {namespace} was made by somebody else, as Kubeflow Pipelines does for "
            "its own store, and stays as it is: use that store's keys, or replace it with --replace (make: REPLACE=1)",
        )
    for source in wanted:
        _apply(kubectl, namespace, source, {key: environment[variable] for key, variable in source.keys.items()})
    return [source.name for source in wanted]


def _owner(kubectl: Kubectl, namespace: str, name: str) -> str | None:
    """Who made a secret, by its label; None if there is no secret, empty if it has no label."""
    label = MANAGED_BY.replace(".", "\\.")
    template = f"jsonpath={{.metadata.name}}={{.metadata.labels.{label}}}"  # not the data
    found = kubectl.run("get", "secret", name, f"--namespace={namespace}", "--ignore-not-found", f"--output={template}")
    return found.partition("=")[2] if found else None


def _apply(kubectl: Kubectl, namespace: str, source: SecretSource, values: Mapping[str, str]) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": source.name,
            "namespace": namespace,
            "labels": {MANAGED_BY: "kubeface", "app.kubernetes.io/part-of": "kubeface"},
        },
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }
    flags = ("--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}", "--filename=-")
    try:
        kubectl.run("apply", *flags, stdin=json.dumps(manifest))
    except KubefaceError as error:
        raise KubefaceError(_without(str(error), values.values())) from None


def _without(text: str, values: Iterable[str]) -> str:
    """The text without the values, plain and in base64, in case a server has repeated them."""
    for value in values:
        for form in (value, base64.b64encode(value.encode()).decode()):
            text = text.replace(form, "***")
    return text


def secret(*, namespace: str = "kubeface", replace: bool = False) -> None:
    """Puts the S3 keys of the environment into a namespace of the cluster.

    Args:
        namespace: Namespace of the secrets.
        replace: Also replace a secret that somebody else made.
    """
    names = make_secrets(Kubectl(os.environ.get("KUBE_CONTEXT", "")), namespace, os.environ, replace)
    print(f"{' and '.join(names)} in namespace {namespace}: from the environment")
