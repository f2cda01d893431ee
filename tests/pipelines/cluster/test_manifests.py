"""`make manifests` prints what is deployed."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
DIGEST = "sha256:" + "0123456789abcdef" * 4


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kubeface", "manifests", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_an_overlay_by_digest_in_a_namespace(tmp_path: Path) -> None:
    images = tmp_path / "images.json"
    images.write_text(json.dumps({"store": {"image": "r.example/k/store:1", "digest": DIGEST, "size": 1}}))
    done = run("--overlay", "dev", "--namespace", "faces", "--images", str(images))
    assert (done.returncode, done.stderr) == (0, "")
    objects = list(yaml.safe_load_all(done.stdout))
    assert {item["metadata"].get("namespace", "faces") for item in objects} == {"faces"}
    assert "faces" in {item["metadata"]["name"] for item in objects if item["kind"] == "Namespace"}
    assert f"image: r.example/k/store@{DIGEST}\n" in done.stdout


def test_without_the_stores_image_it_says_what_to_do(tmp_path: Path) -> None:
    done = run("--overlay", "dev", "--images", str(tmp_path / "none.json"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: StatefulSet kubeface-store runs the image of 'store'")
    assert "make images" in done.stderr and done.stderr.count("\n") == 1


def test_an_unknown_overlay_is_named() -> None:
    done = run("--overlay", "production")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: there is no overlay 'production'")
