"""What decides the outcome of a training besides the data: settings, and recipes, which are settings in a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION, require_task
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage.downloads import fetch

RECIPES = Path(__file__).with_name("recipes")

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
# They change what is written or how fast, not what is learnt: a training may go on with others.
WITHOUT_EFFECT = ("accumulate", "compile", "keep_checkpoints", "onnx", "save_minutes")
# What each task has no use for, by setting: the value that is as good as none; None where every one is refused.
NOT_FOR: dict[str, dict[str, Any]] = {
    RECOGNITION: {"head_patience": 0, "focal_gamma": 0, "label_aware": False},
    ATTRIBUTES: {
        "distill": 0,
        "wise_ft": 1,
        "guard": False,
        **dict.fromkeys(("head", "scale", "margin", "margins")),
        "sub_centers": 1,
        "label_smoothing": 0,
    },
    CLASSES: {"distill": 0, "wise_ft": 1, "guard": False, "sub_centers": 1, "focal_gamma": 0, "label_aware": False},
}


class Settings(BaseModel):
    """Every setting of a training with its default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strategy: Literal["two_stage", "full", "partial", "differential", "head_only", "lora", "scratch"] = Field(
        "two_stage",
        description="two_stage (head on the frozen backbone, then all), full, partial (num_layers), differential "
        "(layer_decay), head_only, lora (lora_rank, lora_targets) or scratch (random weights).",
    )
    num_layers: int = Field(
        0, description="For partial: train the last N convolutions and linear layers, the first N when negative."
    )
    frozen_layers: Count = Field(
        0,
        description="First convolutions and linear layers that stay frozen: for two_stage and full, and for partial "
        "with num_layers negative (of those).",
    )
    layer_decay: float = Field(
        0.8, gt=0, le=1, description="For differential: factor on the learning rate from each layer to the one before."
    )
    lora_rank: int = Field(16, ge=1, description="For lora: rank of the adapters.")
    lora_alpha: int = Field(16, ge=1, description="For lora: the adapters count alpha / rank.")
    lora_targets: str = Field(
        "",
        description="For lora: regular expression for names of modules; empty for all linear layers and "
        "convolutions that are not grouped.",
    )

    head: Literal["arcface", "cosface", "combined", "adaface", "softmax"] = Field(
        "arcface", description="arcface, cosface, combined (margins), adaface (margin by image quality) or softmax."
    )
    scale: Rate = Field(64.0, description="Scale s of the cosine logits.")
    margin: float = Field(
        -1.0,
        le=1.5,
        description="Margin, in radians for arcface, cosine for cosface and both for adaface; negative for the usual "
        "0.5, 0.4 and 0.4.",
    )
    margins: tuple[float, float, float] = Field(
        (1.0, 0.3, 0.2), description="For combined: m1, m2, m3 of cos(m1·θ + m2) − m3."
    )
    sub_centers: int = Field(1, ge=1, description="Centres of a person; more than 1 lets some take the wrong labels.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread over all people.")

    head_epochs: Count = Field(
        1,
        description="For two_stage and head_only: epochs of stage 1, the head alone. "
        "For attributes and classes that stage comes first in every strategy but scratch.",
    )
    head_patience: Count = Field(
        0,
        description="For attributes and classes: epochs of stage 1 without a gain before stage 2 begins; 0 for never.",
    )
    head_lr: Rate = Field(1e-3, description="Learning rate of stage 1.")
    epochs: Count = Field(8, description="Most epochs of stage 2 (or of the only stage).")
    lr: Rate = Field(1e-4, description="Initial learning rate of the backbone.")
    head_factor: Rate = Field(
        1.0, description="The head's learning rate while the backbone is trained, in units of lr."
    )
    schedule: Literal["cosine", "step", "constant"] = Field("cosine", description="cosine, step or constant.")
    step_epochs: int = Field(3, ge=1, description="For step: epochs between two steps.")
    step_factor: float = Field(0.1, gt=0, lt=1, description="For step: what the rate is multiplied by.")
    warmup_epochs: Weight = Field(0.0, description="Epochs over which the rate of each stage rises from 0.")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="adamw or sgd.")
    momentum: float = Field(0.9, ge=0, lt=1, description="For sgd.")
    weight_decay: Weight = Field(5e-4, description="Weight decay of convolutions and linear layers.")
    clip_norm: Weight = Field(0.0, description="Largest norm of the gradient; 0 for no clipping.")
    batch_size: int = Field(32, ge=1, description="Images in a step of the optimizer, over all processes together.")
    accumulate: int = Field(1, ge=1, description="Parts that a batch is computed in, to need less memory.")
    balance: Literal["none", "sampler", "loss"] = Field(
        "none",
        description="For people with few images: none, sampler (all people equally often) or loss (weights). For "
        "attributes: sampler draws images of rare labels more often, loss weights positives by label.",
    )
    focal_gamma: Weight = Field(
        0.0, description="For attributes: γ of the focal loss, which counts labels that are learnt less; 0 for none."
    )
    freeze_batch_norm: bool = Field(True, description="Keep the statistics of batch norm layers as they are.")
    dropout: bool = Field(False, description="Let the backbone's own dropout layers drop.")
    patience: Count = Field(5, description="Epochs of the last stage without a gain before stopping; 0 for never.")
    monitor: Literal["val_loss", "val_auc", "val_accuracy"] = Field(
        "val_loss",
        description="What makes a checkpoint the best: val_loss, val_accuracy or val_auc (of verification; for "
        "attributes the mean over labels).",
    )

    distill: Weight = Field(
        20.0,
        description="Weight of (1 − cosine) between the embedding and the starting model's embedding of the clean "
        "crop; 0 for none.",
    )
    ema: float = Field(0.0, ge=0, lt=1, description="Decay of the moving average of the weights; 0 for none.")
    wise_ft: Share | Literal["auto"] = Field(
        1.0,
        description="Share of the new weights in the interpolation with the starting ones; auto chooses on "
        "validation images.",
    )
    guard: bool = Field(
        False,
        description="Send crops that do not look degraded through the starting weights (the model doubles in size).",
    )

    degrade: Share = Field(1.0, description="Share of training crops that the degradation is put on.")
    flip: Share = Field(0.5, description="Probability of mirroring a training crop.")
    crop: Share = Field(0.0, description="Probability of cutting out a part and enlarging it.")
    warp: Share = Field(0.0, description="Probability of turning, enlarging, stretching and shifting a little.")
    jitter: float = Field(0.2, ge=0, lt=1, description="Strength of colour jitter.")
    mix: Share = Field(0.0, description="Probability of blending in another face, by a half at most.")
    greyscale: Share = Field(0.0, description="Probability of taking the colour away.")
    blur: Share = Field(0.0, description="Probability of a Gaussian blur.")
    jpeg: Share = Field(0.0, description="Probability of a strong JPEG compression.")
    low_resolution: Share = Field(0.0, description="Probability of reducing to a random size and enlarging again.")
    cutout: Share = Field(0.0, description="Probability of covering a rectangle.")
    label_aware: bool = Field(
        False,
        description="For attributes: spare an image the changes that would make its labels wrong, and change those of "
        "rare labels more.",
    )

    amp: Literal["auto", "off", "bf16", "fp16"] = Field(
        "auto", description="Mixed precision: auto (on CUDA bf16, or fp16 where that is missing), off, bf16 or fp16."
    )
    compile: bool = Field(False, description="Compile the backbone with torch.compile.")
    keep_checkpoints: Count = Field(3, description="Checkpoints of single epochs that are kept; 0 for all.")
    save_minutes: Rate = Field(10.0, description="Minutes between two checkpoints inside an epoch.")
    onnx: bool = Field(True, description="Export the model to ONNX, which evaluate needs, and check it against torch.")

    def stages(self, task: str = RECOGNITION) -> list[int]:
        """The stages that this training has: 1 trains the head alone, 2 the backbone too.

        Only recognition's head, which starts from each person's mean embedding, can do without the first.
        """
        alone = self.strategy in ("two_stage", "head_only") or (task != RECOGNITION and self.strategy != "scratch")
        first = alone and self.head_epochs > 0
        second = self.strategy != "head_only" and self.epochs > 0
        return [stage for stage, wanted in ((1, first), (2, second)) if wanted]


def read_settings(recipe: str = "", settings: Mapping[str, Any] | None = None, task: str = RECOGNITION) -> Settings:
    """The settings of a recipe with others put over them.

    Args:
        recipe: name of a recipe that ships with kubeface, or a YAML or JSON file (path, s3:// or https://
            with #sha256=…); empty for the defaults.
        settings: names and values that go before the recipe's.
        task: what they are for; its defaults are without what makes no sense for it.

    Raises:
        KubefaceError: unknown recipe or task, a file that is no mapping, a name that is unknown, a value out of range,
            or a setting that makes no sense for the task.
    """
    values = _read_recipe(recipe) if recipe else {}
    try:
        found = Settings.model_validate(values | dict(settings or {}))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            raise KubefaceError(f"setting '{name}' is unknown: use one of {', '.join(Settings.model_fields)}") from None
        text = first["msg"][0].lower() + first["msg"][1:]
        raise KubefaceError(f"setting {name} is {first['input']!r}: {text}") from None
    require_task(task)
    found = _fitting(found, task)
    require(bool(found.stages(task)), f"strategy {found.strategy} with its epochs at 0: there is nothing to train")
    require(
        found.strategy != "scratch" or (found.wise_ft == 1 and not found.guard),
        "strategy is scratch: wise_ft and guard have no starting weights to keep, leave them out",
    )
    require(
        (found.strategy == "partial") == (found.num_layers != 0),
        f"strategy is {found.strategy} and num_layers is {found.num_layers}: partial needs one, the others have none",
    )
    require(
        found.frozen_layers == 0 or found.strategy in ("two_stage", "full") or found.frozen_layers < -found.num_layers,
        f"frozen_layers is {found.frozen_layers} and num_layers is {found.num_layers}: it takes some away from the "
        "first layers that a negative num_layers trains",
    )
    return found


def _fitting(found: Settings, task: str) -> Settings:
    """The settings without what the task has no use for.

    Raises:
        KubefaceError: one that was asked for makes no sense for it.
    """
    for name, none in NOT_FOR[task].items():
        value = getattr(found, name)
        require(
            name not in found.model_fields_set or value == none,
            f"setting {name} is {value!r}: task {task} has no use for it, leave it out",
        )
    require(
        found.monitor != "val_auc" or task != CLASSES,
        "monitor is val_auc: task classes has no such figure, use val_loss or val_accuracy",
    )
    require(
        task == RECOGNITION or found.strategy == "scratch" or found.head_epochs > 0,
        f"head_epochs is 0: task {task} begins with the head alone, give it an epoch at least",
    )
    return found.model_copy(update={name: none for name, none in NOT_FOR[task].items() if none is not None})


def recipe_names() -> list[str]:
    """Names of the recipes that ship with kubeface."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _read_recipe(recipe: str) -> dict[str, Any]:
    path = RECIPES / f"{recipe}.yaml"
    if recipe not in recipe_names():
        if "/" not in recipe and not recipe.endswith((".yaml", ".yml", ".json")):
            raise KubefaceError(f"recipe '{recipe}' is unknown: use {', '.join(recipe_names())} or a file")
        path = fetch(recipe)
    try:
        values = (
            json.loads(path.read_text("utf-8")) if path.suffix == ".json" else yaml.safe_load(path.read_text("utf-8"))
        )
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise KubefaceError(f"{path} is not a readable recipe: {reason}") from None
    require(isinstance(values, dict), f"{path} is not a recipe: it must be a mapping of settings to values")
    return dict(values)
