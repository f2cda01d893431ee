"""`make secret`: keys go from the environment into the cluster, and nowhere else on the way."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeface.runtime.errors import KubefaceError
from pipelines.cluster.kubectl import Kubectl
from pipelines.cluster.secret import make_secrets
from tests.support.stubs.kubernetes_api import KubernetesApi
from tests.support.stubs.kubernetes_objects import Object
from tests.support.stubs.tls import Tls, make_tls

ROOT = Path(__file__).resolve().parents[3]
KEYS = {"AWS_ACCESS_KEY_ID": "access-of-the-test", "AWS_SECRET_ACCESS_KEY": "secret/of+the test"}
NAME = "mlpipeline-minio-artifact"
# Records what it is given, and answers as the environment variable says.
FAKE = """#!{python}
import json, os, pathlib, sys
given = sys.stdin.read() if sys.argv[1] == "apply" else ""
with open(pathlib.Path(__file__).with_name("calls"), "a") as calls:
    calls.write(json.dumps([sys.argv[1:], given]) + "\\n")
if sys.argv[1] == "get":
    print(os.environ.get("OWNER", ""), end="")
elif os.environ.get("REFUSAL"):
    print(os.environ["REFUSAL"], file=sys.stderr)
    sys.exit(1)
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake kubectl on the PATH; the file in which it writes its arguments and its standard input."""
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program.with_name("calls")


def read(calls: Path) -> list[tuple[list[str], str]]:
    return [tuple(json.loads(line)) for line in calls.read_text().splitlines()]


def test_keys_travel_on_standard_input_only(calls: Path) -> None:
    assert make_secrets(Kubectl(), "faces", KEYS) == [NAME]
    (got, _), (applied, given) = read(calls)
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
    for arguments, _ in read(calls):
        assert not _shows_a_key(" ".join(arguments))


def _shows_a_key(text: str) -> bool:
    forms = [*KEYS.values(), *(base64.b64encode(value.encode()).decode() for value in KEYS.values())]
    return any(form in text for form in forms)


def test_the_webhook_is_a_second_secret_where_it_is_set(calls: Path) -> None:
    address = "https://hooks.example/services/x"
    assert make_secrets(Kubectl(), "faces", KEYS | {"KUBEFACE_WEBHOOK": address}) == [NAME, "kubeface-webhook"]
    manifest = json.loads(read(calls)[-1][1])
    assert base64.b64decode(manifest["data"]["url"]).decode() == address


@pytest.mark.parametrize("name", list(KEYS))
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_key_is_named(calls: Path, name: str, value: str | None) -> None:
    environment = {key: text for key, text in (KEYS | {name: value}).items() if text is not None}
    with pytest.raises(KubefaceError, match=f"{name} must be set"):
        make_secrets(Kubectl(), "faces", environment)
    assert not calls.exists()


@pytest.mark.parametrize("value", ["key\n", " key", "ke\ny"])
def test_a_key_with_spaces_around_it_is_refused_and_not_shown(calls: Path, value: str) -> None:
    with pytest.raises(KubefaceError, match="AWS_ACCESS_KEY_ID has spaces") as error:
        make_secrets(Kubectl(), "faces", KEYS | {"AWS_ACCESS_KEY_ID": value})
    assert value.strip() not in str(error.value).split()
    assert not calls.exists()


def test_somebody_elses_secret_stays(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNER", f"{NAME}=")
    with pytest.raises(KubefaceError, match=r"made by somebody else.*REPLACE=1"):
        make_secrets(Kubectl(), "faces", KEYS)
    assert [arguments[0] for arguments, _ in read(calls)] == ["get"]
    assert make_secrets(Kubectl(), "faces", KEYS, replace=True) == [NAME]


def test_ours_is_replaced(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNER", f"{NAME}=kubeface")
    assert make_secrets(Kubectl(), "faces", KEYS) == [NAME]


def test_a_refusal_that_repeats_the_keys_does_not_show_them(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = base64.b64encode(KEYS["AWS_SECRET_ACCESS_KEY"].encode()).decode()
    monkeypatch.setenv("REFUSAL", f"error: invalid value {encoded} ({KEYS['AWS_ACCESS_KEY_ID']})")
    with pytest.raises(KubefaceError, match=r"invalid value \*\*\*") as error:
        make_secrets(Kubectl(), "faces", KEYS)
    assert not _shows_a_key(str(error.value))
    assert "\n" not in str(error.value)


def test_the_command_line_says_what_it_did_without_the_keys(calls: Path) -> None:
    command = [sys.executable, "-m", "kubeface", "secret", "--namespace", "faces"]
    done = subprocess.run(command, env=os.environ | KEYS, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{NAME} in namespace faces: from the environment\n"
    environment = {name: value for name, value in os.environ.items() if name not in KEYS}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def api(tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with KubernetesApi(tls) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        yield server


def live(api: KubernetesApi) -> Object:
    found = api.get("Secret", NAME, "faces")
    assert found
    return found


def test_with_the_real_kubectl(api: KubernetesApi) -> None:
    api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "faces"}})
    assert make_secrets(Kubectl(), "faces", KEYS) == [NAME]
    version = live(api)["metadata"]["resourceVersion"]
    assert "annotations" not in live(api)["metadata"]
    make_secrets(Kubectl(), "faces", KEYS)
    assert live(api)["metadata"]["resourceVersion"] == version
    make_secrets(Kubectl(), "faces", KEYS | {"AWS_ACCESS_KEY_ID": "another"})
    assert base64.b64decode(live(api)["data"]["accesskey"]) == b"another"


def test_with_the_real_kubectl_the_key_of_kubeflow_pipelines_stays(api: KubernetesApi) -> None:
    theirs: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": NAME, "namespace": "faces"},
        "data": {"accesskey": "bWluaW8="},
    }
    api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "faces"}}, theirs)
    with pytest.raises(KubefaceError, match="made by somebody else"):
        make_secrets(Kubectl(), "faces", KEYS)
    assert live(api)["data"] == theirs["data"]


def test_with_the_real_kubectl_a_missing_namespace_is_named(api: KubernetesApi) -> None:
    with pytest.raises(KubefaceError, match='namespaces "faces" not found'):
        make_secrets(Kubectl(), "faces", KEYS)
