"""The real kfp.Client against a stub server: how it is reached, and one clear line for each refusal."""

from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from kubeface.runtime.errors import KubefaceError
from pipelines.cluster import client as cluster_module
from pipelines.cluster.client import Cluster, connect
from pipelines.cluster.versions import find_pipeline, read_package, upload
from tests.support.stubs.kfp_api import DROP, HANG, Fault, KfpApi
from tests.support.stubs.kubectl import fake_kubectl
from tests.support.stubs.tls import make_tls

TOKEN = "token-that-nobody-may-see"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"pipelineInfo": {"name": "face-finetuning"}, "root": {}}))
    return path


def message(cluster: Cluster) -> str:
    with pytest.raises(KubefaceError) as caught, connect(cluster) as client:
        find_pipeline(client, "face-finetuning")
    text = str(caught.value)
    assert "\n" not in text
    assert TOKEN not in text
    return text


def test_every_field_has_a_variable(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-")
    given = {"KFP_HOST": "https://kubeflow.example/pipeline/", "KFP_NAMESPACE": "team", "KFP_TOKEN": TOKEN}
    given |= {"KFP_COOKIE": "authservice_session=abc", "KFP_CA": str(tmp_path / "ca.pem"), "KFP_SERVICE_ACCOUNT": ""}
    given |= {"KUBE_CONTEXT": "prod", "KUBECONFIG": ""}
    found = Cluster.from_environment(given)
    assert (found.host, found.namespace, found.context) == ("https://kubeflow.example/pipeline", "team", "prod")
    assert found.token.get_secret_value() == TOKEN
    assert found.service_account == ""
    assert TOKEN not in repr(found)
    assert Cluster.from_environment({}).service_account == "kubeface-runner"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("KFP_HOST", "kubeflow.example", "write it as https://host/path"),
        ("KFP_HOST", "https://me:hunter22@kubeflow.example", "carries a password"),
        ("KFP_COOKIE", "hunter22", "name=value"),
        ("KFP_CA", "/nowhere/ca.pem", "is not a file"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(name: str, value: str, said: str) -> None:
    with pytest.raises(KubefaceError, match=said) as caught:
        Cluster.from_environment({name: value})
    assert str(caught.value).startswith(f"{name}: ")
    assert "hunter22" not in str(caught.value)


def test_a_token_and_a_cookie_are_sent() -> None:
    cookie = "authservice_session=abc"
    with KfpApi(token=TOKEN, cookie=cookie) as api:
        with connect(Cluster(host=api.url, token=SecretStr(TOKEN), cookie=SecretStr(cookie))) as client:
            assert find_pipeline(client, "face-finetuning") is None
        assert set(api.state.authorizations) == {f"Bearer {TOKEN}"}


def test_no_credentials_and_wrong_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with KfpApi(token=TOKEN) as api:
        assert "set KFP_TOKEN or KFP_COOKIE" in message(Cluster(host=api.url))
        api.state.token = "another"  # the stub's answer repeats the token
        assert "renew it" in message(Cluster(host=api.url, token=SecretStr(TOKEN)))
    assert TOKEN not in "".join(capsys.readouterr())


def test_a_server_that_repeats_a_token_does_not_bring_it_to_light() -> None:
    with KfpApi() as api:
        api.state.faults = [Fault("GET .*/pipelines", 403, message=f"user Bearer {TOKEN} may not list")]
        assert "user Bearer … may not list" in message(Cluster(host=api.url, token=SecretStr(TOKEN)))


def test_a_page_to_sign_in_is_no_answer() -> None:
    with KfpApi(login=True, cookie="s=1") as api:
        assert "wants you to sign in (302)" in message(Cluster(host=api.url))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "refuses it (400: the stub was told to fail): correct what it names"),
        (403, "forbids it in namespace kubeface (403: the stub was told to fail): ask for the rights"),
        (404, "does not know it (404: the stub was told to fail): check the id or name"),
        (409, "exists already or was changed meanwhile (409: the stub was told to fail): try again"),
        (500, "failed (500: the stub was told to fail): try again, or read the logs"),
        (503, "is overloaded (503: the stub was told to fail): try again later"),
    ],
)
def test_each_refusal_is_one_clear_line(kfp: KfpApi, status: int, said: str) -> None:
    kfp.state.faults = [Fault("GET .*/pipelines$", status)]
    assert said in message(Cluster(host=kfp.url))


def test_a_server_that_does_not_answer(kfp: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "READ_SECONDS", 0.3)
    kfp.state.hang_seconds = 1.0
    kfp.state.faults = [Fault("healthz", HANG)]
    assert "does not answer in time (0.3 s)" in message(Cluster(host=kfp.url))
    kfp.state.faults = [Fault("healthz", DROP)]
    assert "nothing answers at" in message(Cluster(host=kfp.url))


def test_nobody_listens() -> None:
    assert "nothing answers at http://127.0.0.1:9 (NewConnectionError)" in message(Cluster(host="http://127.0.0.1:9"))


def test_an_authority_of_ones_own(tmp_path: Path) -> None:
    tls, other = make_tls(tmp_path / "a"), make_tls(tmp_path / "b")
    with KfpApi(tls) as api:
        with connect(Cluster(host=api.url, ca=str(tls.ca))) as client:
            assert find_pipeline(client, "x") is None
        assert "certificate is not trusted: name its authority" in message(Cluster(host=api.url))
        assert "certificate is not trusted" in message(Cluster(host=api.url, ca=str(other.ca)))


def test_nothing_of_an_earlier_use_is_read_or_kept(
    kfp: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "context.json"
    memory.write_text('{"namespace": "stale", "client_authentication_cookie": "old=1"}')
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(memory))
    with connect(Cluster(host=kfp.url)) as client:
        client.list_runs()
    assert "stale" in memory.read_text()
    assert kfp.state.asked == ["GET /apis/v2beta1/healthz", "GET /apis/v2beta1/runs"]


@pytest.mark.parametrize("several", [True, False])
def test_the_namespace_is_sent_where_kfp_serves_several_and_not_elsewhere(several: bool) -> None:
    with KfpApi(multi_user=several) as api, connect(Cluster(host=api.url, namespace="team")) as client:
        client.create_experiment("e")
        assert api.state.experiments[0].get("namespace") == ("team" if several else "")


def test_without_a_host_kubectl_forwards_a_port(kfp: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"print('Forwarding from 127.0.0.1:{kfp.port} -> 8888', flush=True)\ntime.sleep(60)"
    kubectl = fake_kubectl(tmp_path, monkeypatch, body)
    with connect(Cluster(context="prod")) as client:
        assert find_pipeline(client, "x") is None
    wanted = "--context=prod port-forward --namespace=kubeflow --address=127.0.0.1 svc/ml-pipeline :8888"
    assert kubectl.asked() == [wanted]


def test_kubectl_that_cannot_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = 'Error from server (NotFound): services "ml-pipeline" not found'
    fake_kubectl(tmp_path, monkeypatch, f"sys.exit({told!r})")
    line = message(Cluster())
    assert f"kubectl port-forward svc/ml-pipeline: {told}" in line and "give KFP_HOST" in line


def test_in_a_pod_the_service_is_asked_with_the_accounts_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(cluster_module, "ACCOUNT", tmp_path / "token")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    with cluster_module._api_url(Cluster(system_namespace="kf")) as host:
        assert host == "http://ml-pipeline.kf.svc.cluster.local:8888"
    with KfpApi(token=TOKEN) as api:
        client = cluster_module._client(Cluster(), api.url)
        assert find_pipeline(client, "x") is None


def test_the_same_pipeline_is_one_version_and_another_is_new(kfp: KfpApi, package: Path) -> None:
    with connect(Cluster(host=kfp.url)) as client:
        first = upload(client, read_package(package))
        again = upload(client, read_package(package))
        assert (first.is_new, again.is_new, again.version_id) == (True, False, first.version_id)
        package.write_text(package.read_text() + "# changed\n")
        second = upload(client, read_package(package))
    assert second.is_new
    assert second.version_id != first.version_id
    assert (len(kfp.state.pipelines), len(kfp.state.versions)) == (1, 2)


def test_somebody_else_uploads_at_the_same_moment(kfp: KfpApi, package: Path) -> None:
    kfp.state.faults = [Fault("POST .*/upload_version", 409, times=1, after=True)]
    with connect(Cluster(host=kfp.url)) as client:
        version = upload(client, read_package(package))
    assert (version.version_id, version.is_new) == (kfp.state.versions[0]["pipeline_version_id"], False)


def test_a_conflict_that_is_none_of_ours_is_said(kfp: KfpApi, package: Path) -> None:
    kfp.state.faults = [Fault("POST .*/upload_version", 409)]
    with pytest.raises(KubefaceError, match="409"), connect(Cluster(host=kfp.url)) as client:
        upload(client, read_package(package))


@pytest.mark.parametrize("text", ["a: 1", "[", ""])
def test_a_file_that_is_no_package(tmp_path: Path, text: str) -> None:
    with pytest.raises(KubefaceError, match="does not exist: run 'make compile'"):
        read_package(tmp_path / "none.yaml")
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(KubefaceError, match="is not a compiled pipeline: run 'make compile'"):
        read_package(tmp_path / "p.yaml")
