"""`make manifests` prints what is deployed."""

import json
from pathlib import Path

import pytest
import yaml

from kubeface.cli import main
from tests.support.commands import refusal

ROOT = Path(__file__).resolve().parents[3]
DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_an_overlay_by_digest_in_a_namespace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images.json"
    images.write_text(json.dumps({"store": {"image": "r.example/k/store:1", "digest": DIGEST, "size": 1}}))
    main(["manifests", "--overlay", "dev", "--namespace", "faces", "--images", str(images)])
    printed, said = capsys.readouterr()
    objects = list(yaml.safe_load_all(printed))
    assert said == "" and {item["metadata"].get("namespace", "faces") for item in objects} == {"faces"}
    assert "faces" in {item["metadata"]["name"] for item in objects if item["kind"] == "Namespace"}
    assert f"image: r.example/k/store@{DIGEST}\n" in printed


def test_without_the_stores_image_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "manifests", "--overlay", "dev", "--images", tmp_path / "none.json")
    assert line.startswith("error: StatefulSet kubeface-store runs the image of 'store'") and "make images" in line
