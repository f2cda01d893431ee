"""A run's parameters: read from a file, and refused where they carry a secret."""

from pathlib import Path
from typing import Any

import pytest

from kubeface.runtime.errors import KubefaceError
from pipelines.cluster.parameters import read_parameters, refuse_secrets

GOOD: dict[str, Any] = {"source": "s3://faces/staff", "models": "s3://faces/models"}


def refusal(**more: Any) -> str:
    with pytest.raises(KubefaceError) as caught:
        refuse_secrets(GOOD | more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "AKIAIOSFODNN7EXAMPLE/hunter22"),
        ("promote.mlflow", "https://me:hunter22@mlflow.example"),
        ("evaluate.lfw_archive", "https://b.s3.example/lfw.tar?X-Amz-Credential=hunter22&X-Amz-Signature=abc"),
        ("finetune.pretrained", "https://example/w.onnx?access_token=hunter22"),
        ("ingest.listing", "https://a.blob.example/l.csv?sv=1&sig=hunter22"),
        ("finetune.secret", "hunter22"),
        ("evaluate.gate.password", "hunter22"),
    ],
)
def test_keys_are_refused_and_not_shown(name: str, value: str) -> None:
    first, *inner = name.split(".")
    nested: Any = value
    for key in reversed(inner):
        nested = {key: nested}
    text = refusal(**{first: nested})
    assert f"parameter '{name}' carries a key or password" in text
    assert "hunter22" not in text


def test_the_environments_own_key_is_found_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    text = refusal(audit={"evaluation_sets": ["s3://faces/wJalrXUtnFEMI.tar"]})
    assert "carries a key" in text
    assert "wJalr" not in text


def test_checksums_and_ordinary_addresses_are_no_keys() -> None:
    refuse_secrets(
        GOOD | {"finetune": {"pretrained": "https://example/w.onnx#sha256=" + "a" * 64}, "recipe": "s3://a/b"}
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("source: [", "is not YAML or JSON (line"),
        ("- a\n- b", "holds no parameters"),
        ("", "holds no parameters"),
        ("1: a", "holds no parameters"),
    ],
)
def test_a_file_that_holds_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(KubefaceError) as caught:
        read_parameters(tmp_path / "p.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(KubefaceError, match="is not there"):
        read_parameters(tmp_path / "none.yaml")


def test_json_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"source": "s3://a", "num_shards": 2}')
    assert read_parameters(tmp_path / "p.json") == {"source": "s3://a", "num_shards": 2}
