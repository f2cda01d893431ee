"""What the compiled pipeline asks of a cluster."""

import json
import re
from pathlib import Path

import pytest
from kfp import compiler, dsl

from tests.support.compiled import Compiled, Json, documents

IMAGE = "localhost/none"
POD_OF = {"align": "shard", "filter": "shard", "audit": "audit", "evaluate": "evaluate", "finetune": "finetune"}


def unknown_inputs(spec: Json) -> list[str]:
    """Inputs of tasks that come from nowhere: what their DAG is not given, and what a text or a pod's resources name
    and the task is not given."""
    found = []
    executors = spec["deploymentSpec"]["executors"]
    for name, part in {**spec["components"], "root": spec["root"]}.items():
        given = part.get("inputDefinitions", {})
        known = {*given.get("parameters", {}), *given.get("artifacts", {})}
        for task, entry in part.get("dag", {}).get("tasks", {}).items():
            taken = entry.get("inputs", {}).get("parameters", {}) | entry.get("inputs", {}).get("artifacts", {})
            for key, value in taken.items():
                wanted = value.get("componentInputParameter") or value.get("componentInputArtifact")
                if wanted and wanted not in known:
                    found.append(f"{name}.{task}.{key}: {wanted}")
            label = spec["components"][entry["componentRef"]["name"]].get("executorLabel", "")
            resources = executors[label]["container"].get("resources", {}) if label else {}
            constants = [value.get("runtimeValue", {}).get("constant", "") for value in taken.values()]
            named = re.findall(r"inputs\.parameters\['([^']+)'\]", json.dumps([resources, constants]))
            found += [f"{name}.{task}: {one}" for one in named if one not in taken]
    return found


def test_every_input_comes_from_somewhere(compiled: Compiled) -> None:
    """KFP's compiler (2.17.0) leaves some open: resources in a loop, texts of a loop's item in a handler."""
    assert unknown_inputs(compiled.spec) == []


def test_that_check_finds_what_the_compiler_leaves_open(tmp_path: Path) -> None:
    @dsl.component(base_image=IMAGE)
    def work(text: str) -> None: ...

    @dsl.pipeline
    def resources(memory: str = "1Gi") -> None:
        with dsl.ParallelFor(listed().output) as one:
            work(text=one).set_memory_limit(memory)

    @dsl.pipeline
    def handler(items: list[str] = ["a"]) -> None:  # noqa: B006
        with dsl.ExitHandler(work(text="end")), dsl.ParallelFor(items) as one:
            work(text=f"item {one}")

    for open_one, name in ((resources, "memory"), (handler, "items-loop-item")):
        compiler.Compiler().compile(open_one, str(tmp_path / "open.yaml"))
        found = unknown_inputs(documents(tmp_path / "open.yaml").spec)
        assert [one for one in found if one.endswith(name)], found


@pytest.mark.parametrize("step", POD_OF)
def test_resources_are_those_that_plan_gives(compiled: Compiled, step: str) -> None:
    """As texts: KFP's driver takes the text of such a parameter, and a number has none."""
    resources = next(e["resources"] for name, e in compiled.executors.items() if name.startswith(f"exec-{step}"))
    outputs = compiled.spec["components"]["comp-plan"]["outputDefinitions"]["parameters"]
    amounts = {"CpuLimit": "cpu", "CpuRequest": "cpu_request", "MemoryLimit": "memory", "MemoryRequest": "memory"}
    for field, amount in amounts.items():
        name = f"{POD_OF[step]}_{amount}"
        assert outputs[name]["parameterType"] == "STRING"
        assert resources[f"resource{field}"] == f"{{{{$.inputs.parameters['pipelinechannel--plan-{name}']}}}}"
    assert outputs["gpus"]["parameterType"] == outputs["gpu_type"]["parameterType"] == "STRING"


def test_fine_tuning_goes_to_the_nodes_that_are_asked_for(compiled: Compiled) -> None:
    executors = compiled.settings
    trainings = [name for name in executors if name.startswith("exec-finetune")]
    assert [name for name, entry in executors.items() if "nodeSelector" in entry] == trainings != []

    def planned(output: str) -> Json:
        return {"taskOutputParameter": {"outputParameterKey": output, "producerTask": "plan"}}

    for tuned in (executors[name] for name in trainings):
        assert tuned["nodeSelector"]["nodeSelectorJson"] == planned("node_selector")
        assert tuned["tolerations"] == [{"tolerationJson": planned("tolerations")}]
        assert tuned["emptyDirMounts"][0]["mountPath"] == "/dev/shm"  # noqa: S108


def test_every_pod_knows_the_deployments_settings(compiled: Compiled) -> None:
    for name, entry in compiled.settings.items():
        found = {key["envVar"] for settings in entry["configMapAsEnv"] for key in settings["keyToEnv"]}
        deployed = {"RESOURCES_SIZE", "GPU_NODE_SELECTOR", "GPU_TOLERATIONS"} if name == "exec-plan" else set()
        assert found == {"S3_ENDPOINT", "KUBEFACE_WEIGHTS_MIRROR"} | deployed, name
        assert all(settings["optional"] for settings in entry["configMapAsEnv"])


def test_pods_and_run_have_a_time_limit_and_a_run_is_kept_two_weeks(compiled: Compiled) -> None:
    limits = {
        name.removeprefix("exec-"): int(entry.get("activeDeadlineSeconds", 0)) / 3600
        for name, entry in compiled.settings.items()
    }
    assert limits.keys() == {name.removeprefix("exec-") for name in compiled.executors}
    assert limits["finetune"] == 48 and limits["align"] == 6 and all(0.25 <= hours <= 48 for hours in limits.values())
    week = 7 * 24 * 3600
    kept = {"resourceTtlOnSuccess": 2 * week, "resourceTtlOnFailure": 2 * week}
    assert compiled.kubernetes["pipelineConfig"] == kept | {"activeDeadlineSeconds": week}


def test_what_tells_the_end_hangs_on_the_steps_alone(compiled: Compiled) -> None:
    """KFP hooks it on each task that it depends on (argocompiler/dag.go), so there must be one, and no loop."""
    tasks, steps = compiled.spec["root"]["dag"]["tasks"], f"{compiled.name}-steps"
    told = tasks["notify"]
    assert told["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert told["dependentTasks"] == [steps] == [name for name in tasks if name != "notify"]
    assert "parameterIterator" not in tasks[steps]
    assert not any("taskOutputParameter" in value for value in told["inputs"]["parameters"].values())


@dsl.component(base_image=IMAGE)
def listed() -> list[str]:
    """A step whose result a loop goes over."""
    return ["a", "b"]
