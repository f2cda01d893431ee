"""Promote: publishes the fine-tuned model if the gate found it better."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from kubeface import __version__
from kubeface.promote.card import model_card
from kubeface.promote.champion import Standing, read_champion, replace_champion, stored_text
from kubeface.promote.options import PromoteOptions
from kubeface.promote.passport import MODELS, PASSPORT_FILE, differences, make_passport
from kubeface.promote.registries import register_kubeflow, register_mlflow
from kubeface.records.champion import model_home
from kubeface.records.data import DataRecord
from kubeface.records.evaluation import Evaluation, RecognitionEvaluation, read_evaluation
from kubeface.records.model import ModelRecord
from kubeface.records.promotion import PromotionRecord
from kubeface.records.record import StepResult
from kubeface.records.tasks import task_of
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from kubeface.storage.folders import new_folder, read_json, sha256_file, write_json

# The part of an evaluation that goes with the model: figures, but no names of files, nor of people that labels.json
# lacks.
METRICS = (
    "task", "baseline", "finetuned", "champion", "scratch", "gain", "gain_over_champion", "gain_over_scratch", "gate",
    "paired", "probes", "low_resolution", "resolutions", "groups", "identification", "calibration", "compatibility",
    "labels", "thresholds", "chosen_on",
)  # fmt: skip
NETWORK_FILES = ("superresolution.onnx", "superresolution.json")  # the network that enlarges small faces
BEST = "checkpoints/best.safetensors"
OPTIONAL_FILES = (
    "labels.json", "head.safetensors", "start.onnx", "logs/history.json", "sampling.json", "mtcnn.zip",
)  # fmt: skip


class PromoteResult(StepResult):
    """What promote did: files of the version in, files in force out (0 where it was not promoted)."""

    promoted: bool
    """Whether the model of this run is the champion now."""
    trained: bool
    """Whether the run trained a model; if not, the promoted one stays and nothing was written."""


@dataclass(frozen=True)
class Challenger:
    """A model that a run trained and measured, with data.json of gather and audit, of those that were given, by
    name.
    """

    model: Path
    evaluation: Path
    record: ModelRecord
    measured: Evaluation
    data: Mapping[str, Path]

    @property
    def version(self) -> str:
        """Made of the SHA-256 of weights and evaluation, so that the same promotion has the same address."""
        return f"{self.record.weights_sha256[:12]}-{sha256_file(self.evaluation / 'evaluation.json')[:8]}"


def promote(
    model: Path,
    evaluation: Path,
    out: Path,
    gathered: Path | None = None,
    audited: Path | None = None,
    options: PromoteOptions = PromoteOptions(),
    champion: str = "",
) -> PromoteResult:
    """Publishes a model and makes it the champion, if the gate found it better than the one before.

    The version goes below `<destination>/<name>/<version>/` with threshold, metrics, model card and passport. The
    champion, `<destination>/<name>/champion.json`, changes last, and only if it is still the one that the model was
    compared with: of two promotions at the same time one wins, the other one reports who won. A version that is there
    already, complete, is left as it is. If the gate did not find the model better, the reason is reported and the run
    goes on. A model that the run did not train but handed on is in force already: nothing is written but
    promotion.json.

    Args:
        model: Model folder of finetune.
        evaluation: Folder of evaluate.
        out: Folder to write promotion.json, passport.json, metrics.json and model_card.md to.
        gathered: Folder of gather; with `audited` it goes into the model card, and is kept as
            `<destination>/<name>/data.json` for the next run to compare with, whatever the gate says.
        audited: Audit table, with data.json beside it.
        options: Where it is published, and under which name.
        champion: URI of the champion that evaluate compared with; empty where there was none.

    Raises:
        KubefaceError: wrong name, missing files, an evaluation of another model, a super-resolution network that is
            not the model's, a name under which a model of another task is promoted, or a destination that cannot be
            written to. A registry that does not answer is a warning.
    """
    home = model_home(options.destination, options.name)
    challenger = _read_challenger(model, evaluation, gathered, audited)
    standing = read_champion(home)
    _check_same_task(standing, challenger.record.task)
    with new_folder(out) as folder:
        if challenger.record.trained:
            files = _write_version(challenger, standing, options.name, folder)
            promotion = _decide(challenger, standing, files, options, champion)
        else:
            files, promotion = [], _keep(challenger, standing)
        promotion.write(folder / "promotion.json")
    outcome = f"promoted to {promotion.uri}" if promotion.promoted else "not promoted"
    print(f"promote: {outcome}: {promotion.reason}", flush=True)
    return PromoteResult(
        rows_in=len(files),
        rows_out=len(files) if promotion.promoted else 0,
        promoted=promotion.promoted,
        trained=promotion.trained,
    )


def _read_challenger(model: Path, evaluation: Path, gathered: Path | None, audited: Path | None) -> Challenger:
    data = {kind: path / "data.json" for kind, path in (("gathered", gathered), ("audited", audited)) if path}
    record = ModelRecord.read(model / "model.json")
    challenger = Challenger(model, evaluation, record, read_evaluation(evaluation / "evaluation.json"), data)
    _check_same_model(challenger)
    _check_network(record, model)
    return challenger


def _keep(challenger: Challenger, standing: Standing) -> PromotionRecord:
    """The promotion of a run that trained nothing.

    data.json of the training before stays too: drift adds up against it until another training is worthwhile.
    """
    reason = (
        f"this model is in force already, as version {standing.version}"
        if standing.version
        and stored_text(standing.uri, "model.json", "weights_sha256") == challenger.record.weights_sha256
        else f"nothing was trained, and {standing.version or 'no version'} is in force now"
    )
    return PromotionRecord(
        producer=f"promote {__version__}",
        promoted=False,
        trained=False,
        reason=f"{reason}: {challenger.record.reason}" if challenger.record.reason else reason,
        uri=standing.uri or None,
        version=standing.version or None,
        champion=standing.uri or None,
    )


def _write_version(challenger: Challenger, standing: Standing, name: str, folder: Path) -> list[Path]:
    """Writes model card, metrics and passport, and keeps data.json for the next run; returns the version's files."""
    gathered = challenger.data.get("gathered")
    erasure = DataRecord.read(gathered).erasure if gathered else None
    card = model_card(name, challenger.version, challenger.record, challenger.measured, erasure)
    (folder / "model_card.md").write_text(card, "utf-8")
    write_json(folder / "metrics.json", _metrics(challenger.measured))
    files = _files(challenger, folder)
    passport = make_passport(name, challenger.record, challenger.measured, erasure, challenger.data, files)
    passport.write(folder / PASSPORT_FILE)
    if challenger.data:
        merged = {key: value for path in challenger.data.values() for key, value in read_json(path).items()}
        write_json(folder / "data.json", merged)
        objects.upload(folder / "data.json", objects.join(standing.home, "data.json"))
    return [*files[:-1], folder / PASSPORT_FILE, files[-1]]


def _decide(
    challenger: Challenger, standing: Standing, files: Sequence[Path], options: PromoteOptions, compared: str
) -> PromotionRecord:
    """Promotes a version, its `files` with model.json last, if the gate found it better, and registers it.

    `standing` is the champion as it was read before, `compared` the URI of the one that evaluate compared with.
    """
    version, gate = challenger.version, challenger.measured.gate
    uri = objects.join(standing.home, version)
    promoted, lost_to, reason = gate.better, None, gate.reason
    if promoted and (winner := _take_over(standing, compared, version, files, reason)):
        promoted, lost_to = False, objects.join(standing.home, winner)
        reason = f"{lost_to} is the champion, which this model was not compared with: run again to compare them"
    before = standing.record.before() if standing.version == version else standing.version
    return PromotionRecord(
        producer=f"promote {__version__}",
        promoted=promoted,
        reason=reason,
        uri=uri if promoted else None,
        version=version if promoted else None,
        champion=objects.join(standing.home, before) if before else None,
        lost_to=lost_to,
        registered=_register(version, uri, challenger.record, options) if promoted else {},
        sha256={file.name: sha256_file(file) for file in files},
    )


def _check_same_model(challenger: Challenger) -> None:
    """Refuses an evaluation or a threshold of other weights, or of the same ones with another head."""
    record, folder = challenger.record, challenger.evaluation
    onnx = record.training.onnx
    expected = {"weights_sha256": record.weights_sha256, "onnx_sha256": onnx.sha256 if onnx else ""}
    measured = challenger.measured.models.get("finetuned")
    stated = {"evaluation.json": measured.model_dump() if measured else {}}
    if (folder / "threshold.json").is_file():
        stated["threshold.json"] = read_json(folder / "threshold.json")
    for name, entry in stated.items():
        require(
            all(not sha256 or entry.get(key, sha256) == sha256 for key, sha256 in expected.items())
            and challenger.measured.task == record.task,
            f"{folder / name} is of another model: give the evaluation of this one",
        )


def _check_network(record: ModelRecord, model: Path) -> None:
    """Refuses a super-resolution network other than the one that model.json names."""
    if not record.superresolution:
        return
    for name in NETWORK_FILES:
        require((model / name).is_file(), f"{model / name} is missing, which model.json names: copy the folder anew")
    require(
        sha256_file(model / NETWORK_FILES[0]) == record.superresolution.sha256,
        f"{model / NETWORK_FILES[0]} is not the network that model.json names: copy the folder anew",
    )


def _check_same_task(standing: Standing, task: str) -> None:
    """Refuses a name under which a model of another task is in force."""
    config = objects.join(standing.uri, "model.json")
    if not standing.version or not objects.exists(config):
        return
    try:
        promoted = task_of(json.loads(objects.read_bytes(config)))
    except ValueError:  # the version was damaged; promoting the same one writes it again
        return
    require(
        promoted == task,
        f"{standing.home} is promoted for task {promoted}, this model is for {task}: use another name",
    )


def _metrics(evaluation: Evaluation) -> dict[str, JsonValue]:
    """The part of an evaluation that goes with the model; confusion matrices, which grow with the square, do not."""
    without_confusion = {model: {"__all__": {"confusion"}} for model in MODELS if evaluation.figures_of(model)}
    values = evaluation.model_dump(mode="json", exclude=without_confusion)
    return {name: values[name] for name in METRICS if values.get(name)}


def _files(challenger: Challenger, folder: Path) -> list[Path]:
    """The files of a version but the passport, in the order in which they are written.

    start.onnx, the epochs and the sampling go with it, so that a later run that hands the version on can evaluate it
    again and report how it was trained. A model that was measured at low resolution takes its super-resolution network
    with it, where it has one, and best.safetensors, backbone and head of the best epoch, for those who continue
    training: identities.json names the person of each row of that head. model.json goes last: readers begin with it,
    and so never find half a version.
    """
    model, evaluation, record = challenger.model, challenger.evaluation, challenger.record
    low_resolution = isinstance(challenger.measured, RecognitionEvaluation) and challenger.measured.resolutions
    optional = [*OPTIONAL_FILES, *([BEST] if low_resolution else [])]
    required = [
        "model.safetensors",
        *(["model.onnx"] if record.training.onnx else []),
        *(NETWORK_FILES if record.superresolution else ()),
        "identities.json",
        "model.json",
    ]
    return [
        folder / "model_card.md",
        folder / "metrics.json",
        *(path for path in (evaluation / "threshold.json", *(model / name for name in optional)) if path.is_file()),
        *(model / name for name in required),
    ]


def _take_over(standing: Standing, compared: str, version: str, files: Sequence[Path], reason: str) -> str:
    """Makes a version the champion, its files written in their order; returns the version that is champion instead,
    empty
    where this one is. Arguments are as in `_decide`; the reason is for the history.
    """
    if standing.version not in ("", version, compared.rstrip("/").rpartition("/")[2]):
        return standing.version
    uri = objects.join(standing.home, version)
    if differences(uri):
        for file in files:
            objects.upload(file, objects.join(uri, file.name))
        remaining = differences(uri)
        require(not remaining, f"{uri} was not written completely ({'; '.join(remaining)}): start again")
    if standing.version == version or replace_champion(standing, version, "promoted", reason):
        return ""
    now = read_champion(standing.home).version
    return "" if now == version else now


def _register(version: str, uri: str, record: ModelRecord, options: PromoteOptions) -> dict[str, str]:
    """Registers a version in the registries that were asked for; by registry, `registered` or why not."""
    properties = {
        "weights_sha256": record.weights_sha256,
        "backbone": record.backbone,
        "start_license": record.start_license,
    }
    registries: dict[str, tuple[str, Callable[..., None]]] = {
        "model_registry": (options.model_registry, register_kubeflow),
        "mlflow": (options.mlflow, register_mlflow),
    }
    outcomes = {}
    for registry, (address, register) in registries.items():
        if address:
            try:
                register(address, options.name, version, uri, properties)
                outcomes[registry] = "registered"
            except KubefaceError as error:
                outcomes[registry] = str(error)
                print(f"promote: promoted, but not registered: {error}", file=sys.stderr, flush=True)
    return outcomes
