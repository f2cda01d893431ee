"""What a run would do and cost: followed through the compiled pipeline, the source really listed."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from kubeface.ingest.step import plan_shards
from kubeface.plan.parameters import read_parameters
from kubeface.plan.resources import Resources
from pipelines.cluster.cache import uncached_tasks
from pipelines.cluster.plan import (
    CHAMPION,
    PLAN,
    SHARDS,
    THE_CHAMPION,
    THE_SOURCE,
    EarlierRuns,
    Source,
    forecast,
    gpus,
    list_source,
    planned_changes,
)
from pipelines.cluster.request import Request
from pipelines.cluster.runs import Step
from pipelines.cluster.versions import Package, read_package
from tests.support.commands import GOOD, Told
from tests.support.stubs.kfp_api import KfpApi, step

pytestmark = pytest.mark.usefixtures("bare_deployment")
PIPELINE = "face-finetuning"
PARAMETERS = GOOD | {"resources": {"shards": 2}}
SHARD_STEPS = {"ingest", "align", "filter-faces"}
BEFORE_TRAINING = {*SHARD_STEPS, "gather", "audit", "split"}
FROM_TRAINING = {"finetune", "evaluate", "promote", "report"}


@pytest.fixture(scope="module")
def compiled(package: Path) -> Package:
    return read_package(package)


def uncached(compiled: Package, *direct: str, planned: dict[str, str] | None = None, **values: Any) -> dict[str, Any]:
    """The tasks that run, where some values of the run differ; `planned` are outputs of plan and what changed them."""
    before, now = (read_parameters(PIPELINE, given) for given in (PARAMETERS, PARAMETERS | values))
    outputs = planned_changes(PIPELINE, before, now) | {key: frozenset({why}) for key, why in (planned or {}).items()}
    return uncached_tasks(compiled.spec, {name: frozenset({name}) for name in direct}, {PLAN: outputs})


def test_where_nothing_has_changed_the_cache_serves_all_but_what_is_never_cached(compiled: Package) -> None:
    assert uncached(compiled) == dict.fromkeys(["plan", "report", "notify"], frozenset())


# Values that differ, outputs of plan that do, causes by task, tasks that run, and tasks that do not.
CHANGES: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, set[str]], set[str], set[str]]] = {
    "training": ({"backbone": "iresnet50"}, {}, {"finetune": {"finetune.backbone"}}, FROM_TRAINING, BEFORE_TRAINING),
    "epochs": ({"finetune": {"epochs": 3}}, {}, {"finetune": {"finetune.epochs"}}, FROM_TRAINING, BEFORE_TRAINING),
    "filter": (
        {"filter": {"max_turn": 0.5}},
        {},
        {"gather": {"filter.max_turn"}},
        {"filter-faces", "gather", "audit", "split", *FROM_TRAINING},
        {"ingest", "align"},
    ),
    "amounts": (
        {"resources": {"shards": 2, "evaluate": {"memory": "16Gi", "cpu": "4"}}},
        {},
        {"evaluate": {"evaluate_memory"}},
        set(),
        {"finetune"},
    ),
    "images": ({}, {SHARDS: THE_SOURCE}, {"ingest": {THE_SOURCE}}, BEFORE_TRAINING | FROM_TRAINING, set()),
    "images and ingest": (
        {"ingest": {"max_pixels": 10**6}},
        {SHARDS: THE_SOURCE},
        {"align": {THE_SOURCE, "ingest.max_pixels"}},
        BEFORE_TRAINING | FROM_TRAINING,
        set(),
    ),
    "champion": ({}, {CHAMPION: THE_CHAMPION}, {}, {"evaluate", "promote", "report"}, BEFORE_TRAINING),
    "inside a text": ({"name": "door"}, {}, {}, {"gather", "audit"}, set()),  # models/name/data.json
}


@pytest.mark.parametrize(("values", "planned", "causes", "run", "served"), CHANGES.values(), ids=CHANGES)
def test_what_has_changed_runs_with_what_follows_and_says_why(
    compiled: Package,
    values: dict[str, Any],
    planned: dict[str, str],
    causes: dict[str, set[str]],
    run: set[str],
    served: set[str],
) -> None:
    found = uncached(compiled, planned=planned, **values)
    assert {task: found[task] for task in causes} == causes
    assert run <= found.keys() and not served & found.keys()


def test_the_seed_reaches_every_step_that_draws(compiled: Package) -> None:
    found = uncached(compiled, seed=3)
    assert found["split"] >= {"split.seed"}
    assert set(found) >= {"gather", "audit", "split", *FROM_TRAINING}


@pytest.mark.parametrize(
    ("resources", "count"),
    [
        ({}, 1),
        ({"finetune": {"gpus": 4}}, 4),
        ({"finetune": {"gpus": 0}, "nodes": {"num_nodes": 3, "resources": {"nvidia.com/gpu": "2"}}}, 6),
    ],
)
def test_the_gpus_are_the_trainings(resources: dict[str, Any], count: float) -> None:
    assert gpus(Resources.model_validate(resources)) == count


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for person in ("anna", "ben", "carla", "dora", "emil", "fritz"):
        folder = tmp_path / "people" / person
        folder.mkdir(parents=True)
        for n in range(2):
            Image.new("RGB", (8, 8)).save(folder / f"{n}.png")
    return tmp_path / "people"


def test_the_source_is_listed_and_compared_with_the_training_before(
    compiled: Package, people: Path, tmp_path: Path
) -> None:
    request = Request(compiled, PARAMETERS | {"source": str(people), "models": str(tmp_path / "models"), "name": "m"})
    first = list_source(request)
    assert (first.files, first.shards, first.changed, first.images) == (12, 2, 2, 12)
    assert "no training before" in first.note
    shards = plan_shards(str(people), 2).shards
    before = {text.partition(" ")[0]: text.partition(" ")[2] for text in shards}
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "data.json").write_text(json.dumps({"shards": before}))
    assert list_source(request).changed == 0
    Image.new("RGB", (9, 9)).save(people / "anna" / "new.png")
    later = list_source(request)
    assert (later.files, later.changed) == (13, 1)
    assert later.images == 6


def test_a_source_that_is_not_reached_is_said_and_counts_as_new(compiled: Package, tmp_path: Path) -> None:
    source = list_source(Request(compiled, PARAMETERS | {"source": str(tmp_path / "none"), "models": str(tmp_path)}))
    assert (source.files, source.changed) == (None, 1)
    assert "none" in source.note


def test_times_come_from_the_newest_run_that_the_step_ran_in(compiled: Package) -> None:
    def taken(name: str, seconds: float) -> Step:
        begun = datetime(2026, 1, 1, tzinfo=UTC)
        return Step(name, "SUCCEEDED", begun, begun + timedelta(seconds=seconds), (), "")

    newest, older = [taken("align", 100), taken("align", 300)], [taken("align", 9), taken("finetune", 3600)]
    earlier = EarlierRuns(None, [newest, older])
    assert earlier.seconds("align") == 200
    assert earlier.seconds("split") is None
    expected = forecast(Request(compiled, PARAMETERS), earlier, Source(100, 20, 20))
    rows = {row[0]: row for row in expected.rows}
    assert rows["align"][3] == "10 min"  # three turns of eight shards
    assert rows["finetune"][3:] == ("60 min", "1.00")
    assert expected.gpu_hours == 1
    assert {"ingest", "split"} <= set(expected.unknown)


@pytest.fixture
def said(told: Told, kfp: KfpApi, package: Path, people: Path, tmp_path: Path) -> Told:
    """What a command about a run of `people` prints, told of a stub."""

    def call(command: str, **more: Any) -> str:
        own = {"source": str(people), "models": str(tmp_path / "models")}
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(PARAMETERS | own | more))
        return told(command, "--params", tmp_path / "p.yaml", "--package", package)

    return call


def test_without_an_earlier_run_that_is_said(said: Told, kfp: KfpApi) -> None:
    text = said("plan")
    assert kfp.state.writes() == []
    assert "earlier run: none of this version of the pipeline succeeded" in text
    assert "nothing to tell times from" in text
    assert "about 12 of 12" in text


def test_the_plan_of_a_second_run(said: Told, kfp: KfpApi) -> None:
    said("submit")
    run = kfp.state.runs[0]["run_id"]
    kfp.finish(run, *step("plan", 10), *step("gather", 60), *step("finetune", 7200), *step("evaluate", 600))
    sent = len(kfp.state.writes())
    text = said("plan", backbone="iresnet50")
    assert len(kfp.state.writes()) == sent
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line.strip()}
    assert f"({run}), same version of the pipeline" in text
    assert rows["finetune"].endswith("2 h 00 min 2.00")
    assert "finetune.backbone" in rows["finetune"]
    assert "the promoted model" in rows["evaluate"]
    assert "2.00 GPU-hours" in text
    assert "not in it, for they have not been run yet" in text
