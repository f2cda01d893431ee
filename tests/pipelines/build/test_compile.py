"""The compiled pipeline runs the images that were pushed, by digest."""

from pathlib import Path

import pytest

from kubeface.runtime.errors import KubefaceError
from pipelines.build.compile import compile_pipeline, images_in, read_hours
from pipelines.build.images import Image, Images
from pipelines.face_finetuning import face_finetuning
from pipelines.tasks import Build
from tests.support.compiled import documents

STEPS = sorted({step for step, _ in images_in(face_finetuning.pipeline_spec)})


def pushed() -> Images:
    return {
        step: Image(image=f"registry.example:5000/team/{step}:abc", digest=f"sha256:{number:064x}", size=1)
        for number, step in enumerate(STEPS)
    }


def test_every_image_is_compiled_in_by_digest(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    compile_pipeline(path, images=pushed() | {"store": Image(image="other/store:1", size=1)})
    containers = documents(path).executors.values()
    assert {container["image"] for container in containers} == {image.pinned for image in pushed().values()}
    for container in containers:  # what the model's passport names is what ran
        named = {entry["value"] for entry in container.get("env", []) if entry["name"] == "KUBEFACE_IMAGE"}
        assert named <= {container["image"]}
    assert "localhost/" not in path.read_text("utf-8")


def test_images_that_are_missing_or_not_pushed_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    some = {step: image for step, image in pushed().items() if step not in ("align", "split")}
    with pytest.raises(KubefaceError, match="no image of align, split is named: run 'make push' for all steps"):
        compile_pipeline(path, images=some)
    local = pushed() | {"align": Image(image="registry.example/team/align:abc", size=1)}
    with pytest.raises(KubefaceError, match=r"registry\.example/team/align:abc has no digest: push it first"):
        compile_pipeline(path, images=local)
    assert not path.exists()


def test_a_claim_for_weights_is_mounted_where_they_are_fetched(tmp_path: Path, package: Path) -> None:
    path, plain = tmp_path / "pipeline.yaml", tmp_path / "plain.yaml"
    compile_pipeline(path, build=Build(3, "my-weights"))
    compiled = documents(path)
    mounted = {name: settings["pvcMount"] for name, settings in compiled.settings.items() if "pvcMount" in settings}
    assert mounted.keys() == {"exec-audit", "exec-finetune"}
    for name, (mount,) in mounted.items():
        assert {"name": "KUBEFACE_CACHE", "value": mount["mountPath"]} in compiled.executors[name]["env"]
        assert mount["constant"] == "my-weights"
    assert "parallelismLimit: 3" in path.read_text("utf-8")
    compile_pipeline(plain)
    assert plain.read_bytes() == package.read_bytes()  # nothing of it stays


def deadlines(path: Path) -> dict[str, float]:
    settings = documents(path).settings
    return {step: float(entry["activeDeadlineSeconds"]) / 3600 for step, entry in settings.items()}


def test_time_limits_are_set_by_step(tmp_path: Path, package: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    compile_pipeline(path, build=Build(hours=read_hours("finetune=72 filter=0.5 notify=0.0001")))
    before, after = deadlines(package), deadlines(path)
    assert before["exec-finetune"] == 48
    assert after == before | {"exec-finetune": 72, "exec-filter-faces": 0.5, "exec-notify": 1 / 3600}


@pytest.mark.parametrize(
    ("hours", "message"),
    [
        ("train=3", "hours names train: use run, or one of align, audit, evaluate, filter, finetune"),
        ("finetune=0", "hours of finetune is 0: it must lie above 0"),
        ("finetune", "hours is 'finetune': write a step and a number"),
        ("finetune=-1", "hours is 'finetune=-1': write a step and a number"),
    ],
)
def test_time_limits_that_cannot_be_are_named(tmp_path: Path, hours: str, message: str) -> None:
    path = tmp_path / "pipeline.yaml"
    with pytest.raises(KubefaceError, match=message):
        compile_pipeline(path, build=Build(hours=read_hours(hours)))
    assert not path.exists()
