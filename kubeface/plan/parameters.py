"""The parameters of each pipeline, and what each step makes of them.

A pipeline has few parameters: the run's own, and the options of each step as one dictionary. Values that several steps
share (seed, degradation …) are given once, to the run, and `step_options` hands them to the steps.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationError, model_validator

from kubeface.align.options import AlignOptions
from kubeface.audit.options import AuditOptions
from kubeface.evaluate.options import EvaluateAttributesOptions, EvaluateClassesOptions, EvaluateOptions
from kubeface.filter.options import FilterOptions
from kubeface.finetune.options import NOT_FOR, FinetuneOptions, with_recipe
from kubeface.gather.options import GatherOptions
from kubeface.ingest.options import IngestOptions
from kubeface.notify.options import NotifyOptions
from kubeface.plan.resources import Resources
from kubeface.promote.options import PromoteOptions
from kubeface.records.gate import RecognitionGate
from kubeface.records.tasks import ATTRIBUTES, CLASSES, RECOGNITION, Task
from kubeface.report.options import ReportOptions
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import AnyOptions, Options, Seed, explain, read_options
from kubeface.split.options import SplitOptions
from kubeface.superresolve.options import SuperresolveOptions

Evaluation = EvaluateOptions | EvaluateAttributesOptions | EvaluateClassesOptions
# Options that the run sets, by step: they are given once, as the run's own parameter or none at all.
RUN_WIDE: Mapping[str, tuple[str, ...]] = {
    "ingest": ("seed",),
    "audit": ("previous", "seed", "task"),
    "split": ("seed", "task"),
    "finetune": ("backbone", "degradation", "recipe", "seed", "superresolver", "task"),
    "scratch": ("backbone", "degradation", "recipe", "seed", "superresolver", "task"),
    "evaluate": ("degradation", "seed"),
    "promote": ("name", "destination"),
    "notify": ("title",),
}
TRAINING_DEFAULTS = FinetuneOptions().model_dump(mode="json")
SCRATCH = {"backbone": "small_cnn", "recipe": "scratch"}  # the small network that a classifier is compared with


class RunParameters(Options):
    """What every pipeline can be told."""

    task: ClassVar[Task] = RECOGNITION

    source: Annotated[str, Field(min_length=1)]
    """Images, one folder per person: s3://bucket/prefix, a folder, or a .tar, .tgz or .zip."""
    models: Annotated[str, Field(min_length=1)]
    """Where promoted models are kept: s3://bucket/models or a folder."""
    name: Annotated[str, Field(pattern=r"^[\w-]+$")] = "face-model"
    """Name of the model below `models`."""
    backbone: str = "sface"
    """Architecture, such as sface, iresnet50 or edgeface_xs_gamma_06."""
    degradation: str = "none"
    """What your cameras do to faces: noise:60, lowres:14, blur:4, jpeg:5, dark, grey, masked, rotated:15, or none. It
    is put on training and validation crops and on those of the held-out people."""
    recipe: str = ""
    """Options of fine-tuning by name (low-resolution, noise …) or from a file (s3://, https:// with #sha256=…); empty
    for the defaults. Options of finetune that are not the defaults go before it."""
    seed: Seed = 0
    """Seed of everything random."""
    resources: Resources = Resources()
    """Shards, and what the pods ask for."""
    ingest: IngestOptions = IngestOptions()
    """How the source is read."""
    align: AlignOptions = AlignOptions()
    """How faces are found and cropped."""
    filter: FilterOptions = FilterOptions()
    """Which crops are kept."""
    audit: AuditOptions = AuditOptions()
    """What is done about duplicates, wrong labels, leaks and drift."""
    split: SplitOptions = SplitOptions()
    """Who is trained on and who is held out."""
    finetune: FinetuneOptions = FinetuneOptions()
    """How the model is trained."""
    evaluate: Evaluation
    """How the models are compared."""
    promote: PromoteOptions = PromoteOptions()
    """Where a promoted model is registered."""
    notify: NotifyOptions = NotifyOptions()
    """What the webhook is told."""


class FaceFinetuning(RunParameters):
    """Parameters of face-finetuning."""

    evaluate: EvaluateOptions = EvaluateOptions()
    """How the models are compared."""

    @model_validator(mode="after")
    def _faces_are_found(self) -> Self:
        if self.align.detector == "none":
            raise ValueError("align.detector is none: recognition needs faces, use mtcnn or retinaface")
        return self


class LowResolution(FaceFinetuning):
    """Parameters of low-resolution."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$")] = "low-resolution"
    """Name of the model below `models`."""
    backbone: str = "edgeface_xs_gamma_06"
    """Architecture, such as edgeface_xs_gamma_06, sface or iresnet50."""
    degradation: str = "lowres:10-20"
    """What makes low resolution of sharp photographs in training, and in the evaluation where the source has no images
    of low resolution: lowres:10-20 draws a side in pixels for each; or none."""
    recipe: str = "two-stage"
    """Options of fine-tuning by name (two-stage, low-resolution) or from a file; options of finetune that differ from
    their defaults go before it. Empty for the defaults."""
    superresolve: SuperresolveOptions = SuperresolveOptions()
    """How photographs of low resolution are enlarged before their faces are looked for."""
    finetune: FinetuneOptions = FinetuneOptions(fallback="sface")
    """How the model is trained."""
    evaluate: EvaluateOptions = EvaluateOptions(gate=RecognitionGate(target="heldout_cross"))
    """How the models are compared."""


class FaceAttributes(RunParameters):
    """Parameters of face-attributes."""

    task: ClassVar[Task] = ATTRIBUTES

    name: Annotated[str, Field(pattern=r"^[\w-]+$")] = "face-attributes"
    """Name of the model below `models`."""
    backbone: str = "resnet50"
    """Architecture, such as resnet50 and vgg16 (ImageNet), sface or iresnet50 (faces)."""
    recipe: str = ATTRIBUTES
    """Options of fine-tuning by name or from a file; options of finetune that are not the defaults go before it."""
    align: AlignOptions = AlignOptions(template="portrait_224")
    """How faces are found and cropped."""
    split: SplitOptions = SplitOptions(task=ATTRIBUTES, min_images=1)
    """Who is trained on and who is held out."""
    evaluate: EvaluateAttributesOptions = EvaluateAttributesOptions()
    """How the models are compared."""


class ImageClassification(RunParameters):
    """Parameters of image-classification."""

    task: ClassVar[Task] = CLASSES

    name: Annotated[str, Field(pattern=r"^[\w-]+$")] = "image-classes"
    """Name of the model below `models`."""
    backbone: str = "resnet50"
    """Architecture, such as resnet50 and vgg16 (ImageNet), sface or iresnet50 (faces)."""
    recipe: str = CLASSES
    """Options of fine-tuning by name or from a file; options of finetune that are not the defaults go before it."""
    align: AlignOptions = AlignOptions(detector="none", template="whole_224")
    """What of a photograph is the crop."""
    split: SplitOptions = SplitOptions(task=CLASSES, heldout_fraction=0.2, min_images=3)
    """Which images are trained on and which are held out."""
    scratch: FinetuneOptions = FinetuneOptions()
    """How the small network is trained from scratch that the model is compared with."""
    evaluate: EvaluateClassesOptions = EvaluateClassesOptions()
    """How the models are compared."""


PIPELINES: Mapping[str, type[RunParameters]] = {
    "face-finetuning": FaceFinetuning,
    "face-attributes": FaceAttributes,
    "image-classification": ImageClassification,
    "low-resolution": LowResolution,
}


def parameters_of(pipeline: str) -> type[RunParameters]:
    """The parameters of a pipeline. Raises KubefaceError if there is none of this name."""
    if pipeline not in PIPELINES:
        raise KubefaceError(f"pipeline '{pipeline}' is unknown: use one of {', '.join(PIPELINES)}")
    return PIPELINES[pipeline]


def defaults(kind: type[RunParameters]) -> dict[str, Any]:
    """The default of each parameter that has one, as the UI shows it: JSON values, without what the run sets and what
    the task has no use for."""
    found: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if field.is_required():
            continue
        value = field.get_default(call_default_factory=True)
        if isinstance(value, Options):
            unused = NOT_FOR[kind.task] if isinstance(value, FinetuneOptions) else {}
            value = value.model_dump(mode="json", exclude={*RUN_WIDE.get(name, ()), *unused})
        found[name] = value
    return found


def read_parameters(pipeline: str, values: Mapping[str, Any]) -> RunParameters:
    """The parameters of a run of a pipeline, checked as a whole; nothing is fetched. What is absent has the pipeline's
    default, in a step's dictionary too.

    Raises KubefaceError with one line on all that is wrong: unknown names with the nearest known one, missing ones,
    wrong types, values out of range, options that are the run's own."""
    kind = parameters_of(pipeline)
    given = {name: value for name, value in values.items() if value != {} or name in kind.model_fields}
    wrong = list(_given_twice(given))
    try:
        found = kind.model_validate(_told(kind, given))
    except ValidationError as error:
        wrong.append(explain(error, kind))
    if wrong:
        raise KubefaceError("; ".join(wrong))
    return found


def _told(kind: type[RunParameters], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values over the pipeline's defaults; steps whose rules depend on task and recipe are told of them."""
    shown = defaults(kind)
    found = merged(shown, given)
    for step, recipe in (("finetune", found.get("recipe")), ("scratch", SCRATCH["recipe"])):
        if isinstance(options := found.get(step), Mapping):
            meant = _meant(given.get(step, {}), shown[step])
            found[step] = {name: value for name, value in options.items() if meant(name, value)} | {"recipe": recipe}
    for step in ("audit", "split", "finetune", "scratch"):
        if isinstance(options := found.get(step), Mapping):
            found[step] = {**options, "task": kind.task}
    return found


def _meant(given: Any, shown: Mapping[str, Any]) -> Callable[[str, Any], bool]:
    """Which options of a training were meant, and so go before the recipe's: those that were given, or, of a complete
    dictionary as the UI's form gives it, those that are not at their defaults."""
    complete = isinstance(given, Mapping) and given.keys() >= shown.keys()
    explicit = set() if complete or not isinstance(given, Mapping) else set(given)
    return lambda name, value: name in explicit or TRAINING_DEFAULTS.get(name, ...) != value


def _given_twice(values: Mapping[str, Any]) -> Iterator[str]:
    """What is said of options that the run sets, where they differ from what a step has by itself."""
    for step, names in RUN_WIDE.items():
        options = values.get(step)
        given = [name for name in names if name in options] if isinstance(options, Mapping) else []
        for name in given:
            yield f"{step}.{name} is the run's own: " + (
                f"give {name}" if name in RunParameters.model_fields else "it cannot be given"
            )


def merged(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values over defaults; dictionaries are merged, other values replaced."""
    found = dict(defaults)
    for name, value in values.items():
        before = found.get(name)
        found[name] = (
            merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) and before else value
        )
    return found


@dataclass(frozen=True)
class StepOptions:
    """The complete options of every step of a run; None for a step that the pipeline does not have."""

    ingest: IngestOptions
    superresolve: SuperresolveOptions | None
    align: AlignOptions
    filter: FilterOptions
    gather: GatherOptions
    audit: AuditOptions
    split: SplitOptions
    finetune: FinetuneOptions
    scratch: FinetuneOptions | None
    evaluate: Evaluation
    promote: PromoteOptions
    report: ReportOptions


def step_options(pipeline: str, run: RunParameters) -> StepOptions:
    """The options of each step, with what the run sets; recipes are read, from wherever they are. Raises KubefaceError
    if a recipe cannot be read, or options do not go together."""
    previous = f"{run.models.rstrip('/')}/{run.name}/data.json"
    superresolve = run.superresolve if isinstance(run, LowResolution) else None
    shared = {"seed": run.seed, "task": run.task}
    audit: dict[str, Any] = {"previous": previous}
    if isinstance(run, FaceFinetuning):
        audit["evaluation_sets"] = f"{run.audit.evaluation_sets} {run.evaluate.lfw_archive}".strip()
    training = shared | {"degradation": run.degradation}
    if superresolve:
        training["superresolver"] = superresolve.model
    return StepOptions(
        # A shard's text carries who is to be forgotten in it: a name more does not void what the others have cached.
        ingest=_with(run.ingest, seed=run.seed, forget=""),
        superresolve=superresolve,
        align=run.align,
        filter=run.filter,
        gather=GatherOptions(forget=run.ingest.forget, previous=previous, seed=run.seed),
        audit=_with(run.audit, **shared, **audit),
        split=_with(run.split, **shared),
        finetune=_trained(run.finetune, training | {"backbone": run.backbone, "recipe": run.recipe}),
        scratch=_trained(run.scratch, training | SCRATCH, "scratch.") if isinstance(run, ImageClassification) else None,
        evaluate=_with(run.evaluate, degradation=run.degradation, seed=run.seed),
        promote=_with(run.promote, name=run.name, destination=run.models),
        report=ReportOptions(pipeline=pipeline, seed=run.seed),
    )


def _with(options: AnyOptions, **values: Any) -> AnyOptions:
    """The options with some values replaced, and checked again."""
    return read_options(type(options), options.model_dump() | values)


def _trained(options: FinetuneOptions, values: Mapping[str, Any], where: str = "finetune.") -> FinetuneOptions:
    return with_recipe(
        read_options(FinetuneOptions, options.model_dump(exclude_unset=True) | dict(values), where), where
    )
