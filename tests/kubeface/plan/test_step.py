"""Plan: what a run will do, known before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.plan.component import plan as component
from kubeface.finetune.options import FinetuneOptions, with_recipe
from kubeface.plan.step import outputs, plan
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import read_options


def test_a_plan_lists_shards_and_gives_every_step_its_options(orl_folder: Path, tmp_path: Path) -> None:
    values = {"source": str(orl_folder), "models": str(tmp_path / "models"), "resources": {"shards": 3}, "seed": 4}
    planned = plan("face-finetuning", values)
    assert [shard.split()[0] for shard in planned.shards] == ["0/3", "1/3", "2/3"]
    assert planned.champion == ""
    assert planned.options.split.seed == 4
    assert list(tmp_path.iterdir()) == []


def test_the_outputs_are_those_of_the_component(orl_folder: Path, tmp_path: Path) -> None:
    values = {"source": str(orl_folder), "models": str(tmp_path / "models")}
    for pipeline in ("face-finetuning", "image-classification", "low-resolution"):
        found = outputs(plan(pipeline, values))
        assert sorted(found) == sorted(component.component_spec.outputs)
        json.dumps(found, allow_nan=False)
        assert bool(found["superresolve"]) is (pipeline == "low-resolution")
        assert bool(found["scratch"]) is (pipeline == "image-classification")


def test_a_training_gets_the_options_that_the_plan_says(orl_folder: Path, tmp_path: Path) -> None:
    values = {"source": str(orl_folder), "models": str(tmp_path), "finetune": {"strategy": "full", "num_layers": 0}}
    planned = plan("image-classification", values)
    handed = json.loads(json.dumps(outputs(planned)["finetune"]))
    assert handed["num_layers"] == 0  # the default, over the recipe's 10
    assert with_recipe(read_options(FinetuneOptions, handed)) == planned.options.finetune


def test_all_that_is_wrong_is_said_before_the_source_is_listed() -> None:
    values = {"source": "s3://nowhere/faces", "models": "m", "align": {"detector": "yolo"}, "seed": -1}
    with pytest.raises(KubefaceError, match=r"audit\.seed is the run's own.*; seed is -1.*; align\.detector is 'yolo'"):
        plan("face-finetuning", values | {"audit": {"seed": 3}})
    with pytest.raises(KubefaceError, match="degradation 'nois:60' is unknown"):
        plan("face-finetuning", {"source": "s3://nowhere/faces", "models": "m", "degradation": "nois:60"})


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="nobody"):
        plan("face-finetuning", {"source": str(tmp_path / "nobody"), "models": str(tmp_path)})


def test_pods_get_what_run_or_deployment_say(orl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(**resources: Any) -> dict[str, str]:
        values = {"source": str(orl_folder), "models": str(tmp_path), "resources": resources}
        return outputs(plan("face-finetuning", values))

    standard = planned()
    assert (standard["evaluate_cpu"], standard["evaluate_cpu_request"], standard["gpus"]) == ("4", "4", "1")
    monkeypatch.setenv("RESOURCES_SIZE", "small")
    small = planned()
    assert (small["evaluate_cpu"], small["evaluate_cpu_request"], small["gpus"]) == ("4", "1", "0")
    assert planned(size="standard") == standard
    own = planned(shard={"cpu": "3"}, audit={"memory": "5Gi"}, finetune={"gpus": 2})
    assert (own["shard_cpu"], own["shard_cpu_request"], own["shard_memory"]) == ("3", "3", small["shard_memory"])
    assert (own["audit_cpu"], own["audit_memory"], own["gpus"]) == (small["audit_cpu"], "5Gi", "2")
    monkeypatch.setenv("RESOURCES_SIZE", "huge")
    with pytest.raises(KubefaceError, match="RESOURCES_SIZE is 'huge': correct it in the config map kubeface-settings"):
        planned()


def test_gpu_nodes_are_the_deployments_unless_the_run_names_some(
    orl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU_NODE_SELECTOR", '{"pool": "gpu"}')
    monkeypatch.setenv("GPU_TOLERATIONS", '[{"key": "nvidia.com/gpu", "operator": "Exists"}]')
    values = {"source": str(orl_folder), "models": str(tmp_path)}

    def pod(**finetune: object) -> tuple[object, object]:
        found = outputs(plan("face-finetuning", values | {"resources": {"finetune": finetune}}))
        return found["node_selector"], found["tolerations"]

    assert pod() == ({"pool": "gpu"}, [{"key": "nvidia.com/gpu", "operator": "Exists"}])
    assert pod(node_selector={"zone": "a"}, tolerations=[{"key": "b"}]) == ({"zone": "a"}, [{"key": "b"}])
    assert pod(gpus=0) == ({}, [])  # it can run anywhere
    monkeypatch.setenv("GPU_NODE_SELECTOR", "pool=gpu")
    with pytest.raises(KubefaceError, match="GPU_NODE_SELECTOR is not JSON: correct it in the config map"):
        pod()
