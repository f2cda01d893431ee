"""Options of finetune, and recipes: options by name or in a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, JsonValue, model_validator

from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION, Task
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.options import Count, NonNegative, Options, Positive, Seed, Share, ShareBelowOne, read_options

RECIPES = Path(__file__).with_name("recipes")
AtLeastOne = Annotated[int, Field(ge=1)]
# They change what is written or how fast, not what is learnt: a training may go on with others.
WITHOUT_EFFECT = ("accumulate", "compile", "keep_checkpoints", "onnx", "save_minutes")
# They belong to a run; a recipe sets the others.
OF_A_RUN = (
    "backbone", "pretrained", "fallback", "degradation", "superresolver", "task", "labels", "recipe", "seed",
    "checkpoints", "resume", "device", "workers",
)  # fmt: skip
# What each task has no use for, by option: the value that is as good as none; None where only the default is taken.
NOT_FOR: Mapping[Task, Mapping[str, Any]] = {
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


class FinetuneOptions(Options):
    """What is trained, from which start, and how."""

    backbone: str = "sface"
    """Name of the architecture, such as sface, iresnet50 or edgeface_xs_gamma_06."""
    pretrained: str = ""
    """Start from this model folder or weights file (path, s3://, https:// with #sha256=…); empty for the published
    weights."""
    fallback: str = ""
    """Backbone to start from with its published weights, or scratch for random ones, where those asked for cannot be
    fetched; empty to fail then."""
    degradation: str = "none"
    """Put on training and validation crops: noise:60, lowres:14, blur:4, jpeg:5, dark, grey, masked, rotated:15 or
    none."""
    superresolver: str = "bicubic"
    """What enlarges the low-resolution crops of degradation lowres: bicubic, or a super-resolution network (.onnx,
    .safetensors, TorchScript, or a folder of train-superresolution), which the model folder gets too."""
    task: Task = RECOGNITION
    """recognition (of people who need not be known yet), attributes (many binary labels at once, out of the table's
    groups) or classes (one of those that the identities are)."""
    labels: str = ""
    """For attributes: which, by name, divided by commas or spaces; empty for all that the table has."""
    recipe: str = ""
    """Options by name (low-resolution, noise, two-stage, attributes, classes, scratch) or from a YAML or JSON file
    (path, s3://, https:// with #sha256=…). An option that is set goes before the recipe's."""
    seed: Seed = 0
    """Seed of order, augmentation and degradation."""
    checkpoints: str = ""
    """Folder or s3:// prefix that keeps the checkpoints `last` and `best` outside of this machine; the same training
    goes on from there when it is started again."""
    resume: str = ""
    """Go on exactly from this `last` checkpoint: its folder, path or s3:// address."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU where there is one."""
    workers: int = -1
    """Processes that read and augment; 0 for none, negative for as many as suit the device."""

    strategy: Literal["two_stage", "full", "partial", "differential", "head_only", "lora", "scratch"] = "two_stage"
    """two_stage (head on the frozen backbone, then all), full, partial (num_layers), differential (layer_decay),
    head_only, lora (lora_rank, lora_targets) or scratch (random weights)."""
    num_layers: int = 0
    """For partial: train the last N convolutions and linear layers, the first N when negative."""
    frozen_layers: Count = 0
    """First convolutions and linear layers that stay frozen: for two_stage and full, and for partial with num_layers
    negative (of those)."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """For differential: factor on the learning rate from each layer to the one before."""
    lora_rank: AtLeastOne = 16
    """For lora: rank of the adapters."""
    lora_alpha: AtLeastOne = 16
    """For lora: the adapters count alpha / rank."""
    lora_targets: str = ""
    """For lora: regular expression for names of modules; empty for all linear layers and convolutions that are not
    grouped."""

    head: Literal["arcface", "cosface", "combined", "adaface", "softmax"] = "arcface"
    """arcface, cosface, combined (margins), adaface (margin by image quality) or softmax."""
    scale: Positive = 64.0
    """Scale s of the cosine logits."""
    margin: Annotated[float, Field(le=1.5)] = -1.0
    """Margin, in radians for arcface, cosine for cosface and both for adaface; negative for the usual 0.5, 0.4 and
    0.4."""
    margins: tuple[float, float, float] = (1.0, 0.3, 0.2)
    """For combined: m1, m2, m3 of cos(m1·θ + m2) − m3."""
    sub_centers: AtLeastOne = 1
    """Centres of a person; more than 1 lets some take the wrong labels."""
    label_smoothing: ShareBelowOne = 0.0
    """Share of the target spread over all people."""

    head_epochs: Count = 1
    """For two_stage and head_only: epochs of stage 1, the head alone. For attributes and classes that stage comes first
    in every strategy but scratch."""
    head_patience: Count = 0
    """For attributes and classes: epochs of stage 1 without a gain before stage 2 begins; 0 for never."""
    head_lr: Positive = 1e-3
    """Learning rate of stage 1."""
    epochs: Count = 8
    """Most epochs of stage 2 (or of the only stage)."""
    lr: Positive = 1e-4
    """Initial learning rate of the backbone."""
    head_factor: Positive = 1.0
    """The head's learning rate while the backbone is trained, in units of lr."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """cosine, step or constant."""
    step_epochs: AtLeastOne = 3
    """For step: epochs between two steps."""
    step_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """For step: what the rate is multiplied by."""
    warmup_epochs: NonNegative = 0.0
    """Epochs over which the rate of each stage rises from 0."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw or sgd."""
    momentum: ShareBelowOne = 0.9
    """For sgd."""
    weight_decay: NonNegative = 5e-4
    """Weight decay of convolutions and linear layers."""
    clip_norm: NonNegative = 0.0
    """Largest norm of the gradient; 0 for no clipping."""
    batch_size: AtLeastOne = 32
    """Images in a step of the optimizer, over all processes together."""
    accumulate: AtLeastOne = 1
    """Parts that a batch is computed in, to need less memory."""
    balance: Literal["none", "sampler", "loss"] = "none"
    """For people with few images: none, sampler (all people equally often) or loss (weights). For attributes: sampler
    draws images of rare labels more often, loss weights positives by label."""
    focal_gamma: NonNegative = 0.0
    """For attributes: γ of the focal loss, which counts labels that are learnt less; 0 for none."""
    freeze_batch_norm: bool = True
    """Keep the statistics of batch norm layers as they are."""
    dropout: bool = False
    """Let the backbone's own dropout layers drop."""
    patience: Count = 5
    """Epochs of the last stage without a gain before stopping; 0 for never."""
    monitor: Literal["val_loss", "val_auc", "val_accuracy"] = "val_loss"
    """What makes a checkpoint the best: val_loss, val_accuracy or val_auc (of verification; for attributes the mean
    over labels)."""

    distill: NonNegative = 20.0
    """Weight of (1 − cosine) between the embedding and the starting model's embedding of the clean crop; 0 for none."""
    ema: ShareBelowOne = 0.0
    """Decay of the moving average of the weights; 0 for none."""
    wise_ft: Share | Literal["auto"] = 1.0
    """Share of the new weights in the interpolation with the starting ones; auto chooses on validation images."""
    guard: bool = False
    """Send crops that do not look degraded through the starting weights (the model doubles in size)."""

    degrade: Share = 1.0
    """Share of training crops that the degradation is put on."""
    flip: Share = 0.5
    """Probability of mirroring a training crop."""
    crop: Share = 0.0
    """Probability of cutting out a part and enlarging it."""
    warp: Share = 0.0
    """Probability of turning, enlarging, stretching and shifting a little."""
    jitter: ShareBelowOne = 0.2
    """Strength of colour jitter."""
    mix: Share = 0.0
    """Probability of blending in another face, by a half at most."""
    greyscale: Share = 0.0
    """Probability of taking the colour away."""
    blur: Share = 0.0
    """Probability of a Gaussian blur."""
    jpeg: Share = 0.0
    """Probability of a strong JPEG compression."""
    low_resolution: Share = 0.0
    """Probability of reducing to a random size and enlarging again."""
    cutout: Share = 0.0
    """Probability of covering a rectangle."""
    label_aware: bool = False
    """For attributes: spare an image the changes that would make its labels wrong, and change those of rare labels
    more."""

    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """Mixed precision: auto (on CUDA bf16, or fp16 where that is missing), off, bf16 or fp16."""
    compile: bool = False
    """Compile the backbone with torch.compile."""
    keep_checkpoints: Count = 3
    """Checkpoints of single epochs that are kept; 0 for all."""
    save_minutes: Positive = 10.0
    """Minutes between two checkpoints inside an epoch."""
    onnx: bool = True
    """Export the model to ONNX, which evaluate needs, and check it against torch."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.recipe:  # else the recipe's values are still to come
            self.check_agreement()
        return self

    def check_agreement(self) -> None:
        """Raises ValueError for options that contradict each other or have no meaning for the task."""
        if problem := self._task_problem() or self._strategy_problem() or self._head_problem():
            raise ValueError(problem)

    def _task_problem(self) -> str:
        if self.labels and self.task != ATTRIBUTES:
            return f"labels is '{self.labels}': task {self.task} has none, leave it out"
        for name, none in NOT_FOR[self.task].items():
            value = getattr(self, name)
            if value not in (none, type(self).model_fields[name].default):
                return f"{name} is {value!r}: task {self.task} has no use for it, leave it out"
        if self.monitor == "val_auc" and self.task == CLASSES:
            return "monitor is val_auc: task classes has no such figure, use val_loss or val_accuracy"
        if self.task != RECOGNITION and self.strategy != "scratch" and self.head_epochs == 0:
            return f"head_epochs is 0: task {self.task} begins with the head alone, give it an epoch at least"
        return ""

    def _strategy_problem(self) -> str:
        if not self.stages():
            return f"strategy {self.strategy} with its epochs at 0: there is nothing to train"
        if self.strategy == "scratch" and (self.wise_ft != 1 or self.guard):
            return "strategy is scratch: wise_ft and guard have no starting weights to keep, leave them out"
        if (self.strategy == "partial") != (self.num_layers != 0):
            return (
                f"strategy is {self.strategy} and num_layers is {self.num_layers}: partial needs one, the others have "
                "none"
            )
        if self.frozen_layers and self.strategy not in ("two_stage", "full") and self.frozen_layers >= -self.num_layers:
            return (
                f"frozen_layers is {self.frozen_layers} and num_layers is {self.num_layers}: it takes some away from "
                "the first layers that a negative num_layers trains"
            )
        return ""

    def _head_problem(self) -> str:
        factor, angular, additive = self.margins
        if not (0 < factor <= 2 and 0 <= angular <= 1.5 and 0 <= additive <= 1):
            return (
                f"margins are {factor:g}, {angular:g}, {additive:g}: the first must lie above 0 and up to 2, the "
                "second in 0 to 1.5, the third in 0 to 1"
            )
        if self.sub_centers > 1 and self.head in ("adaface", "softmax"):
            return f"sub_centers is {self.sub_centers}: the {self.head} head has one centre a class, use arcface"
        return ""

    def stages(self) -> list[int]:
        """The stages of the training: 1 trains the head alone, 2 the backbone too.

        Only recognition's head, which starts from each person's mean embedding, can do without the first.
        """
        alone = self.strategy in ("two_stage", "head_only") or (self.task != RECOGNITION and self.strategy != "scratch")
        first = alone and self.head_epochs > 0
        second = self.strategy != "head_only" and self.epochs > 0
        return [stage for stage, wanted in ((1, first), (2, second)) if wanted]


def read_finetune_options(values: Mapping[str, Any], where: str = "finetune.") -> FinetuneOptions:
    """The options out of names and values, with those of the recipe; `where` precedes each name in an error.

    A value that equals the option's default counts as not given, so that a complete dictionary of options and the few
    that somebody set give the same; the recipe's values stand in its place.

    Raises:
        KubefaceError: one line: unknown names, values out of range, options that contradict each other or have no
            meaning for the task, or a recipe that is unknown or cannot be read.
    """
    options = read_options(FinetuneOptions, values, where)
    return with_recipe(FinetuneOptions(**options.model_dump(exclude_defaults=True)), where)


def with_recipe(options: FinetuneOptions, where: str = "") -> FinetuneOptions:
    """The options with the recipe's values in place of those that were not set, and those that the task has no use for
    switched off; raises KubefaceError as `read_finetune_options`."""
    given = options.model_dump(exclude_unset=True)
    resolved = read_options(FinetuneOptions, _read_recipe(options.recipe) | given, where)
    try:
        resolved.check_agreement()
    except ValueError as error:
        raise KubefaceError(f"{where.rstrip('.')}: {error}" if where else str(error)) from None
    unused = {name: none for name, none in NOT_FOR[resolved.task].items() if none is not None}
    return resolved.model_copy(update=unused)


def recipe_names() -> list[str]:
    """Names of the recipes that ship with kubeface."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _read_recipe(recipe: str) -> dict[str, JsonValue]:
    """The values of a recipe; none for an empty name."""
    if not recipe:
        return {}
    path = RECIPES / f"{recipe}.yaml"
    if recipe not in recipe_names():
        if "/" not in recipe and not recipe.endswith((".yaml", ".yml", ".json")):
            raise KubefaceError(f"recipe '{recipe}' is unknown: use {', '.join(recipe_names())} or a file")
        from kubeface.storage.downloads import fetch  # its packages take a second, and a file as recipe is rare

        path = fetch(recipe)
    try:
        text = path.read_text("utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise KubefaceError(f"{path} is not a readable recipe: {error}") from None
    require(isinstance(values, dict), f"{path} is not a recipe: it must be a mapping of options to values")
    for name in OF_A_RUN:
        require(name not in values, f"{path} sets {name}, which is for the run and not for a recipe: take it out")
    return dict(values)
