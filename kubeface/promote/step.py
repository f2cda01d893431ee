"""Promote: hands the fine-tuned model on, if the gate found it better."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubeface import __version__
from kubeface.promote.card import model_card
from kubeface.promote.champion import Champion, home_of, move, read_champion
from kubeface.promote.passport import MODELS, PASSPORT_FILE, differences, passport
from kubeface.promote.registries import register_kubeflow, register_mlflow
from kubeface.records.tasks import task_of
from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage import objects
from kubeface.storage.folders import new_folder, read_json, sha256_file, write_json

# What of an evaluation goes with the model: figures, and no names of files, or of people that labels.json has not.
METRICS = ("baseline", "finetuned", "gain", "gate")
FURTHER_METRICS = (
    "champion",
    "gain_over_champion",
    "paired",
    "probes",
    "few_pixels",
    "resolutions",
    "groups",
    "identification",
    "calibration",
    "compatibility",
    "task",
    "labels",
    "scratch",
    "gain_over_scratch",
    "thresholds",
    "chosen_on",
)
# The network that enlarges small faces for the model, and what is told of it.
NETWORK_FILES = ("superresolution.onnx", "superresolution.json")
BEST = "checkpoints/best.safetensors"


def promote(
    model: Path,
    evaluation: Path,
    out: Path,
    name: str,
    destination: str,
    gathered: Path | None = None,
    audited: Path | None = None,
    champion: str = "",
    model_registry: str = "",
    mlflow: str = "",
) -> dict[str, Any]:
    """Makes a better model the champion: writes it with threshold, metrics, model card and passport.

    They go below `<destination>/<name>/<version>/`, and only where the gate says better. Where it does not, says so,
    and the run goes on. The champion, `<destination>/<name>/champion.json`, moves last and only if it is still the one
    that the model was compared with: of two promotions at the same time one wins, the other one says who won. The
    version is made of the SHA-256 of weights and evaluation, so that the same promotion has the same address; what
    stands there whole is left as it is. A model that was measured at few pixels takes its super-resolution network
    with it, where it has one, and best.safetensors, backbone and head of the best epoch, for who goes on training:
    identities.json says which person each row of that head is. Leaves promotion.json, passport.json, metrics.json and
    model_card.md in `out` either way.

    Args:
        model: Model folder of finetune.
        evaluation: Folder of evaluate.
        out: Folder to write promotion.json, passport and model card to.
        name: Name of the model, letters, digits, - and _.
        destination: Where models are kept, s3://bucket/models or a folder.
        gathered: Folder of gather; with `audited` it is told in the model card, and left as
            `<destination>/<name>/data.json` for the next run to compare with, whatever the gate says.
        audited: Audit table, with data.json beside it.
        champion: URI of the champion that evaluate compared with; empty where there was none.
        model_registry: URL of a Kubeflow Model Registry to tell of the version; empty for none.
        mlflow: Tracking URI of an MLflow server to tell of the version; empty for none.

    Returns:
        rows_in (files of the version), rows_out (files in force, 0 where it was not promoted), promoted.

    Raises:
        KubefaceError: wrong name, missing files, an evaluation of another model, a super-resolution network that is
            not the model's, a name under which a model of another task is promoted, or a destination that cannot be
            written to. A registry that does not answer is a warning.
    """
    home = home_of(destination, name)
    config, measured = read_json(model / "model.json"), read_json(evaluation / "evaluation.json")
    _check_same_model(config, measured, evaluation)
    _check_network(config, model)
    standing, mark = read_champion(home)
    _check_same_task(home, standing, task_of(config))
    version = f"{config['weights_sha256'][:12]}-{sha256_file(evaluation / 'evaluation.json')[:8]}"
    uri = objects.join(home, version)
    gate = measured["gate"]
    sources = {kind: path / "data.json" for kind, path in (("gathered", gathered), ("audited", audited)) if path}
    data: dict[str, Any] = {}
    for path in sources.values():
        data |= read_json(path)
    with new_folder(out) as folder:
        (folder / "model_card.md").write_text(model_card(name, version, config, measured, data), "utf-8")
        write_json(folder / "metrics.json", _metrics(measured))
        files = _files(model, evaluation, folder, config, bool(measured.get("resolutions")))
        write_json(folder / PASSPORT_FILE, passport(name, config, measured, data, sources, files))
        files.insert(-1, folder / PASSPORT_FILE)
        if data:
            write_json(folder / "data.json", data)
            objects.upload(folder / "data.json", objects.join(home, "data.json"))
        promoted, lost_to, reason = gate["better"], None, gate["reason"]
        if promoted and (winner := _take_over(home, standing, mark, champion, version, files, reason)):
            promoted, lost_to = False, objects.join(home, winner)
            reason = f"{lost_to} is the champion, which this model was not compared with: run again to compare them"
        registered = _register(name, version, uri, config, model_registry, mlflow) if promoted else {}
        before = standing.before() if standing.version == version else standing.version
        write_json(
            folder / "promotion.json",
            {
                "producer": f"promote {__version__}",
                "promoted": promoted,
                "reason": reason,
                "uri": uri if promoted else None,
                "version": version if promoted else None,
                "champion": objects.join(home, before) if before else None,
                "lost_to": lost_to,
                "registered": registered,
                "sha256": {file.name: sha256_file(file) for file in files},
            },
        )
    print(f"promote: {f'promoted to {uri}' if promoted else 'not promoted'}: {reason}", flush=True)
    return {"rows_in": len(files), "rows_out": len(files) if promoted else 0, "promoted": promoted}


def _check_same_model(config: dict[str, Any], measured: dict[str, Any], evaluation: Path) -> None:
    """Refuses an evaluation or a threshold of other weights, or of the same ones with another head."""
    told = {"evaluation.json": measured.get("models", {}).get("finetuned", {})}
    if (evaluation / "threshold.json").is_file():
        told["threshold.json"] = read_json(evaluation / "threshold.json")
    ours = {
        "weights_sha256": config["weights_sha256"],
        "onnx_sha256": (config["training"].get("onnx") or {}).get("sha256"),
    }
    for name, entry in told.items():
        require(
            all(sha256 in (None, entry.get(key, sha256)) for key, sha256 in ours.items())
            and task_of(measured) == task_of(config),
            f"{evaluation / name} is of another model: give the evaluation of this one",
        )


def _check_network(config: dict[str, Any], model: Path) -> None:
    """Refuses a super-resolution network other than the one that model.json tells of."""
    told = config.get("superresolution")
    if not told:
        return
    for name in NETWORK_FILES:
        require((model / name).is_file(), f"{model / name} is missing, which model.json tells of: copy the folder anew")
    require(
        sha256_file(model / NETWORK_FILES[0]) == told["sha256"],
        f"{model / NETWORK_FILES[0]} is not the network that model.json tells of: copy the folder anew",
    )


def _check_same_task(home: str, standing: Champion, task: str) -> None:
    """Refuses a name under which a model of another task is in force."""
    config = objects.join(objects.join(home, standing.version), "model.json")
    if not standing.version or not objects.exists(config):
        return
    try:
        promoted = task_of(json.loads(objects.read_bytes(config)))
    except ValueError:  # a version that was damaged; a promotion of the same one writes it again
        return
    require(
        promoted == task,
        f"{home} is promoted for task {promoted}, this model is for {task}: use another name",
    )


def _metrics(measured: dict[str, Any]) -> dict[str, Any]:
    """What of an evaluation goes with the model; confusion matrices, which grow with the square, stay behind."""
    told = {key: measured[key] for key in METRICS}
    told |= {key: measured[key] for key in FURTHER_METRICS if measured.get(key)}
    for model in (model for model in MODELS if model in told):
        told[model] = {
            kind: {key: value for key, value in figures.items() if key != "confusion"}
            for kind, figures in told[model].items()
        }
    return told


def _files(model: Path, evaluation: Path, folder: Path, config: dict[str, Any], few_pixels: bool) -> list[Path]:
    """The files of a version in the order in which they are written, the passport apart.

    model.json goes last: whoever reads a version starts with it, and so never finds half of one.

    Args:
        model, evaluation, folder: where they are.
        config: model.json.
        few_pixels: the model was measured at few pixels.
    """
    exported = [*([model / "model.onnx"] if "onnx" in config["training"] else []), *model.glob("mtcnn.zip")]
    head = [path for path in (model / "labels.json", model / "head.safetensors") if path.is_file()]
    network = [model / name for name in NETWORK_FILES if config.get("superresolution")]
    trained = [path for path in (model / BEST,) if few_pixels and path.is_file()]
    threshold = [evaluation / "threshold.json"] if (evaluation / "threshold.json").is_file() else []
    return [
        folder / "model_card.md",
        folder / "metrics.json",
        *threshold,
        model / "model.safetensors",
        *head,
        *exported,
        *network,
        *trained,
        model / "identities.json",
        model / "model.json",
    ]


def _take_over(
    home: str, standing: Champion, mark: str, compared: str, version: str, files: list[Path], reason: str
) -> str:
    """Makes a version the champion; returns the version that is champion instead, empty where this one is.

    Args:
        home: folder or prefix of the model.
        standing, mark: the champion as it was read in the beginning.
        compared: URI of the champion that the version was compared with; empty for none.
        version, files: of the new one.
        reason: for the history.
    """
    if standing.version not in ("", version, compared.rstrip("/").rpartition("/")[2]):
        return standing.version
    uri = objects.join(home, version)
    if differences(uri):
        for file in files:
            objects.upload(file, objects.join(uri, file.name))
        left = differences(uri)
        require(not left, f"{uri} was not written whole ({'; '.join(left)}): start again")
    if standing.version == version or move(home, standing, mark, version, "promoted", reason):
        return ""
    now = read_champion(home)[0].version
    return "" if now == version else now


def _register(
    name: str, version: str, uri: str, config: dict[str, Any], model_registry: str, mlflow: str
) -> dict[str, str]:
    """Tells the registries that were asked for; `registered`, or why not, by registry."""
    properties = {
        "weights_sha256": config["weights_sha256"],
        "backbone": config["backbone"],
        "start_license": config["start_license"],
    }
    wanted: dict[str, tuple[str, Callable[..., None]]] = {
        "model_registry": (model_registry, register_kubeflow),
        "mlflow": (mlflow, register_mlflow),
    }
    told = {}
    for registry, (place, register) in wanted.items():
        if place:
            try:
                register(place, name, version, uri, properties)
                told[registry] = "registered"
            except KubefaceError as error:
                told[registry] = str(error)
                print(f"promote: promoted, but not registered: {error}", file=sys.stderr, flush=True)
    return told
