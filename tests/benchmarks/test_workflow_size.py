"""The Workflow of a finished run stays as small as it is: whoever adds an artifact, an output or a line sees it."""

from copy import deepcopy
from dataclasses import replace

import pytest

from benchmarks.workflow_size import BUDGETS, Workflow, workflow
from pipelines.build.catalogue import FACE_FINETUNING


@pytest.fixture(scope="module")
def one() -> Workflow:
    """A run of face-finetuning on one shard."""
    return workflow()


@pytest.mark.parametrize("shards", BUDGETS)
def test_a_run_keeps_within_its_budget(one: Workflow, shards: int) -> None:
    sizes = replace(one, shards=shards).sizes()
    assert sum(sizes.values()) <= BUDGETS[shards], sizes
    assert sum(sizes.values()) > 0.8 * BUDGETS[shards], "lower the budget"


def test_what_a_task_is_told_is_kept_nine_times(one: Workflow) -> None:
    """Six pod-spec-patches, two nodes of the driver, and once in the spec."""
    longer = deepcopy(one.spec)
    longer["deploymentSpec"]["executors"]["exec-split"]["container"]["command"].append("x" * 100)
    before, after = one.sizes(), replace(one, spec=longer).sizes()
    assert 6 * 100 + 2 * 100 <= after["split"] - before["split"] <= 8 * 120
    assert 100 <= after["spec"] - before["spec"] <= 120
    assert {name for name in before if before[name] != after[name]} == {"split", "spec"}


def test_shards_repeat_the_loop_and_a_cache_saves_the_patches(one: Workflow) -> None:
    before, more = one.sizes(), replace(one, shards=3).sizes()
    assert [more[name] / before[name] for name in ("ingest", "align", "filter-faces")] == [3, 3, 3]
    assert more["split"] == before["split"] and more["spec"] == before["spec"]
    assert replace(one, cached={"split"}).sizes()["split"] < before["split"] / 4
    assert one.spec["pipelineInfo"]["name"] == FACE_FINETUNING
