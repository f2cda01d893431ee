"""The interface of every component and of the pipelines: names, types and defaults are a promise to saved runs.

After a change that is meant: `python -m tests.pipelines.test_interface` writes interface.json anew.
"""

import inspect
import json
import re
from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml

from components.superresolve.component import train_superresolution as train_superresolution_component
from kubeface.align.step import align
from kubeface.audit.step import audit
from kubeface.evaluate.attributes import evaluate_attributes
from kubeface.evaluate.classes import evaluate_classes
from kubeface.evaluate.step import evaluate
from kubeface.filter.step import filter_faces
from kubeface.finetune.step import finetune
from kubeface.gather.step import gather
from kubeface.ingest.step import ingest, plan
from kubeface.notify.step import conclude, notify
from kubeface.promote.step import promote
from kubeface.report.keep import keep
from kubeface.report.step import report
from kubeface.runtime.errors import KubefaceError
from kubeface.split.step import split
from kubeface.superresolve.step import superresolve
from kubeface.superresolve.training import train_superresolution
from pipelines.build.catalogue import FACE_FINETUNING, IMAGE_CLASSIFICATION, LOW_RESOLUTION, TASKS, load
from pipelines.build.compile import compile_pipeline
from pipelines.signatures import PARAMETERS, REQUIRED

GOLDEN = Path(__file__).with_name("interface.json")
STEPS = {
    "align": align,
    "audit": audit,
    "conclude": conclude,
    "evaluate": evaluate,
    "evaluate-attributes": evaluate_attributes,
    "evaluate-classes": evaluate_classes,
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
    "superresolve": superresolve,
}
# Parameters that a pipeline argument reaches under a name of its own.
RENAMED = {
    ("filter-faces", "min_score"): "filter_min_score",
    ("filter-faces", "min_face_size"): "filter_min_face_size",
    ("evaluate", "superresolver"): "",  # none: it takes what the model folder holds
}


def compiled(folder: Path, pipeline: str = FACE_FINETUNING) -> dict[str, Any]:
    compile_pipeline(folder / "pipeline.yaml", pipeline=pipeline)
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


def interfaces(specs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Those of all pipelines and of their components, which are the same wherever they are used."""
    found: dict[str, Any] = {}
    for pipeline, spec in specs.items():
        for name, ports in interface(spec).items():
            if re.fullmatch(r"(condition|for-loop).*", name):
                name = f"{pipeline}/{name}"
            assert found.setdefault(name, ports) == ports, name
    return found


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return {name: compiled(tmp_path_factory.mktemp(name), name) for name in TASKS}


@pytest.fixture(params=TASKS)
def spec(specs: dict[str, dict[str, Any]], request: pytest.FixtureRequest) -> dict[str, Any]:
    return specs[request.param]


def test_interfaces_are_the_pinned_ones(specs: dict[str, dict[str, Any]]) -> None:
    assert interfaces(specs) == json.loads(GOLDEN.read_text("utf-8"))


@pytest.mark.parametrize("name", STEPS)
def test_component_defaults_are_the_steps_own(specs: dict[str, dict[str, Any]], name: str) -> None:
    parameters = interfaces(specs)[name]["inputs"]["parameters"]
    of_step = inspect.signature(STEPS[name]).parameters
    compared = 0
    for parameter, entry in parameters.items():
        if parameter in of_step and of_step[parameter].default is not inspect.Parameter.empty:
            assert entry["default"] == of_step[parameter].default, f"{name}: {parameter}"
            compared += 1
    assert compared or name in ("conclude", "promote")


@pytest.mark.parametrize("name", STEPS)
def test_parameter_defaults_are_the_components_own(specs: dict[str, dict[str, Any]], name: str) -> None:
    """What a pipeline sets otherwise, it says: `test_what_differs_between_the_pipelines`."""
    for parameter, entry in interfaces(specs)[name]["inputs"]["parameters"].items():
        outer = PARAMETERS.get(RENAMED.get((name, parameter), parameter))
        if "default" in entry and outer and outer.default is not REQUIRED:
            assert entry["default"] == outer.default, f"{name}: {parameter}"


def test_a_component_of_no_pipeline_has_the_defaults_of_its_step() -> None:
    inputs = train_superresolution_component.component_spec.inputs
    of_step = inspect.signature(train_superresolution).parameters
    compared = {name for name in inputs if name in of_step and name not in ("aligned", "divided")}
    assert {name: inputs[name].default for name in compared} == {name: of_step[name].default for name in compared}
    assert compared >= of_step.keys() - {"aligned", "split", "out"}


def test_what_differs_between_the_pipelines(specs: dict[str, dict[str, Any]]) -> None:
    """Parameters of one name have one type, and one default but for these."""
    differing = {}
    for name, spec in specs.items():
        for parameter, entry in interface(spec)[name]["inputs"]["parameters"].items():
            first = PARAMETERS[parameter]
            if first.default is not REQUIRED and entry["default"] != first.default:
                differing[name, parameter] = entry["default"]
            assert type_of(first.kind) == entry["type"], f"{name}: {parameter}"
    assert differing == {
        ("face-attributes", "backbone"): "resnet50",
        ("face-attributes", "min_images"): 1,
        ("face-attributes", "name"): "face-attributes",
        ("face-attributes", "recipe"): "attributes",
        ("face-attributes", "template"): "portrait_224",
        ("image-classification", "backbone"): "resnet50",
        ("image-classification", "detector"): "none",
        ("image-classification", "heldout_fraction"): 0.2,
        ("image-classification", "min_images"): 3,
        ("image-classification", "name"): "image-classes",
        ("image-classification", "recipe"): "classes",
        ("image-classification", "template"): "whole_224",
        ("low-resolution", "backbone"): "edgeface_xs_gamma_06",
        ("low-resolution", "degradation"): "lowres:10-20",
        ("low-resolution", "fallback"): "sface",
        ("low-resolution", "gate"): {"target": "heldout_cross"},
        ("low-resolution", "name"): "few-pixels",
        ("low-resolution", "recipe"): "two-stage",
    }


def type_of(kind: Any) -> str:
    found = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", bool: "BOOLEAN"}.get(kind)
    return found or ("LIST" if get_origin(kind) is list else "STRUCT")


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
    scratch = {"exec-finetune-2"} if spec["pipelineInfo"]["name"] == IMAGE_CLASSIFICATION else set()
    assert with_gpu == {"exec-finetune"} | scratch
    for training in with_gpu:
        assert executors[training]["container"]["resources"]["accelerator"] == {
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
            "evaluate-attributes": "evaluate",
            "evaluate-classes": "evaluate",
            "finetune-2": "finetune",
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


@pytest.mark.parametrize(
    ("pipeline", "own"),
    [
        ("face-finetuning", "finetune evaluate"),
        ("face-attributes", "finetune evaluate-attributes"),
        ("image-classification", "finetune finetune-2 evaluate-classes"),
        ("low-resolution", "superresolve finetune evaluate"),
    ],
)
def test_secrets_are_referred_to_and_never_written(tmp_path: Path, pipeline: str, own: str) -> None:
    compile_pipeline(tmp_path / "pipeline.yaml", pipeline=pipeline)
    documents = list(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text("utf-8")))
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    referred = {
        name: [(secret["secretName"], secret["optional"]) for secret in entry["secretAsEnv"]]
        for name, entry in executors.items()
        if "secretAsEnv" in entry
    }
    store, steps = (
        ("mlpipeline-minio-artifact", False),
        f"plan ingest gather audit champion promote conclude {own}",
    )
    assert referred == {f"exec-{step}": [store] for step in steps.split()} | {
        "exec-notify": [store, ("kubeface-webhook", True)]
    }


def test_shards_run_side_by_side_as_many_as_asked_for(spec: dict[str, Any], tmp_path: Path) -> None:
    assert loop_of(spec)["iteratorPolicy"] == {"parallelismLimit": 8}
    loop = spec["components"][loop_of(spec)["componentRef"]["name"]]
    enlarged = {"superresolve"} if spec["pipelineInfo"]["name"] == LOW_RESOLUTION else set()
    assert set(loop["dag"]["tasks"]) == {"ingest", "align", "filter-faces"} | enlarged
    compile_pipeline(tmp_path / "pipeline.yaml", parallelism=50, pipeline=spec["pipelineInfo"]["name"])
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


@pytest.mark.parametrize("pipeline", TASKS)
def test_the_compiled_file_is_the_same_every_time(tmp_path: Path, pipeline: str) -> None:
    compile_pipeline(tmp_path / "a.yaml", pipeline=pipeline)
    compile_pipeline(tmp_path / "b.yaml", pipeline=pipeline)
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


@pytest.mark.parametrize("name", TASKS)
def test_a_pipeline_is_called_what_the_catalogue_calls_it(specs: dict[str, dict[str, Any]], name: str) -> None:
    assert specs[name]["pipelineInfo"]["name"] == load(name).pipeline_spec.pipeline_info.name == name


def test_a_pipeline_that_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="pipeline 'face' is unknown: use one of face-finetuning, face-attributes"):
        compile_pipeline(tmp_path / "none.yaml", pipeline="face")


def test_a_scratch_network_is_told_from_the_model(specs: dict[str, dict[str, Any]]) -> None:
    tasks = tasks_of(specs[IMAGE_CLASSIFICATION])
    taken = tasks["finetune-2"]["inputs"]["parameters"]
    assert tasks["finetune-2"]["taskInfo"]["name"] == "scratch"
    assert "finetune" in tasks["finetune-2"]["dependentTasks"]  # one GPU is enough
    assert taken["backbone"] == {"runtimeValue": {"constant": "small_cnn"}}
    assert taken["settings"] == {"componentInputParameter": "pipelinechannel--scratch_settings"}
    assert taken["recipe"] == {"runtimeValue": {"constant": "scratch"}}
    assert not taken.keys() & {"pretrained", "fallback", "resume"}


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        found = interfaces({name: compiled(Path(scratch), name) for name in TASKS})
        GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
