"""`make secret`: keys go from the environment into the cluster, and nowhere else on the way."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from kubeface.cli import main
from kubeface.runtime.errors import KubefaceError
from pipelines.cluster.kubectl import Kubectl
from pipelines.cluster.secret import SecretOutcome, make_secrets
from tests.support.commands import refusal
from tests.support.stubs.kubectl import FakeKubectl, fake_kubectl
from tests.support.stubs.kubernetes_api import KubernetesApi
from tests.support.stubs.kubernetes_objects import Object, thing

KEYS = {"AWS_ACCESS_KEY_ID": "access-of-the-test", "AWS_SECRET_ACCESS_KEY": "secret/of+the test"}
NAME = "mlpipeline-minio-artifact"
WRITTEN = [SecretOutcome(NAME)]
BODY = """
if sys.argv[1] != "get" and os.environ.get("REFUSAL"):
    sys.exit(os.environ["REFUSAL"])
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    return fake_kubectl(tmp_path, monkeypatch, BODY)


def test_keys_travel_on_standard_input_only(kubectl: FakeKubectl) -> None:
    assert make_secrets(Kubectl(), "faces", KEYS) == WRITTEN
    (got, _), (applied, given) = kubectl.calls()
    assert got[:2] == ["get", "secret"]
    # Of a secret that exists, its name and label are asked for.
    assert not any(re.search(r"\.data|=json$|=yaml$", word) for word in got)
    assert "--server-side" in applied  # kubectl's own apply would keep a copy in an annotation
    manifest = json.loads(given)
    assert (manifest["metadata"]["name"], manifest["metadata"]["namespace"]) == (NAME, "faces")
    assert {key: base64.b64decode(value).decode() for key, value in manifest["data"].items()} == {
        "accesskey": KEYS["AWS_ACCESS_KEY_ID"],
        "secretkey": KEYS["AWS_SECRET_ACCESS_KEY"],
    }
    for arguments, _ in kubectl.calls():
        assert not _shows_a_key(" ".join(arguments))


def _shows_a_key(text: str) -> bool:
    forms = [*KEYS.values(), *(base64.b64encode(value.encode()).decode() for value in KEYS.values())]
    return any(form in text for form in forms)


def test_the_webhook_is_a_second_secret_where_it_is_set(kubectl: FakeKubectl) -> None:
    address = "https://hooks.example/services/x"
    outcomes = make_secrets(Kubectl(), "faces", KEYS | {"KUBEFACE_WEBHOOK": address})
    assert outcomes == [*WRITTEN, SecretOutcome("kubeface-webhook")]
    manifest = json.loads(kubectl.calls()[-1][1])
    assert base64.b64decode(manifest["data"]["url"]).decode() == address


@pytest.mark.parametrize("name", list(KEYS))
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_key_is_named(kubectl: FakeKubectl, name: str, value: str | None) -> None:
    environment = {key: text for key, text in (KEYS | {name: value}).items() if text is not None}
    with pytest.raises(KubefaceError, match=f"{name} must be set"):
        make_secrets(Kubectl(), "faces", environment)
    assert kubectl.calls() == []


@pytest.mark.parametrize("value", ["key\n", " key", "ke\ny"])
def test_a_key_with_spaces_around_it_is_refused_and_not_shown(kubectl: FakeKubectl, value: str) -> None:
    with pytest.raises(KubefaceError, match="AWS_ACCESS_KEY_ID has spaces") as error:
        make_secrets(Kubectl(), "faces", KEYS | {"AWS_ACCESS_KEY_ID": value})
    assert value.strip() not in str(error.value).split()
    assert kubectl.calls() == []


def test_a_refusal_that_repeats_the_keys_does_not_show_them(
    kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = base64.b64encode(KEYS["AWS_SECRET_ACCESS_KEY"].encode()).decode()
    monkeypatch.setenv("REFUSAL", f"error: invalid value {encoded} ({KEYS['AWS_ACCESS_KEY_ID']})")
    with pytest.raises(KubefaceError, match=r"invalid value \*\*\*") as error:
        make_secrets(Kubectl(), "faces", KEYS)
    assert not _shows_a_key(str(error.value))
    assert "\n" not in str(error.value)


def test_the_command_line_says_what_it_did_without_the_keys(
    kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    main(["secret", "--namespace", "faces"])
    assert capsys.readouterr() == (f"{NAME} in namespace faces: from the environment\n", "")
    for name in KEYS:
        monkeypatch.delenv(name)
    line = refusal(capsys, "secret", "--namespace", "faces")
    assert line.startswith("error: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set")


def live(cluster: KubernetesApi) -> Object:
    found = cluster.get("Secret", NAME, "faces")
    assert found
    return found


def test_with_the_real_kubectl(cluster: KubernetesApi) -> None:
    cluster.put(thing("Namespace", "faces"))
    assert make_secrets(Kubectl(), "faces", KEYS) == WRITTEN
    version = live(cluster)["metadata"]["resourceVersion"]
    assert "annotations" not in live(cluster)["metadata"]
    make_secrets(Kubectl(), "faces", KEYS)
    assert live(cluster)["metadata"]["resourceVersion"] == version
    make_secrets(Kubectl(), "faces", KEYS | {"AWS_ACCESS_KEY_ID": "another"})
    assert base64.b64decode(live(cluster)["data"]["accesskey"]) == b"another"


def put_theirs(cluster: KubernetesApi, keys: Mapping[str, str]) -> Object:
    """A secret as Kubeflow Pipelines makes it."""
    names = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
    data = {key: base64.b64encode(keys[name].encode()).decode() for key, name in names.items() if name in keys}
    theirs = thing("Secret", NAME, namespace="faces", data=data)
    cluster.put(thing("Namespace", "faces"), theirs)
    return theirs


@pytest.mark.parametrize("other", [{}, {"AWS_ACCESS_KEY_ID": "access-of-theirs"}])
def test_with_the_real_kubectl_other_keys_of_kubeflow_pipelines_stay(
    cluster: KubernetesApi, other: dict[str, str]
) -> None:
    theirs = put_theirs(cluster, KEYS | other if other else {"AWS_ACCESS_KEY_ID": KEYS["AWS_ACCESS_KEY_ID"]})
    with pytest.raises(KubefaceError, match=r"made by somebody else.*other keys.*REPLACE=1") as error:
        make_secrets(Kubectl(), "faces", KEYS)
    assert not _shows_a_key(str(error.value)) and "access-of-theirs" not in str(error.value)
    assert live(cluster)["data"] == theirs["data"]
    assert make_secrets(Kubectl(), "faces", KEYS, replace=True) == WRITTEN


@pytest.mark.parametrize(("given", "said"), [(KEYS, "it has the keys of the environment"), ({}, "has no keys")])
def test_with_the_real_kubectl_nothing_is_to_be_done_where_kubeflow_pipelines_made_it(
    cluster: KubernetesApi,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: Mapping[str, str],
    said: str,
) -> None:
    theirs = put_theirs(cluster, KEYS)
    for name in KEYS:
        monkeypatch.setenv(name, given.get(name, ""))
    main(["secret", "--namespace", "faces"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{NAME} in namespace faces: not written: somebody else made it") and said in line
    assert not _shows_a_key(line)
    assert live(cluster)["data"] == theirs["data"]


def test_with_the_real_kubectl_the_webhook_is_written_beside_their_secret(cluster: KubernetesApi) -> None:
    put_theirs(cluster, KEYS)
    (theirs, webhook) = make_secrets(Kubectl(), "faces", {"KUBEFACE_WEBHOOK": "https://hooks.example/x"})
    assert theirs.kept and webhook == SecretOutcome("kubeface-webhook")
    assert cluster.get("Secret", "kubeface-webhook", "faces")


def test_with_the_real_kubectl_a_missing_namespace_is_named(cluster: KubernetesApi) -> None:
    with pytest.raises(KubefaceError, match='namespaces "faces" not found'):
        make_secrets(Kubectl(), "faces", KEYS)
