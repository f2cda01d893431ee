"""What a run would do and cost: followed through the compiled pipeline, the source really listed."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from kubeface.cli import main
from pipelines.cluster import plan as module
from pipelines.cluster.parameters import with_defaults
from pipelines.cluster.plan import CHAMPION, SOURCE, Earlier, Listed, estimate, fresh_tasks, gpus, list_source
from pipelines.cluster.runs import containers
from pipelines.cluster.versions import Spec, read_package
from tests.support.stubs.kfp_api import KfpApi, step

pytestmark = pytest.mark.usefixtures("bare_deployment")
GOOD: dict[str, Any] = {"source": "s3://faces/staff", "models": "s3://faces/models", "resources": {"shards": 2}}
SHARD_STEPS = {"ingest", "align", "filter-faces"}


@pytest.fixture(scope="module")
def spec(package: Path) -> Spec:
    return read_package(package).spec


def runs(spec: Spec, *changed: str, states: set[str] | None = None) -> set[str]:
    return set(fresh_tasks(spec, set(changed), states or set()))


def test_where_nothing_has_changed_the_cache_serves_all_but_those_that_ask(spec: Spec) -> None:
    assert {"plan", "champion"} <= runs(spec)
    assert not runs(spec) & {*SHARD_STEPS, "gather", "audit", "split", "finetune", "evaluate", "promote", "report"}


def test_a_setting_of_the_training_has_that_and_what_follows_run(spec: Spec) -> None:
    found = runs(spec, "backbone")
    assert {"finetune", "evaluate", "promote", "report"} <= found
    assert not found & {*SHARD_STEPS, "gather", "audit", "split"}


def test_a_setting_of_the_filter_leaves_ingest_and_align_alone(spec: Spec) -> None:
    found = runs(spec, "max_turn")
    assert {"filter-faces", "gather", "audit", "split", "finetune", "evaluate", "promote", "report"} <= found
    assert not found & {"ingest", "align"}


def test_new_images_have_all_of_it_run_and_say_so(spec: Spec) -> None:
    found = fresh_tasks(spec, set(), {SOURCE})
    assert {*SHARD_STEPS, "gather", "finetune"} <= set(found)
    assert found["ingest"] == {SOURCE}
    assert fresh_tasks(spec, {"max_pixels"}, {SOURCE})["align"] == {SOURCE, "max_pixels"}


def test_another_champion_has_what_compares_with_it_run(spec: Spec) -> None:
    found = runs(spec, states={CHAMPION})
    assert {"evaluate", "promote", "report"} <= found
    assert not found & {"gather", *SHARD_STEPS}


def test_a_parameter_inside_a_text_counts(spec: Spec) -> None:
    assert {"gather", "audit"} <= runs(spec, "name")  # models/name/data.json


def test_the_gpu_is_the_trainings(spec: Spec) -> None:
    values = with_defaults(GOOD, spec)
    asked = {name: gpus(spec, name, values) for name in containers(spec)}
    assert {name: count for name, count in asked.items() if count} == {"finetune": 1}
    assert gpus(spec, "finetune", values | {"finetune_gpus": "4"}) == 4
    nodes = {"finetune_gpus": "0", "num_nodes": 3, "node_resources": {"nvidia.com/gpu": "2"}}
    assert gpus(spec, "finetune", values | nodes) == 6


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for person in ("anna", "ben", "carla", "dora", "emil", "fritz"):
        folder = tmp_path / "people" / person
        folder.mkdir(parents=True)
        for n in range(2):
            Image.new("RGB", (8, 8)).save(folder / f"{n}.png")
    return tmp_path / "people"


def test_the_source_is_listed_and_held_against_the_training_before(spec: Spec, people: Path, tmp_path: Path) -> None:
    values = with_defaults(GOOD | {"source": str(people), "models": str(tmp_path / "models"), "name": "m"}, spec)
    first = list_source(values)
    assert (first.files, first.shards, first.fresh, first.images) == (12, 2, 2, 12)
    assert "no training before" in first.note
    shards = module.plan_shards(str(people), 2).shards
    held = {text.partition(" ")[0]: text.partition(" ")[2] for text in shards}
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "data.json").write_text(json.dumps({"shards": held}))
    assert list_source(values).fresh == 0
    Image.new("RGB", (9, 9)).save(people / "anna" / "new.png")
    later = list_source(values)
    assert (later.files, later.fresh) == (13, 1)
    assert later.images == 6


def test_a_source_that_is_not_reached_is_said_and_counts_as_new(spec: Spec, tmp_path: Path) -> None:
    listed = list_source(with_defaults(GOOD | {"source": str(tmp_path / "none"), "models": str(tmp_path)}, spec))
    assert listed.files is None
    assert "none" in listed.note


def test_times_come_from_the_newest_run_that_the_step_ran_in(spec: Spec) -> None:
    class Taken:
        def __init__(self, name: str, seconds: float) -> None:
            self.name, self.seconds = name, seconds

    newest, older = [Taken("align", 100.0), Taken("align", 300.0)], [Taken("align", 9.0), Taken("finetune", 3600.0)]
    earlier = Earlier(None, [newest, older])  # type: ignore[list-item]
    assert earlier.seconds("align") == 200
    assert earlier.seconds("split") is None
    plan = estimate(spec, with_defaults(GOOD, spec), earlier, Listed(100, 20, 20))
    rows = {row[0]: row for row in plan.rows}
    assert rows["align"][3] == "10 min"  # three turns of eight shards
    assert rows["finetune"][3:] == ("60 min", "1.00")
    assert plan.gpu_hours == 1
    assert {"ingest", "split"} <= set(plan.unknown)
    assert "keep" not in rows


@pytest.fixture
def told(
    package: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """What `make plan` prints, told of a stub."""
    parameters = tmp_path / "p.yaml"
    good = GOOD | {"source": str(people), "models": str(tmp_path / "models")}

    def call(api: KfpApi, **more: Any) -> str:
        parameters.write_text(yaml.safe_dump(good | more))
        monkeypatch.setenv("KFP_HOST", api.url)
        main(["plan", "--params", str(parameters), "--package", str(package)])
        return capsys.readouterr().out

    call.good = good  # type: ignore[attr-defined]
    return call


def test_without_an_earlier_run_that_is_said(told: Any) -> None:
    with KfpApi() as api:
        text = told(api)
        assert api.state.writes() == []
    assert "earlier run: none of this version of the pipeline succeeded" in text
    assert "nothing to tell times from" in text
    assert "about 12 of 12" in text


def test_the_plan_of_a_second_run(told: Any, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with KfpApi() as api:
        monkeypatch.setenv("KFP_HOST", api.url)
        (tmp_path / "first.yaml").write_text(yaml.safe_dump(told.good))
        main(["submit", "--params", str(tmp_path / "first.yaml"), "--package", str(package)])
        run = api.state.runs[0]["run_id"]
        api.finish(run, *step("plan", 10), *step("gather", 60), *step("finetune", 7200), *step("evaluate", 600))
        sent = len(api.state.writes())
        text = told(api, backbone="iresnet50")
        assert len(api.state.writes()) == sent
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line.strip()}
    assert f"({run}), same version of the pipeline" in text
    assert rows["finetune"].endswith("2 h 00 min 2.00")
    assert "backbone" in rows["finetune"]
    assert "runs the promoted model" in rows["champion"]
    assert "2.00 GPU-hours" in text
    assert "not in it, for they have not been run yet" in text
