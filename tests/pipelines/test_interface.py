"""The interface of every component and of the pipelines: names, types and defaults are a promise to saved runs.

After a change that is meant: `python -m tests.pipelines.test_interface` writes interface.json anew.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeface.plan.parameters import defaults, parameters_of
from kubeface.runtime.errors import KubefaceError
from pipelines.build.catalogue import FACE_FINETUNING, IMAGE_CLASSIFICATION, LOW_RESOLUTION, TASKS, load
from pipelines.build.compile import compile_pipeline

GOLDEN = Path(__file__).with_name("interface.json")
UNCACHED = {"plan", "report", "notify"}
AFTER_THE_LOOP = ["gather", "audit", "split", "finetune", "evaluate", "promote", "report", "notify"]


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


def test_the_parameters_are_those_that_plan_checks(spec: dict[str, Any]) -> None:
    name = spec["pipelineInfo"]["name"]
    ports = interface(spec)[name]["inputs"]["parameters"]
    kind = parameters_of(name)
    assert len(ports) <= 18
    assert sorted(ports) == sorted(kind.model_fields)
    assert {port: entry["default"] for port, entry in ports.items() if "default" in entry} == defaults(kind)
    assert [port for port, entry in ports.items() if "default" not in entry] == ["models", "source"]
    described = spec["pipelineInfo"]["description"]
    assert [port for port in ports if f"\n{port}: " not in described] == []


def test_a_run_is_linear(spec: dict[str, Any]) -> None:
    """One loop inside the steps, and no branch: every task can be seen two clicks below the run."""
    name = spec["pipelineInfo"]["name"]
    dags = {part for part, entry in spec["components"].items() if "dag" in entry}
    assert dags == {f"comp-{name}-steps", "comp-for-loop-1"}
    assert "triggerPolicy:\n        condition" not in yaml.safe_dump(spec) and "oneof" not in json.dumps(spec).lower()
    tasks = [re.sub(r"-(attributes|classes|2)$", "", task) for task in tasks_of(spec)]
    loop = {"ingest", "superresolve", "align", "filter-faces"}
    assert set(tasks) - loop == {"plan", *AFTER_THE_LOOP}
    assert len([task for task in tasks if task not in loop]) <= 9 + (name == IMAGE_CLASSIFICATION)


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
            "resourceCount": "{{$.inputs.parameters['pipelinechannel--plan-gpus']}}",
            "resourceType": "{{$.inputs.parameters['pipelinechannel--plan-gpu_type']}}",
        }


def test_each_step_has_its_image_resources_retries_and_cache(spec: dict[str, Any]) -> None:
    executors = spec["deploymentSpec"]["executors"]
    for name, executor in executors.items():
        others = {
            "filter-faces": "filter",
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
        assert cached == (name not in UNCACHED), name


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
        f"plan ingest gather audit promote report {own}",
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


def test_a_scratch_network_has_options_of_its_own(specs: dict[str, dict[str, Any]]) -> None:
    tasks = tasks_of(specs[IMAGE_CLASSIFICATION])
    taken = tasks["finetune-2"]["inputs"]["parameters"]
    assert tasks["finetune-2"]["taskInfo"]["name"] == "scratch"
    assert "finetune" in tasks["finetune-2"]["dependentTasks"]  # one GPU is enough
    assert taken["options"] == {"taskOutputParameter": {"outputParameterKey": "scratch", "producerTask": "plan"}}
    assert not taken.keys() & {"champion", "decision"}


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        found = interfaces({name: compiled(Path(scratch), name) for name in TASKS})
        GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
