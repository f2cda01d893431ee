"""The interface of every component and of the pipeline: names, types and defaults are a promise to saved runs.

After a change that is meant: `python -m tests.pipelines.test_interface` writes interface.json anew.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.align.step import align
from components.audit.step import audit
from components.evaluate.step import evaluate
from components.faces.errors import KubefaceError
from components.filter.step import filter_faces
from components.finetune.step import finetune
from components.gather.step import gather
from components.ingest.step import ingest, plan
from components.notify.step import conclude, notify
from components.promote.step import promote
from components.report.keep import keep
from components.report.step import report
from components.split.step import split
from pipelines.compile import compile_pipeline
from pipelines.face_finetuning import face_finetuning

GOLDEN = Path(__file__).with_name("interface.json")
STEPS = {
    "align": align,
    "audit": audit,
    "conclude": conclude,
    "evaluate": evaluate,
    "filter-faces": filter_faces,
    "finetune": finetune,
    "gather": gather,
    "ingest": ingest,
    "keep": keep,
    "notify": notify,
    "plan": plan,
    "promote": promote,
    "report": report,
    "split": split,
}
# Parameters that a pipeline argument reaches under a name of its own.
RENAMED = {
    ("filter-faces", "min_score"): "filter_min_score",
    ("filter-faces", "min_face_size"): "filter_min_face_size",
}


def compiled(folder: Path) -> dict[str, Any]:
    compile_pipeline(folder / "pipeline.yaml")
    return next(yaml.safe_load_all((folder / "pipeline.yaml").read_text("utf-8")))


def interface(spec: dict[str, Any]) -> dict[str, Any]:
    """Inputs and outputs by component, the pipeline under its own name."""

    def ports(definitions: dict[str, Any]) -> dict[str, Any]:
        artifacts = {k: v["artifactType"]["schemaTitle"] for k, v in definitions.get("artifacts", {}).items()}
        parameters = {
            k: {"type": v["parameterType"]} | ({"default": v["defaultValue"]} if "defaultValue" in v else {})
            for k, v in definitions.get("parameters", {}).items()
        }
        return {"artifacts": artifacts, "parameters": parameters}

    parts = {name.removeprefix("comp-"): part for name, part in spec["components"].items()}
    parts[spec["pipelineInfo"]["name"]] = spec["root"]
    return {
        name: {
            "inputs": ports(part.get("inputDefinitions", {})),
            "outputs": ports(part.get("outputDefinitions", {})),
        }
        for name, part in sorted(parts.items())
    }


def loop_of(spec: dict[str, Any]) -> dict[str, Any]:
    dags = [part["dag"] for part in spec["components"].values() if "dag" in part]
    (loop,) = (task for dag in dags for task in dag["tasks"].values() if "parameterIterator" in task)
    return dict(loop)


def tasks_of(spec: dict[str, Any]) -> dict[str, Any]:
    """The tasks that run a container, by name, those inside the loop over shards and the two branches with them."""

    def below(dag: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, task in dag["tasks"].items():
            part = spec["components"][task["componentRef"]["name"]]
            found |= below(part["dag"]) if "dag" in part else {name: task}
        return found

    return below(spec["root"]["dag"])


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return compiled(tmp_path_factory.mktemp("compiled"))


def test_interfaces_are_the_pinned_ones(spec: dict[str, Any]) -> None:
    assert interface(spec) == json.loads(GOLDEN.read_text("utf-8"))


@pytest.mark.parametrize("name", STEPS)
def test_component_defaults_are_the_steps_own(spec: dict[str, Any], name: str) -> None:
    parameters = interface(spec)[name]["inputs"]["parameters"]
    of_step = inspect.signature(STEPS[name]).parameters
    compared = 0
    for parameter, entry in parameters.items():
        if parameter in of_step and of_step[parameter].default is not inspect.Parameter.empty:
            assert entry["default"] == of_step[parameter].default, f"{name}: {parameter}"
            compared += 1
    assert compared or name in ("conclude", "promote")


@pytest.mark.parametrize("name", STEPS)
def test_pipeline_defaults_are_the_components_own(spec: dict[str, Any], name: str) -> None:
    described = interface(spec)
    of_pipeline = described["face-finetuning"]["inputs"]["parameters"]
    for parameter, entry in described[name]["inputs"]["parameters"].items():
        outer = RENAMED.get((name, parameter), parameter)
        if "default" in entry and "default" in of_pipeline.get(outer, {}):
            assert entry["default"] == of_pipeline[outer]["default"], f"{name}: {parameter}"


def test_every_pipeline_parameter_is_described_for_the_ui(spec: dict[str, Any]) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert len(parameters) > 20
    assert [name for name, entry in parameters.items() if not entry.get("description")] == []


def test_every_pipeline_parameter_is_used(spec: dict[str, Any]) -> None:
    text = yaml.safe_dump([part["dag"] for part in (spec["root"], *spec["components"].values()) if "dag" in part])
    unused = [
        n
        for n in spec["root"]["inputDefinitions"]["parameters"]
        if f"componentInputParameter: {n}\n" not in text
        and f"componentInputParameter: pipelinechannel--{n}\n" not in text
    ]
    assert unused == []


def test_a_gpu_is_asked_for_by_finetune_alone(spec: dict[str, Any]) -> None:
    executors = spec["deploymentSpec"]["executors"]
    with_gpu = {n for n, e in executors.items() if "accelerator" in e["container"].get("resources", {})}
    assert with_gpu == {"exec-finetune"}
    assert executors["exec-finetune"]["container"]["resources"]["accelerator"] == {
        "resourceCount": "{{$.inputs.parameters['pipelinechannel--finetune_gpus']}}",
        "resourceType": "{{$.inputs.parameters['pipelinechannel--gpu_type']}}",
    }


def test_each_step_has_its_image_resources_retries_and_cache(spec: dict[str, Any]) -> None:
    executors = spec["deploymentSpec"]["executors"]
    for name, executor in executors.items():
        others = {
            "filter-faces": "filter",
            "plan": "ingest",
            "keep": "report",
            "champion": "promote",
            "conclude": "notify",
        }
        step = name.removeprefix("exec-")
        step = others.get(step, step)
        container = executor["container"]
        assert container["image"] == f"localhost/kubeface/{step}:0.1.0"
        asked = {f"resource{what}{kind}" for what in ("Cpu", "Memory") for kind in ("Limit", "Request")}
        assert asked <= container["resources"].keys()
    for name, task in tasks_of(spec).items():
        assert task["retryPolicy"]["maxRetryCount"] == 2, name
        cached = task["cachingOptions"].get("enableCache", False)
        assert cached == (name not in ("plan", "champion", "conclude", "notify")), name


def test_secrets_are_referred_to_and_never_written(tmp_path: Path) -> None:
    compile_pipeline(tmp_path / "pipeline.yaml")
    documents = list(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text("utf-8")))
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    referred = {
        name: [(secret["secretName"], secret["optional"]) for secret in entry["secretAsEnv"]]
        for name, entry in executors.items()
        if "secretAsEnv" in entry
    }
    store, steps = (
        ("mlpipeline-minio-artifact", False),
        "plan ingest gather audit champion finetune evaluate promote conclude",
    )
    assert referred == {f"exec-{step}": [store] for step in steps.split()} | {
        "exec-notify": [store, ("kubeface-webhook", True)]
    }


def test_shards_run_side_by_side_as_many_as_asked_for(spec: dict[str, Any], tmp_path: Path) -> None:
    assert loop_of(spec)["iteratorPolicy"] == {"parallelismLimit": 8}
    loop = spec["components"][loop_of(spec)["componentRef"]["name"]]
    assert set(loop["dag"]["tasks"]) == {"ingest", "align", "filter-faces"}
    compile_pipeline(tmp_path / "pipeline.yaml", parallelism=50)
    other = next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text("utf-8")))
    assert loop_of(other)["iteratorPolicy"] == {"parallelismLimit": 50}
    with pytest.raises(KubefaceError, match="parallelism is 0"):
        compile_pipeline(tmp_path / "none.yaml", parallelism=0)
    assert not (tmp_path / "none.yaml").exists()


def test_registry_and_tag_reach_every_image(tmp_path: Path) -> None:
    compile_pipeline(tmp_path / "pipeline.yaml", "registry.example:5000/team", "abc123")
    spec = next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text("utf-8")))
    images = {e["container"]["image"] for e in spec["deploymentSpec"]["executors"].values()}
    assert "registry.example:5000/team/finetune:abc123" in images
    assert all(image.startswith("registry.example:5000/team/") and image.endswith(":abc123") for image in images)


def test_the_compiled_file_is_the_same_every_time(tmp_path: Path) -> None:
    compile_pipeline(tmp_path / "a.yaml")
    compile_pipeline(tmp_path / "b.yaml")
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


def test_the_pipeline_is_the_one_that_is_compiled(spec: dict[str, Any]) -> None:
    assert spec["pipelineInfo"]["name"] == face_finetuning.pipeline_spec.pipeline_info.name


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        GOLDEN.write_text(json.dumps(interface(compiled(Path(scratch))), indent=1, sort_keys=True) + "\n", "utf-8")
