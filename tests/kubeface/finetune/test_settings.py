"""Settings and recipes: what is taken, and the one line that everything else ends with."""

import json
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from kubeface.finetune.augment import KINDS
from kubeface.finetune.data import BALANCES
from kubeface.finetune.heads import HEADS
from kubeface.finetune.settings import RECIPES, WITHOUT_EFFECT, Settings, read_settings, recipe_names
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import sha256_file


def test_nothing_said_gives_the_defaults() -> None:
    assert read_settings() == Settings() == read_settings("", {}) == read_settings("", None)


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert (field.description or "").endswith("."), name
        assert field.default is not None, name
    assert set(WITHOUT_EFFECT) < set(Settings.model_fields)


def test_choices_are_those_of_the_modules_that_make_them() -> None:
    hints = get_type_hints(Settings)
    assert get_args(hints["head"]) == HEADS
    assert get_args(hints["balance"]) == BALANCES
    assert set(KINDS) <= set(Settings.model_fields)


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("attributes", ["attributes"]),
        ("classes", ["classes"]),
        ("low-resolution", ["recognition"]),
        ("noise", ["recognition"]),
        ("scratch", ["classes"]),
    ],
)
def test_recipes_that_ship(name: str, tasks: list[str]) -> None:
    assert recipe_names() == sorted(path.stem for path in RECIPES.iterdir())
    assert name in recipe_names()
    for task in tasks:
        assert read_settings(name, {}, task).guard == (task == "recognition")


def test_settings_go_before_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# slowly\nlr: 1.0e-5\nepochs: 3\nmargins: [1.0, 0.4, 0.1]\nwise_ft: auto\n")
    found = read_settings(str(tmp_path / "mine.yaml"), {"epochs": 4})
    assert found == Settings(lr=1e-5, epochs=4, margins=(1.0, 0.4, 0.1), wise_ft="auto")


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    values = {"lr": 1e-5, "head": "cosface", "guard": True, "margins": [1, 0.3, 0.2], "wise_ft": 0.5}
    for name in ("recipe.json", "recipe.yaml", "recipe.yml", "recipe"):
        (tmp_path / name).write_text(json.dumps(values))
    expected = Settings(lr=1e-5, head="cosface", guard=True, wise_ft=0.5)
    for name in ("recipe.json", "recipe.yaml", "recipe.yml", "recipe"):
        assert read_settings(str(tmp_path / name)) == expected
    checksum = sha256_file(tmp_path / "recipe.json")
    assert read_settings(f"{tmp_path}/recipe.json#sha256={checksum}") == expected


def test_words_of_a_command_line_and_numbers_of_a_pipeline() -> None:
    """Every flag is text on a command line; Kubeflow makes a float of every number."""
    words = {"epochs": "4", "lr": "1e-3", "margins": ["1", "0.4", "0.1"], "wise_ft": "0.5", "guard": True}
    assert read_settings("", words) == Settings(epochs=4, lr=1e-3, margins=(1, 0.4, 0.1), wise_ft=0.5, guard=True)
    assert read_settings("", {"epochs": 4.0, "lora_rank": 8.0}) == Settings(epochs=4, lora_rank=8)
    assert read_settings("", {"wise_ft": "auto"}).wise_ft == "auto"


def test_settings_survive_json() -> None:
    given = Settings(margins=(1.0, 0.25, 0.1), wise_ft="auto", lr=0.1 + 0.2)
    assert read_settings("", json.loads(given.model_dump_json())) == given


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
    assert read_settings("", chosen).stages() == stages


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"optimizer": "adam"}, "setting optimizer is 'adam': input should be 'adamw' or 'sgd'"),
        ({"strategy": "frozen"}, "setting strategy is 'frozen': input should be 'two_stage', 'full', "),
        ({"head": "triplet"}, "setting head is 'triplet'"),
        ({"strategy": "scratch", "guard": True}, "strategy is scratch: wise_ft and guard have no starting weights"),
        ({"strategy": "scratch", "wise_ft": 0.5}, "strategy is scratch: wise_ft and guard have no starting weights"),
        ({"amp": "fp8"}, "setting amp is 'fp8'"),
        ({"schedule": "linear"}, "setting schedule is 'linear'"),
        ({"balance": "all"}, "setting balance is 'all'"),
        ({"monitor": "accuracy"}, "setting monitor is 'accuracy'"),
        ({"head_epochs": -1}, "setting head_epochs is -1: input should be greater than or equal to 0"),
        ({"epochs": 1.5}, "setting epochs is 1.5: input should be a valid integer"),
        ({"epochs": "many"}, "setting epochs is 'many'"),
        ({"distill": -0.1}, "setting distill is -0.1"),
        ({"weight_decay": -1e-4}, "setting weight_decay is -0.0001"),
        ({"patience": -1}, "setting patience is -1"),
        ({"head_lr": 0.0}, "setting head_lr is 0.0: input should be greater than 0"),
        ({"lr": -1e-4}, "setting lr is -0.0001"),
        ({"lr": math.nan}, "setting lr is nan"),
        ({"lr": None}, "setting lr is None"),
        ({"scale": math.inf}, "setting scale is inf"),
        ({"margin": 9.0}, "setting margin is 9.0"),
        ({"margins": [1, 2]}, "setting margins is "),
        ({"batch_size": 0}, "setting batch_size is 0"),
        ({"accumulate": 0}, "setting accumulate is 0"),
        ({"layer_decay": 1.5}, "setting layer_decay is 1.5"),
        ({"lora_rank": 0}, "setting lora_rank is 0"),
        ({"label_smoothing": 1.0}, "setting label_smoothing is 1.0"),
        ({"momentum": 1.0}, "setting momentum is 1.0"),
        ({"ema": 1.0}, "setting ema is 1.0"),
        ({"wise_ft": 1.1}, "setting wise_ft is 1.1: input should be less than or equal to 1"),
        ({"wise_ft": "often"}, "setting wise_ft is 'often'"),
        ({"flip": 1.1}, "setting flip is 1.1"),
        ({"jitter": 1.0}, "setting jitter is 1.0"),
        ({"save_minutes": 0}, "setting save_minutes is 0"),
        ({"guard": "perhaps"}, "setting guard is 'perhaps'"),
        (
            {"learning_rate": 1e-3},
            "setting 'learning_rate' is unknown: use one of strategy, num_layers, ",
        ),
        ({"epochs": 0, "head_epochs": 0}, "strategy two_stage with its epochs at 0: there is nothing to train"),
        ({"strategy": "full", "epochs": 0}, "strategy full with its epochs at 0: there is nothing to train"),
        ({"strategy": "head_only", "head_epochs": 0}, "strategy head_only with its epochs at 0"),
        ({"strategy": "partial"}, "strategy is partial and num_layers is 0: partial needs one"),
        (
            {"strategy": "partial", "num_layers": -3, "frozen_layers": 3},
            "frozen_layers is 3 and num_layers is -3: it takes some away from the first layers",
        ),
        ({"strategy": "partial", "num_layers": 3, "frozen_layers": 1}, "frozen_layers is 1 and num_layers is 3"),
        ({"strategy": "lora", "frozen_layers": 1}, "frozen_layers is 1 and num_layers is 0"),
        ({"focal_gamma": 2.0}, "setting focal_gamma is 2.0: task recognition has no use for it, leave it out"),
        ({"label_aware": True}, "setting label_aware is True: task recognition has no use for it"),
        ({"head_patience": 3}, "setting head_patience is 3: task recognition has no use for it"),
        ({"num_layers": 3}, "strategy is two_stage and num_layers is 3: partial needs one, the others have none"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(KubefaceError) as caught:
        read_settings("", wrong)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.yaml", "lr: [1", "{path} is not a readable recipe: while parsing a flow sequence"),
        ("r.json", "{lr: 1}", "{path} is not a readable recipe: Expecting property name"),
        ("r.yaml", b"\xff\xfe\x00", "{path} is not a readable recipe: 'utf-8' codec"),
        ("r.yaml", "", "{path} is not a recipe: it must be a mapping of settings to values"),
        ("r.json", "[1, 2]", "{path} is not a recipe: it must be a mapping of settings to values"),
        ("r.yaml", "noise", "{path} is not a recipe: it must be a mapping of settings to values"),
        ("r.yaml", "1: 2", "setting 1 is 1: keys should be strings"),
        ("r.yaml", "rate: 2", "setting 'rate' is unknown: use one of "),
        ("r.yaml", "lr: -2", "setting lr is -2: input should be greater than 0"),
    ],
)
def test_a_recipe_that_is_none(name: str, text: str | bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(KubefaceError) as caught:
        read_settings(str(path))
    assert str(caught.value).startswith(said.format(path=path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (
            "fog",
            "recipe 'fog' is unknown: use attributes, classes, low-resolution, noise, scratch, two-stage or a file",
        ),
        ("/nowhere/recipe.yaml", "/nowhere/recipe.yaml does not exist"),
        ("recipe.json", "recipe.json does not exist"),
    ],
)
def test_a_recipe_that_is_not_there(recipe: str, said: str) -> None:
    with pytest.raises(KubefaceError) as caught:
        read_settings(recipe)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("task", "wrong", "said"),
    [
        ("classes", {"monitor": "val_auc"}, "monitor is val_auc: task classes has no such figure"),
        ("classes", {"focal_gamma": 1}, "setting focal_gamma is 1.0: task classes has no use for it"),
        ("attributes", {"label_smoothing": 0.1}, "setting label_smoothing is 0.1: task attributes has no use for it"),
        ("attributes", {"scale": 64}, "setting scale is 64.0: task attributes has no use for it"),
        ("attributes", {"margin": 0.5}, "setting margin is 0.5: task attributes has no use for it"),
        ("attributes", {"margins": [1, 0.3, 0.2]}, "setting margins is (1.0, 0.3, 0.2): task attributes has no use"),
        ("ages", {}, "task is 'ages': use recognition, attributes or classes"),
    ],
)
def test_settings_of_another_task(task: str, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(KubefaceError) as caught:
        read_settings("", wrong, task)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("task", ["attributes", "classes"])
@pytest.mark.parametrize("strategy", ["two_stage", "full", "partial", "differential", "lora"])
def test_other_tasks_begin_with_the_head(task: str, strategy: str) -> None:
    chosen = {"strategy": strategy, "num_layers": 2 * (strategy == "partial"), "distill": 0}
    assert read_settings("", chosen, task).stages(task) == [1, 2]
    assert read_settings("", {"strategy": "scratch"}, task).stages(task) == [2]
    assert read_settings("", {}, task).distill == 0
