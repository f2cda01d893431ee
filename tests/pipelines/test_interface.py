"""The interface of every component and of the pipelines: names, types and defaults are a promise to saved runs.

After a change that is meant: `python -m tests.pipelines.test_interface` writes interface.json anew.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from kubeface.plan.parameters import defaults, parameters_of
from kubeface.runtime.errors import KubefaceError
from pipelines.build.catalogue import IMAGE_CLASSIFICATION, LOW_RESOLUTION, TASKS
from pipelines.build.compile import compile_pipeline
from pipelines.tasks import Build
from tests.support.compiled import Compiled, Json, documents

GOLDEN = Path(__file__).with_name("interface.json")
UNCACHED = {"plan", "report", "notify"}
AFTER_THE_LOOP = ["gather", "audit", "split", "finetune", "evaluate", "promote", "report", "notify"]
# Steps of tasks that are called otherwise than their step.
STEP_OF = {
    "filter-faces": "filter",
    "evaluate-attributes": "evaluate",
    "evaluate-classes": "evaluate",
    "finetune-2": "finetune",
}


def interface(spec: Json) -> Json:
    """Inputs and outputs by component, the pipeline under its own name."""

    def ports(definitions: Json) -> Json:
        artifacts = {k: v["artifactType"]["schemaTitle"] for k, v in definitions.get("artifacts", {}).items()}
        parameters = {
            k: {"type": v["parameterType"]} | ({"default": v["defaultValue"]} if "defaultValue" in v else {})
            for k, v in definitions.get("parameters", {}).items()
        }
        return {"artifacts": artifacts, "parameters": parameters}

    parts = {name.removeprefix("comp-"): part for name, part in spec["components"].items()}
    parts[spec["pipelineInfo"]["name"]] = spec["root"]
    return {
        name: {side: ports(part.get(f"{side[:-1]}Definitions", {})) for side in ("inputs", "outputs")}
        for name, part in sorted(parts.items())
    }


def loop_of(spec: Json) -> Json:
    dags = [part["dag"] for part in spec["components"].values() if "dag" in part]
    (loop,) = (task for dag in dags for task in dag["tasks"].values() if "parameterIterator" in task)
    return dict(loop)


def interfaces(pipelines: Mapping[str, Compiled]) -> Json:
    """Those of all pipelines and of their components, which are the same wherever they are used."""
    found: Json = {}
    for pipeline, compiled in pipelines.items():
        for name, ports in interface(compiled.spec).items():
            key = f"{pipeline}/{name}" if re.fullmatch(r"(condition|for-loop).*", name) else name
            assert found.setdefault(key, ports) == ports, key
    return found


def test_interfaces_are_the_pinned_ones(all_compiled: dict[str, Compiled]) -> None:
    assert interfaces(all_compiled) == json.loads(GOLDEN.read_text("utf-8"))


def test_the_parameters_are_those_that_plan_checks(compiled: Compiled) -> None:
    name = compiled.name
    ports = interface(compiled.spec)[name]["inputs"]["parameters"]
    kind = parameters_of(name)
    assert len(ports) <= 18
    assert sorted(ports) == sorted(kind.model_fields)
    assert {port: entry["default"] for port, entry in ports.items() if "default" in entry} == defaults(kind)
    assert [port for port, entry in ports.items() if "default" not in entry] == ["models", "source"]
    described = compiled.spec["pipelineInfo"]["description"]
    assert [port for port in ports if f"\n{port}: " not in described] == []


def test_a_run_is_linear(compiled: Compiled) -> None:
    """One loop inside the steps, and no branch: every task can be seen two clicks below the run."""
    spec, name = compiled.spec, compiled.name
    dags = {part for part, entry in spec["components"].items() if "dag" in entry}
    assert dags == {f"comp-{name}-steps", "comp-for-loop-1"}
    text = json.dumps(spec).lower()
    assert '"triggerpolicy": {"condition"' not in text and "oneof" not in text
    tasks = [re.sub(r"-(attributes|classes|2)$", "", task) for task in compiled.tasks()]
    loop = {"ingest", "superresolve", "align", "filter-faces"}
    assert set(tasks) - loop == {"plan", *AFTER_THE_LOOP}
    assert len([task for task in tasks if task not in loop]) <= 9 + (name == IMAGE_CLASSIFICATION)


def test_every_pipeline_parameter_is_used(compiled: Compiled) -> None:
    spec = compiled.spec
    text = json.dumps([part["dag"] for part in (spec["root"], *spec["components"].values()) if "dag" in part])
    taken = re.findall(r'"componentInputParameter": "(?:pipelinechannel--)?(\w+)"', text)
    assert set(spec["root"]["inputDefinitions"]["parameters"]) <= set(taken)


def test_a_gpu_is_asked_for_by_finetune_alone(compiled: Compiled) -> None:
    gpus = {n: e["resources"]["accelerator"] for n, e in compiled.executors.items() if "accelerator" in e["resources"]}
    assert gpus.keys() == {"exec-finetune", *(["exec-finetune-2"] if compiled.name == IMAGE_CLASSIFICATION else [])}
    for accelerator in gpus.values():
        assert accelerator == {
            "resourceCount": "{{$.inputs.parameters['pipelinechannel--plan-gpus']}}",
            "resourceType": "{{$.inputs.parameters['pipelinechannel--plan-gpu_type']}}",
        }


def test_each_step_has_its_image_resources_retries_and_cache(compiled: Compiled) -> None:
    asked = {f"resource{what}{kind}" for what in ("Cpu", "Memory") for kind in ("Limit", "Request")}
    for executor, container in compiled.executors.items():
        name = executor.removeprefix("exec-")
        step = STEP_OF.get(name, name)
        assert container["image"] == f"localhost/kubeface/{step}:0.1.0"
        # Its name and no source: a run's Workflow keeps nine copies of what a pod is told.
        assert container["command"] == ["python3", "-m", "components", "kfp.dsl.executor_main", step]
        assert asked <= container["resources"].keys()
    for name, task in compiled.tasks().items():
        assert task["retryPolicy"]["maxRetryCount"] == 2, name
        assert task["cachingOptions"].get("enableCache", False) == (name not in UNCACHED), name


@pytest.mark.parametrize(
    ("pipeline", "own"),
    [
        ("face-finetuning", "finetune evaluate"),
        ("face-attributes", "finetune evaluate-attributes"),
        ("image-classification", "finetune finetune-2 evaluate-classes"),
        ("low-resolution", "superresolve finetune evaluate"),
    ],
)
def test_secrets_are_referred_to_and_never_written(all_compiled: dict[str, Compiled], pipeline: str, own: str) -> None:
    referred = {
        name: [(secret["secretName"], secret["optional"]) for secret in entry["secretAsEnv"]]
        for name, entry in all_compiled[pipeline].settings.items()
        if "secretAsEnv" in entry
    }
    store = ("mlpipeline-minio-artifact", False)
    steps = f"plan ingest gather audit promote report {own}".split()
    assert referred == {f"exec-{step}": [store] for step in steps} | {
        "exec-notify": [store, ("kubeface-webhook", True)]
    }


def test_shards_run_side_by_side_as_many_as_asked_for(compiled: Compiled, tmp_path: Path) -> None:
    assert loop_of(compiled.spec)["iteratorPolicy"] == {"parallelismLimit": 8}
    loop = compiled.spec["components"][loop_of(compiled.spec)["componentRef"]["name"]]
    enlarged = {"superresolve"} if compiled.name == LOW_RESOLUTION else set()
    assert set(loop["dag"]["tasks"]) == {"ingest", "align", "filter-faces"} | enlarged
    compile_pipeline(tmp_path / "pipeline.yaml", build=Build(50), pipeline=compiled.name)
    assert loop_of(documents(tmp_path / "pipeline.yaml").spec)["iteratorPolicy"] == {"parallelismLimit": 50}
    with pytest.raises(KubefaceError, match="parallelism is 0"):
        compile_pipeline(tmp_path / "none.yaml", build=Build(0))
    assert not (tmp_path / "none.yaml").exists()


def test_registry_and_tag_reach_every_image(tmp_path: Path) -> None:
    compile_pipeline(tmp_path / "pipeline.yaml", "registry.example:5000/team", "abc123")
    images = {container["image"] for container in documents(tmp_path / "pipeline.yaml").executors.values()}
    assert "registry.example:5000/team/finetune:abc123" in images
    assert all(image.startswith("registry.example:5000/team/") and image.endswith(":abc123") for image in images)


@pytest.mark.parametrize("name", TASKS)
def test_the_compiled_file_is_the_same_every_time(packages: dict[str, Path], tmp_path: Path, name: str) -> None:
    compile_pipeline(tmp_path / "again.yaml", pipeline=name)
    assert (tmp_path / "again.yaml").read_bytes() == packages[name].read_bytes()


def test_a_scratch_network_has_options_of_its_own(all_compiled: dict[str, Compiled]) -> None:
    scratch = all_compiled[IMAGE_CLASSIFICATION].tasks()["finetune-2"]
    taken = scratch["inputs"]["parameters"]
    assert scratch["taskInfo"]["name"] == "scratch"
    assert "finetune" in scratch["dependentTasks"]  # one GPU is enough
    assert taken["options"] == {"taskOutputParameter": {"outputParameterKey": "scratch", "producerTask": "plan"}}
    assert not taken.keys() & {"champion", "decision"}


if __name__ == "__main__":
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in TASKS:
            package = Path(scratch, f"{name}.yaml")
            compile_pipeline(package, pipeline=name)
            found[name] = documents(package)
    GOLDEN.write_text(json.dumps(interfaces(found), indent=1, sort_keys=True) + "\n", "utf-8")
