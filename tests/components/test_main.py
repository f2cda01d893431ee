"""A task as its pod runs it: KFP's executor finds the component's function in the image."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from components.notify.component import notify
from components.plan.component import plan

ROOT = Path(__file__).resolve().parents[2]


def run(component: Any, folder: Path, parameters: dict[str, Any], outputs: dict[str, Any]) -> str:
    """Runs the command that a component's pod gets, in a folder of its own; returns what it prints."""
    container = component.component_spec.implementation.container
    outputs |= {"outputFile": str(folder / "out" / "metadata.json")}
    told = json.dumps({"inputs": {"parameterValues": parameters}, "outputs": outputs})
    words = [told if word == "{{$}}" else word for word in (*container.command, *container.args)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_task_runs_the_function_of_its_name(tmp_path: Path) -> None:
    given = {"options": {}, "models": str(tmp_path), "name": "door", "run": "1-a", "title": "weekly"}
    assert "notify: door: run weekly failed." in run(notify, tmp_path, given, {})


def test_several_outputs_are_written_by_name(tmp_path: Path, orl_folder: Path) -> None:
    names = ("ingest", "align", "filter", "audit", "split", "finetune", "evaluate", "promote", "notify", "resources")
    given = {"pipeline": "face-finetuning", "source": str(orl_folder), "models": str(tmp_path), "name": "door"}
    given |= {"backbone": "sface", "degradation": "none", "recipe": ""}
    names_of_outputs = plan.component_spec.outputs
    outputs = {"parameters": {name: {"outputFile": str(tmp_path / name)} for name in names_of_outputs}}
    run(plan, tmp_path, given | {"seed": 3} | {name: {} for name in names}, outputs)
    values = json.loads((tmp_path / "out" / "metadata.json").read_text())["parameterValues"]
    assert values.keys() == names_of_outputs.keys()
    assert values["align"]["detector"] == "mtcnn" and values["split"]["seed"] == 3 and len(values["Output"]) == 1
