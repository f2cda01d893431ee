"""Options and recipes: what is accepted, and the one line that everything else ends with."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from kubeface.finetune.augment import KINDS
from kubeface.finetune.options import (
    NOT_FOR,
    OF_A_RUN,
    RECIPES,
    WITHOUT_EFFECT,
    FinetuneOptions,
    read_finetune_options,
    recipe_names,
    with_recipe,
)
from kubeface.finetune.strategies import layers, trained_parts
from kubeface.models.backbones import backbone_named
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import sha256_file


def read(values: dict[str, Any]) -> FinetuneOptions:
    return read_finetune_options(values, "")


def test_nothing_given_is_the_defaults() -> None:
    assert read({}) == FinetuneOptions() == with_recipe(FinetuneOptions())


def test_every_option_is_described() -> None:
    for name, field in FinetuneOptions.model_fields.items():
        assert (field.description or "").endswith("."), name
        assert field.default is not None, name
    names = set(FinetuneOptions.model_fields)
    assert {*KINDS, *WITHOUT_EFFECT, *OF_A_RUN, *(name for unused in NOT_FOR.values() for name in unused)} < names


def test_recipes_that_ship() -> None:
    tasks = {"attributes": "attributes", "classes": "classes", "scratch": "classes"}
    assert recipe_names() == sorted(path.stem for path in RECIPES.iterdir())
    assert recipe_names() == ["attributes", "classes", "low-resolution", "noise", "scratch", "two-stage"]
    for name in recipe_names():
        task = tasks.get(name, "recognition")
        assert read({"recipe": name, "task": task}).guard == (name in ("low-resolution", "noise")), name


def test_options_that_are_set_go_before_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# slowly\nlr: 1.0e-5\nepochs: 3\nmargins: [1.0, 0.4, 0.1]\nwise_ft: auto\n")
    recipe = str(tmp_path / "mine.yaml")
    found = read({"recipe": recipe, "epochs": 4})
    expected = FinetuneOptions(recipe=recipe, lr=1e-5, epochs=4, margins=(1.0, 0.4, 0.1), wise_ft="auto")
    assert found == expected == with_recipe(FinetuneOptions(recipe=recipe, epochs=4))


def test_of_a_complete_dictionary_only_what_differs_from_the_default_goes_before_the_recipe() -> None:
    """As a pipeline hands it over; in Python and on the command line an option can be set to its default too."""
    complete = FinetuneOptions(recipe="noise", epochs=6).model_dump(mode="json")
    assert read(complete) == read({"recipe": "noise", "epochs": 6})
    assert read(complete).guard and read(complete).epochs == 6
    assert not with_recipe(FinetuneOptions(recipe="noise", guard=False)).guard


@pytest.mark.parametrize("name", ["noise", "two-stage"])
def test_resolving_a_recipe_again_changes_nothing(name: str) -> None:
    once = read({"recipe": name, "distill": 3})
    assert with_recipe(once) == once and read(once.model_dump(mode="json")) == once


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    values = {"lr": 1e-5, "head": "cosface", "guard": True, "margins": [1, 0.3, 0.2], "wise_ft": 0.5}
    for name in ("recipe.json", "recipe.yaml", "recipe.yml", "recipe"):
        (tmp_path / name).write_text(json.dumps(values))
    checksum = sha256_file(tmp_path / "recipe.json")
    for name in ("recipe.json", "recipe.yaml", "recipe.yml", "recipe", f"recipe.json#sha256={checksum}"):
        recipe = f"{tmp_path}/{name}"
        expected = FinetuneOptions(recipe=recipe, lr=1e-5, head="cosface", guard=True, wise_ft=0.5)
        assert read({"recipe": recipe}) == expected


def test_words_of_a_command_line_and_numbers_of_a_pipeline() -> None:
    """Every flag is text on a command line; Kubeflow makes a float of every number."""
    words = {"epochs": "4", "lr": "1e-3", "margins": ["1", "0.4", "0.1"], "wise_ft": "0.5", "guard": True}
    assert read(words) == FinetuneOptions(epochs=4, lr=1e-3, margins=(1, 0.4, 0.1), wise_ft=0.5, guard=True)
    assert read({"epochs": 4.0, "lora_rank": 8.0}) == FinetuneOptions(epochs=4, lora_rank=8)
    assert read({"wise_ft": "auto"}).wise_ft == "auto"


def test_options_survive_json() -> None:
    given = FinetuneOptions(margins=(1.0, 0.25, 0.1), wise_ft="auto", lr=0.1 + 0.2)
    assert read(json.loads(given.model_dump_json())) == given


@pytest.mark.parametrize(
    ("chosen", "stages"),
    [
        ({}, [1, 2]),
        ({"head_epochs": 0}, [2]),
        ({"epochs": 0}, [1]),
        ({"strategy": "head_only"}, [1]),
        ({"strategy": "head_only", "epochs": 0}, [1]),
        *(({"strategy": name}, [2]) for name in ("full", "differential", "lora", "scratch")),
        ({"strategy": "partial", "num_layers": 2}, [2]),
    ],
)
def test_stages(chosen: dict[str, Any], stages: list[int]) -> None:
    assert read(chosen).stages() == stages


# An option by itself: a value that is none, and what is said of it.
OUT_OF_RANGE: dict[str, tuple[Any, str]] = {
    "optimizer": ("adam", "optimizer is 'adam': input should be 'adamw' or 'sgd'"),
    "strategy": ("frozen", "strategy is 'frozen': input should be 'two_stage', 'full', "),
    "task": ("ages", "task is 'ages': input should be 'recognition', 'attributes' or 'classes'"),
    "head_epochs": (-1, "head_epochs is -1: input should be greater than or equal to 0"),
    "epochs": (1.5, "epochs is 1.5: input should be a valid integer"),
    "head_lr": (0.0, "head_lr is 0.0: input should be greater than 0"),
    "wise_ft": (1.1, "wise_ft is 1.1: input should be less than or equal to 1"),
    "learning_rate": (1e-3, "learning_rate is unknown: use one of backbone, "),
    "margins": ([1, 2], "margins.2 is missing"),
    **{
        name: (value, f"{name} is {value!r}")
        for name, value in {"sub_centers": 0, "lr": math.nan, "scale": math.inf, "margin": 9.0, "batch_size": 0,
        "layer_decay": 1.5, "label_smoothing": 1.0, "jitter": 1.0, "save_minutes": 0, "guard": "perhaps"}.items()
    },
}  # fmt: skip
UNUSED: dict[str, dict[str, Any]] = {
    "recognition": {"focal_gamma": 2.0, "label_aware": True, "head_patience": 3},
    "classes": {"wise_ft": "auto", "guard": True, "focal_gamma": 1.0},
    "attributes": {"distill": 1.0, "sub_centers": 3, "label_smoothing": 0.1, "scale": 32.0, "margin": 0.5},
}
START = "strategy is scratch: wise_ft and guard have no starting weights"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        *[({name: value}, said) for name, (value, said) in OUT_OF_RANGE.items()],
        ({"epochs": "many"}, "epochs is 'many'"),
        ({"lr": None}, "lr is None"),
        ({"wise_ft": "often"}, "wise_ft is 'often'"),
        ({"margins": (1, 0.3, math.nan)}, "margins.2 is nan"),
        ({"head": "softmax", "sub_centers": 2}, "sub_centers is 2: the softmax head has one centre a class"),
        ({"head": "adaface", "sub_centers": 2}, "sub_centers is 2: the adaface head has one centre a class"),
        ({"margins": (0, 0.3, 0.2)}, "margins are 0, 0.3, 0.2: the first must lie above 0 and up to 2, the second in"),
        ({"margins": (2.1, 0.3, 0.2)}, "margins are 2.1, 0.3, 0.2"),
        ({"margins": (1, -0.1, 0.2)}, "margins are 1, -0.1, 0.2"),
        ({"strategy": "scratch", "guard": True}, START),
        ({"strategy": "scratch", "wise_ft": 0.5}, START),
        ({"epochs": 0, "head_epochs": 0}, "strategy two_stage with its epochs at 0: there is nothing to train"),
        ({"strategy": "full", "epochs": 0}, "strategy full with its epochs at 0: there is nothing to train"),
        ({"strategy": "head_only", "head_epochs": 0}, "strategy head_only with its epochs at 0"),
        ({"strategy": "partial"}, "strategy is partial and num_layers is 0: partial needs one"),
        ({"num_layers": 3}, "strategy is two_stage and num_layers is 3: partial needs one, the others have none"),
        (
            {"strategy": "partial", "num_layers": -3, "frozen_layers": 3},
            "frozen_layers is 3 and num_layers is -3: it takes some away from the first layers",
        ),
        ({"strategy": "partial", "num_layers": 3, "frozen_layers": 1}, "frozen_layers is 1 and num_layers is 3"),
        ({"strategy": "lora", "frozen_layers": 1}, "frozen_layers is 1 and num_layers is 0"),
        ({"task": "classes", "monitor": "val_auc"}, "monitor is val_auc: task classes has no such figure"),
        ({"task": "classes", "head_epochs": 0}, "head_epochs is 0: task classes begins with the head alone"),
        *[
            ({"task": task, name: value}, f"{name} is {value!r}: task {task} has no use for it, leave it out")
            for task, unused in UNUSED.items()
            for name, value in unused.items()
        ],
        (
            {"task": "attributes", "margins": [1, 0.4, 0.2]},
            "margins is (1.0, 0.4, 0.2): task attributes has no use for it",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_option_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(KubefaceError, match=f"^{re.escape(said)}"):
        read(wrong)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.yaml", b"lr: [1", "{path} is not a readable recipe: while parsing a flow sequence"),
        ("r.json", b"{lr: 1}", "{path} is not a readable recipe: Expecting property name"),
        ("r.yaml", b"\xff\xfe\x00", "{path} is not a readable recipe: 'utf-8' codec"),
        *[
            (name, text, "{path} is not a recipe: it must be a mapping of options to values")
            for name, text in (("r.yaml", b""), ("r.json", b"[1, 2]"), ("r.yaml", b"noise"))
        ],
        ("r.yaml", b"1: 2", "1 is 1: keys should be strings"),
        ("r.yaml", b"rate: 2", "rate is unknown"),
        ("r.yaml", b"lr: -2", "lr is -2: input should be greater than 0"),
        *[
            ("r.yaml", f"{name}: 1".encode(), f"{{path}} sets {name}, which is for the run")
            for name in ("seed", "backbone", "recipe")
        ],
        ("nowhere/r.yaml", None, "{path} does not exist"),
    ],
)
def test_a_recipe_that_is_none(name: str, text: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(KubefaceError, match=f"^{re.escape(said.format(path=path))}"):
        read({"recipe": str(path)})


def test_a_recipe_of_an_unknown_name() -> None:
    names = "attributes, classes, low-resolution, noise, scratch, two-stage"
    for recipe, said in (
        ("fog", f"recipe 'fog' is unknown: use {names} or a file"),
        ("recipe.json", "recipe.json does not exist"),
    ):
        with pytest.raises(KubefaceError, match=f"^{said}"):
            read({"recipe": recipe})


@pytest.mark.parametrize("task", ["attributes", "classes"])
@pytest.mark.parametrize("strategy", ["two_stage", "full", "partial", "differential", "lora"])
def test_other_tasks_begin_with_the_head(task: str, strategy: str) -> None:
    chosen = {"strategy": strategy, "num_layers": 2 * (strategy == "partial"), "distill": 0}
    assert read(chosen | {"task": task}).stages() == [1, 2]
    assert read({"strategy": "scratch"} | {"task": task}).stages() == [2]
    assert read({"task": task}).distill == 0


def test_a_complete_dictionary_of_options_is_for_every_task() -> None:
    assert read(FinetuneOptions(task="attributes").model_dump()).distill == 0


# --- recipes of attributes and classes -----------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["attributes", "classes"])
def test_a_recipe_is_for_its_task(task: str) -> None:
    found = read_finetune_options({"recipe": task, "task": task})
    assert found.stages() == [1, 2] and found.head_patience > 0
    assert found.lr * found.head_factor < found.head_lr
    with pytest.raises(KubefaceError, match="task recognition has no use for it"):
        read_finetune_options({"recipe": task})


def test_from_scratch_the_start_is_what_differs() -> None:
    ours, theirs = (read_finetune_options({"recipe": name, "task": "classes"}) for name in ("scratch", "classes"))
    assert ours.stages() == [2]
    alike = ("head", "balance", "label_smoothing", "monitor", "degrade", "flip", "jitter", "warp", "crop")
    assert [getattr(ours, name) for name in alike] == [getattr(theirs, name) for name in alike]


@pytest.mark.parametrize(
    ("task", "backbone", "changes", "begins"),
    [
        ("attributes", "resnet50", {}, "layer2.0.conv1"),
        ("classes", "resnet50", {}, "layer4.0.conv1"),
        ("classes", "vgg16", {"num_layers": 3}, "features.24"),  # the convolutions of the last block: 24, 26 and 28
    ],
)
def test_the_layers_that_are_trained_are_whole_blocks(
    task: str, backbone: str, changes: dict[str, Any], begins: str
) -> None:
    network = backbone_named(backbone).build()
    options = read_finetune_options({"recipe": task, "task": task} | changes)
    trained = {id(m) for part in trained_parts(network, options) for m in part.modules}
    weighted = [name for name, module in network.named_modules() if module in [layer[0] for layer in layers(network)]]
    chosen = [name for name in weighted if id(network.get_submodule(name)) in trained]
    assert chosen[0] == begins and chosen == weighted[weighted.index(begins) :]
