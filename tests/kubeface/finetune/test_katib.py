"""Katib's experiment: what it varies are options, and the figure that it looks for is printed."""

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from kubeface.cli import COMMANDS, make_app
from kubeface.finetune.options import FinetuneOptions, with_recipe
from kubeface.finetune.result import FinetuneResult

EXPERIMENT = Path(__file__).resolve().parents[3] / "manifests" / "katib" / "experiment.yaml"


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    found = yaml.safe_load(EXPERIMENT.read_text("utf-8"))
    assert (found["apiVersion"], found["kind"]) == ("kubeflow.org/v1beta1", "Experiment")
    return dict(found["spec"])


def tried(parameter: dict[str, Any]) -> list[Any]:
    """The ends of a parameter's range, or all its values."""
    space, kind = parameter["feasibleSpace"], {"double": float, "int": int, "categorical": float}
    values = space.get("list") or [space["min"], space["max"]]
    assert all(isinstance(value, str) for value in values)  # the API takes texts
    return [kind[parameter["parameterType"]](value) for value in values]


def arguments(spec: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """The command's flags with values in the place of trial parameters."""
    references = {one["name"]: one["reference"] for one in spec["trialTemplate"]["trialParameters"]}
    (container,) = spec["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "kubeface", "finetune"]
    pattern = r"\$\{trialParameters\.(\w+)\}"
    return [re.sub(pattern, lambda found: str(values[references[found[1]]]), flag) for flag in container["args"]]


@pytest.mark.parametrize("end", [0, -1])
def test_both_ends_of_the_space_are_options_that_a_training_takes(spec: dict[str, Any], end: int) -> None:
    values = {parameter["name"]: tried(parameter)[end] for parameter in spec["parameters"]}
    assert values.keys() <= FinetuneOptions.model_fields.keys()
    app = make_app("finetune", COMMANDS["Steps"]["finetune"])
    _, bound, _ = app.parse_args(arguments(spec, values))
    given = bound.arguments
    chosen = with_recipe(given["options"])
    assert {name: getattr(chosen, name) for name in values} == pytest.approx(values)
    assert chosen.strategy == "partial" and not chosen.onnx
    assert (str(given["split"]), str(given["aligned"])) == ("SPLIT", "ALIGNED")


def test_every_parameter_is_used_once(spec: dict[str, Any]) -> None:
    names = [parameter["name"] for parameter in spec["parameters"]]
    assert sorted(one["reference"] for one in spec["trialTemplate"]["trialParameters"]) == sorted(names)
    used = re.findall(r"\$\{trialParameters\.(\w+)\}", json.dumps(spec["trialTemplate"]["trialSpec"]))
    assert sorted(used) == sorted(one["name"] for one in spec["trialTemplate"]["trialParameters"])


def test_the_figures_are_found_in_what_finetune_prints(spec: dict[str, Any]) -> None:
    wanted = [spec["objective"]["objectiveMetricName"], *spec["objective"]["additionalMetricNames"]]
    printed = json.dumps(dict.fromkeys(wanted, 0.5) | {"rows_in": 3}, indent=2, sort_keys=True)
    (pattern,) = spec["metricsCollectorSpec"]["source"]["filter"]["metricsFormat"]
    assert sorted(name for name, _ in re.findall(pattern, printed)) == sorted(wanted)
    assert set(wanted) <= FinetuneResult.model_fields.keys()


def test_a_trial_is_a_valid_job_that_keeps_the_rules(spec: dict[str, Any]) -> None:
    job = spec["trialTemplate"]["trialSpec"] | {"metadata": {"name": "trial"}}
    kubernetes_validate.validate(job, "1.30", strict=True)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == spec["trialTemplate"]["primaryContainerName"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
