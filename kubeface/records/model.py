"""model.json: what a model folder holds, how its input is prepared, and how it was trained."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, JsonValue, SerializerFunctionWrapHandler, StrictInt, model_serializer

from kubeface.records.record import Record
from kubeface.records.tasks import Task

SCHEMA_VERSION: Final = 1
AboveZero = Annotated[float, Field(gt=0)]


class _Sparse(Record):
    """A record of which only what was given is written: not every model has every entry."""

    @model_serializer(mode="wrap")
    def _given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}


class Preprocessing(Record):
    """How a backbone takes its input: square, (x − mean) / std on 0…255."""

    size: Annotated[StrictInt, Field(gt=0)]
    """Side in pixels."""
    color_order: Literal["rgb", "bgr"]
    mean: float | tuple[float, float, float]
    """One number, or one for each channel in color_order."""
    std: AboveZero | tuple[AboveZero, AboveZero, AboveZero]
    """As mean; above 0."""


class AlignmentRecord(_Sparse):
    """How the crops are made that the model takes."""

    template: str
    """Template of align, such as arcface_112."""
    size: int
    """Side of a crop in pixels."""
    detector: str = "mtcnn"
    """Face detector whose landmarks the crops were made by; none for whole photographs."""


class SuperresolutionNetwork(Record):
    """The network that enlarges small faces for the model."""

    name: str
    scale: int
    """How many times it enlarges."""
    sha256: str
    """Of superresolution.onnx."""


class SuperresolutionRecord(SuperresolutionNetwork):
    """The network, and whom it knows."""

    identities: tuple[str, ...] = ()
    """People that it was trained on."""


class StartOnnxRecord(_Sparse):
    """An exported network as it was checked against torch."""

    file: str = ""
    sha256: str = ""
    least_cosine: float | None = None
    """Least cosine between torch's and onnxruntime's embeddings of the same faces."""
    score_gap: float | None = None
    """Largest difference between torch's and onnxruntime's scores; of attributes and classes."""


class OnnxRecord(StartOnnxRecord):
    """model.onnx, and what was exported beside it."""

    opset: int | None = None
    faces: int | None = None
    """Faces that the export was checked on."""
    start: StartOnnxRecord | None = None
    """start.onnx, the model before the training."""
    mtcnn_sha256: str = ""
    """Of mtcnn.zip, the detector's networks; empty where another detector made the crops."""


class GateErrors(Record):
    """Shares of validation crops that quality routing sends to the wrong network; None without such crops."""

    wrong_clean: float | None
    wrong_degraded: float | None


class TrainingRecord(_Sparse):
    """How a model was trained. The training's options stand beside these fields, under their own names."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    producer: str = ""
    image: str | None = None
    """Container image that trained, with its digest; None outside of a container."""
    versions: Mapping[str, str] = Field(default_factory=dict)
    task: Task = "recognition"
    backbone: str = ""
    pretrained: str = ""
    """Weights that were asked for; empty for the published ones."""
    fallback: str = ""
    """What it started from instead and why; empty where it started from what was asked for."""
    start_sha256: str | None = None
    """Of the starting weights by name; None for a model that kubeface did not train."""
    aligned: str | None = None
    split: str | None = None
    seed: int | None = None
    recipe: str = ""
    degradation: str = "none"
    superresolver: str = ""
    """Name of the super-resolution network that degraded crops were enlarged with; empty for bicubic."""
    labels: tuple[str, ...] = ()
    """Names of the scores; of attributes and classes."""
    strategy: str = ""
    epochs: int | None = None
    """Most epochs of the last stage."""
    identities: int | None = None
    images: int | None = None
    best_epoch: int | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    val_auc: float | None = None
    wise_ft_alpha: float | int | None = None
    """Share of the trained weights in the interpolation with the starting ones."""
    wise_ft_scores: Mapping[str, float] = Field(default_factory=dict)
    """Validation AUC by share, where the share was chosen."""
    guard: GateErrors | bool = False
    """Errors of quality routing, False for a model without."""
    onnx: OnnxRecord | None = None
    """What was exported; None for a training without ONNX."""

    def entries(self, leave_out: tuple[str, ...] = ()) -> Mapping[str, JsonValue]:
        """Every entry by name as JSON has it, for who shows them all."""
        return {name: value for name, value in self.model_dump(mode="json").items() if name not in leave_out}


class ModelRecord(_Sparse):
    """model.json."""

    schema_version: Literal[1] = SCHEMA_VERSION
    task: Task = "recognition"
    backbone: str
    preprocessing: Preprocessing
    alignment: AlignmentRecord
    embedding_size: int
    quality_routed: bool = False
    """Whether clean and degraded crops are sent through different networks."""
    start: str = "unknown"
    """Where the starting weights came from."""
    start_license: str = "unknown"
    weights_sha256: str
    head_sha256: str = ""
    superresolution: SuperresolutionRecord | None = None
    training: TrainingRecord = TrainingRecord()
    trained: bool = True
    """Whether the run that wrote this trained the model; if not, it handed on the promoted one."""
    reason: str = ""
    """Why a promoted model was handed on; empty for one that was trained."""
