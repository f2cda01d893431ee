"""What Kubeflow's UI shows of a model: the properties of its artifacts."""

from pathlib import Path
from textwrap import shorten

from pydantic import JsonValue

from components.execution import Artifact
from kubeface.records.evaluation import AttributesThreshold, ClassesThreshold, RecognitionThreshold
from kubeface.records.model import ModelRecord
from kubeface.records.promotion import PromotionRecord
from kubeface.records.tasks import ATTRIBUTES, CLASSES

LATIN = str.maketrans({"→": "->", "−": "-", "≥": ">=", "…": "..."})
MOST_LETTERS = 200  # of a reason: a task that takes the artifact is told it, in six copies


def describe_model(model: Artifact, champion: str) -> None:
    """Says of finetune's model what it is; `champion` is the folder of its promoted versions, empty for none."""
    record = ModelRecord.read(Path(model.path, "model.json"))
    name = champion.rstrip("/").rpartition("/")[2]
    _set(model, name=name or None, promoted=None if record.trained else True, **_kind(record))


def describe_promotion(promotion: Artifact, model: Artifact, evaluation: Artifact, name: str) -> None:
    """Says of promote's output whether the model is in force, as which version and with which threshold."""
    record, decided = ModelRecord.read(Path(model.path, "model.json")), promotion.path
    found = PromotionRecord.read(Path(decided, "promotion.json"))
    reason = shorten(found.reason, MOST_LETTERS, placeholder=" ...")
    _set(promotion, name=name, promoted=found.promoted, reason=reason, version=found.version, uri=found.uri)
    _set(promotion, **_kind(record), **_thresholds(record.task, Path(evaluation.path, "threshold.json")))


def _kind(record: ModelRecord) -> dict[str, JsonValue]:
    return {"task": record.task, "backbone": record.backbone, "start_license": record.start_license}


def _thresholds(task: str, path: Path) -> dict[str, JsonValue]:
    """The score from which on a pair matches or a class is accepted; of attributes one for each label."""
    if not path.is_file():
        return {}
    if task == ATTRIBUTES:
        return {"thresholds": dict(AttributesThreshold.read(path).labels)}
    if task == CLASSES:
        unknown = ClassesThreshold.read(path).unknown
        return {"threshold": unknown.threshold if unknown else None}
    return {"threshold": RecognitionThreshold.read(path).threshold}


def _set(artifact: Artifact, **properties: JsonValue) -> None:
    """Sets properties; one that is not known is left out, for KFP's launcher ends at None."""
    artifact.metadata.update({name: _plain(value) for name, value in properties.items() if value is not None})


def _plain(value: JsonValue) -> JsonValue:
    """A value without letters beyond Latin-1: a task that takes the artifact is told them in its Workflow, and Kubeflow
    Pipelines on a database of that character set would not keep it: the run would stand at RUNNING for ever."""
    if isinstance(value, dict):
        return {str(_plain(name)): one for name, one in value.items()}
    if not isinstance(value, str):
        return value
    return value.translate(LATIN).encode("latin-1", "replace").decode("latin-1")
