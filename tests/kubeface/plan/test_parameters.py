"""A run's parameters are checked as a whole before anything starts, and handed to the steps."""

from typing import Any

import pytest

from kubeface.plan.parameters import (
    PIPELINES,
    RUN_WIDE,
    FaceFinetuning,
    defaults,
    parameters_of,
    read_parameters,
    step_options,
)
from kubeface.runtime.errors import KubefaceError

GOOD: dict[str, Any] = {"source": "s3://faces/staff", "models": "s3://faces/models"}


def refusal(pipeline: str = "face-finetuning", **more: Any) -> str:
    with pytest.raises(KubefaceError) as caught:
        read_parameters(pipeline, GOOD | more)
    return str(caught.value)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_source_and_models_are_enough(pipeline: str) -> None:
    run = read_parameters(pipeline, GOOD)
    assert (run.source, run.models) == ("s3://faces/staff", "s3://faces/models")
    required = [name for name, field in parameters_of(pipeline).model_fields.items() if field.is_required()]
    assert required == ["source", "models"]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_pipeline_has_at_most_18_parameters_with_descriptions(pipeline: str) -> None:
    fields = parameters_of(pipeline).model_fields
    assert len(fields) <= 18
    assert [name for name, field in fields.items() if not (field.description or "").endswith(".")] == []


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_defaults_given_again_change_nothing(pipeline: str) -> None:
    """As a run from the UI's form gives them."""
    shown = defaults(parameters_of(pipeline))
    assert read_parameters(pipeline, GOOD | shown) == read_parameters(pipeline, GOOD)


def test_an_option_keeps_the_pipelines_defaults_beside_it() -> None:
    run = read_parameters("face-attributes", GOOD | {"align": {"detector": "retinaface"}})
    assert (run.align.detector, run.align.template) == ("retinaface", "portrait_224")
    run = read_parameters("low-resolution", GOOD | {"evaluate": {"gate": {"min_gain": 0.01}}})
    assert isinstance(run, FaceFinetuning)
    assert (run.evaluate.gate.target, run.evaluate.gate.min_gain) == ("heldout_cross", 0.01)


def test_an_unknown_name_comes_with_the_nearest() -> None:
    assert refusal(sed=3) == "sed is unknown, did you mean seed?"
    assert refusal(align={"detectr": "mtcnn"}) == "align.detectr is unknown, did you mean detector?"
    assert "use one of source, models, name" in refusal(qqqqqq=3)
    with pytest.raises(KubefaceError, match="pipeline 'face' is unknown: use one of face-finetuning, face-attributes"):
        read_parameters("face", GOOD)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(KubefaceError, match="source is missing: give it; models is missing: give it"):
        read_parameters("face-finetuning", {})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"resources": {"shards": 0}}, "resources.shards is 0"),
        ({"resources": {"shards": 61}}, "resources.shards is 61: input should be less than or equal to 60"),
        ({"resources": {"finetune": {"memory": "32 GB"}}}, "resources.finetune.memory is '32 GB'"),
        ({"resources": {"finetune": {"gpus": -2}}}, "resources.finetune.gpus is -2"),
        ({"resources": {"nodes": {"num_nodes": 0}}}, "resources.nodes.num_nodes is 0"),
        ({"source": 3}, "source is 3"),
        ({"source": ""}, "source is ''"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"finetune": "strategy=full"}, "finetune is 'strategy=full'"),
        ({"align": {"detector": "yolo"}}, "align.detector is 'yolo'"),
        ({"align": {"detector": "none", "template": "whole_224"}}, "detector is none: recognition needs faces"),
        ({"align": {"template": "whole_224"}}, "template whole_224 does not go with detector mtcnn"),
        ({"split": {"heldout_fraction": 1.0}}, "split.heldout_fraction is 1.0"),
        ({"split": {"min_images": 1}}, "min_images"),
        ({"align": {"min_confidence": float("nan")}}, "align.min_confidence is nan"),
        ({"audit": {"on_leak": "ignore"}}, "audit.on_leak is 'ignore'"),
        ({"evaluate": {"fmr": 0}}, "evaluate.fmr is 0"),
        ({"evaluate": {"bootstrap": 10}}, "evaluate.bootstrap is 10"),
        ({"evaluate": {"gate": {"min_gain": 2}}}, "evaluate.gate.min_gain is 2"),
        ({"evaluate": {"gate": {"targets": "heldout"}}}, "evaluate.gate.targets is unknown, did you mean target?"),
        ({"finetune": {"device": "tpu"}}, "finetune.device is 'tpu'"),
        ({"finetune": {"strategi": "full"}}, "finetune.strategi is unknown, did you mean strategy?"),
        ({"finetune": {"lr": -1}}, "finetune.lr is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_values_are_named(more: dict[str, Any], said: str) -> None:
    assert said in refusal(**more)


@pytest.mark.parametrize(("step", "name"), [(step, name) for step, names in RUN_WIDE.items() for name in names])
def test_what_the_run_sets_is_refused_of_a_step(step: str, name: str) -> None:
    pipeline = "image-classification" if step == "scratch" else "face-finetuning"
    assert f"{step}.{name} is the run's own: " in refusal(pipeline, **{step: {name: "x"}})


@pytest.mark.parametrize(
    ("pipeline", "more", "said"),
    [
        ("face-finetuning", {"superresolve": {"scale": 2}}, "superresolve is unknown"),
        ("face-attributes", {"align": {"detector": "none"}}, "portrait_224 does not go with detector none"),
        ("face-attributes", {"evaluate": {"lfw_archive": "s3://b/lfw.tar"}}, "evaluate.lfw_archive is unknown"),
        ("face-attributes", {"evaluate": {"gate": {"metrics": "macro_f1"}}}, "gate"),
        ("image-classification", {"align": {"detector": "mtcnn"}}, "whole_224 does not go with detector mtcnn"),
        ("image-classification", {"evaluate": {"gate": {"metrics": "auc"}}}, "gate"),
        ("image-classification", {"evaluate": {"refuse": 1.5}}, "evaluate.refuse is 1.5"),
        ("image-classification", {"scratch": {"lr": -1}}, "scratch.lr is -1"),
    ],
)
def test_each_pipeline_has_limits_of_its_own(pipeline: str, more: dict[str, Any], said: str) -> None:
    assert said in refusal(pipeline, **more)


def options_of(pipeline: str = "face-finetuning", **more: Any) -> Any:
    return step_options(pipeline, read_parameters(pipeline, GOOD | more))


def test_the_run_is_handed_to_the_steps() -> None:
    options = options_of(
        seed=7,
        name="door",
        degradation="noise:60",
        backbone="iresnet50",
        ingest={"forget": "s3://faces/forget.txt"},
        audit={"evaluation_sets": "s3://sets/a.tar"},
        evaluate={"lfw_archive": "s3://sets/lfw.tar", "lfw_pairs": "s3://sets/pairs.txt"},
    )
    previous = "s3://faces/models/door/data.json"
    assert options.ingest.seed == options.gather.seed == options.split.seed == options.audit.seed == 7
    assert options.finetune.seed == options.evaluate.seed == options.report.seed == 7
    assert options.finetune.degradation == options.evaluate.degradation == "noise:60"
    assert (options.finetune.backbone, options.finetune.task) == ("iresnet50", "recognition")
    assert (options.gather.forget, options.ingest.forget) == ("s3://faces/forget.txt", "")  # a shard's text has it
    assert options.gather.previous == options.audit.previous == previous
    assert options.audit.evaluation_sets == "s3://sets/a.tar s3://sets/lfw.tar"  # nobody of LFW is trained on
    assert (options.promote.name, options.promote.destination) == ("door", "s3://faces/models")
    assert options.report.pipeline == "face-finetuning"
    assert options.superresolve is None and options.scratch is None


def test_each_task_is_told_to_the_steps_that_ask() -> None:
    for pipeline, task in (("face-attributes", "attributes"), ("image-classification", "classes")):
        options = options_of(pipeline)
        assert options.audit.task == options.split.task == options.finetune.task == task
    assert (options.scratch.backbone, options.scratch.task) == ("small_cnn", "classes")
    low = options_of("low-resolution", superresolve={"model": "s3://models/espcn.onnx"})
    assert low.finetune.superresolver == low.superresolve.model == "s3://models/espcn.onnx"


def test_what_is_given_goes_before_the_recipe_defaults_too() -> None:
    recipe = options_of("image-classification").finetune
    assert (recipe.strategy, recipe.num_layers) == ("partial", 10)
    mine = options_of("image-classification", finetune={"strategy": "full", "num_layers": 0}).finetune
    assert (mine.strategy, mine.num_layers, mine.head_lr) == ("full", 0, recipe.head_lr)


def test_of_a_complete_dictionary_the_recipe_gives_way_to_what_is_not_a_default() -> None:
    plain, recipe = options_of().finetune, options_of(recipe="noise").finetune
    differing = [name for name in type(plain).model_fields if getattr(plain, name) != getattr(recipe, name)]
    assert len(differing) > 1
    mine = options_of(recipe="noise", finetune={"batch_size": 7}).finetune
    assert (mine.batch_size, mine.model_copy(update={"batch_size": recipe.batch_size})) == (7, recipe)
    shown = defaults(FaceFinetuning)["finetune"]  # the UI's form gives every option
    assert options_of(recipe="noise", finetune=shown).finetune == recipe
