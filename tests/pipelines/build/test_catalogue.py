"""The pipelines by name."""

import pytest
from kfp import dsl

from kubeface.runtime.errors import KubefaceError
from pipelines.build.catalogue import BUILD, TASKS, load, package_of, restored


def test_each_is_found_by_its_name_and_has_a_file_of_its_own() -> None:
    assert [load(name).pipeline_spec.pipeline_info.name for name in TASKS] == list(TASKS)
    assert len({package_of(name) for name in TASKS}) == len(TASKS)
    assert package_of("face-finetuning") == BUILD / "face-finetuning.yaml"


@pytest.mark.parametrize("ask", [load, package_of])
def test_one_that_is_not_there_is_named(ask: object) -> None:
    with pytest.raises(KubefaceError, match="pipeline 'catalogue' is unknown: use one of face-finetuning, "):
        ask("catalogue")  # type: ignore[operator]


def test_what_is_done_to_one_is_undone() -> None:
    @dsl.component
    def work() -> None: ...

    @dsl.pipeline(name="small")
    def small() -> None:
        work()

    before = small.pipeline_spec.SerializeToString(deterministic=True)
    with pytest.raises(ValueError, match="stop"), restored(small):
        small.pipeline_spec.pipeline_info.name = "other"
        small.platform_spec.platforms["kubernetes"].deployment_spec.executors["exec-work"]["x"] = "1"
        raise ValueError("stop")
    assert small.pipeline_spec.SerializeToString(deterministic=True) == before
    assert not small.platform_spec.platforms["kubernetes"].deployment_spec.executors
