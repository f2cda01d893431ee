"""Tables and models of attributes and classes without faces and without training: crops of one colour, and networks
that tell labels from the mean of each channel."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kubeface.faces.geometry import TEMPLATE_SIZES
from kubeface.faces.images import encode_png
from kubeface.records.tasks import ATTRIBUTES
from kubeface.storage.folders import sha256_file, write_json
from kubeface.tables.table import Table, TableWriter
from tests.support.tables import DETECTED, HASHES

SIDE = 112
Weights = NDArray[np.float32]  # 3×L: what a label's score makes of the mean of red, green and blue (0 to 1)


@dataclass(frozen=True)
class Photo:
    """An image of one colour (0 to 255 a channel) with its labels and the part of the split that it stands in."""

    identity: str
    colour: Sequence[int]
    part: str
    labels: Mapping[str, object] = field(default_factory=dict)


def write_tables(folder: Path, photos: Sequence[Photo]) -> tuple[Path, Path]:
    """The aligned table of the photos (ids 000…, 001… in their order) and their split."""
    with (
        TableWriter(
            folder / "aligned", "aligned", "align", {"template": "arcface_112", "detector": "mtcnn"}
        ) as aligned,
        TableWriter(folder / "split", "split", "split", {}) as split,
    ):
        for number, photo in enumerate(photos):
            row = {"image_id": f"{number:016d}", "identity": photo.identity, "source": f"{number}.png"}
            pixels = np.empty((SIDE, SIDE, 3), np.uint8)
            pixels[:] = photo.colour
            aligned.add(
                row
                | {"image": encode_png(pixels), "width": SIDE, "height": SIDE, **HASHES}
                | {**DETECTED, "groups": json.dumps(photo.labels)}
            )
            split.add({name: row[name] for name in ("image_id", "identity")} | {"split": photo.part, "reason": None})
    return folder / "aligned", folder / "split"


def write_model(
    folder: Path,
    labels: Sequence[str],
    weights: Weights,
    start: Weights,
    task: str = ATTRIBUTES,
    trained_on: Sequence[str] = (),
    split: Path | None = None,
    template: str = "arcface_112",
) -> Path:
    """A folder of finetune with what evaluate reads of it: 3×L weights of the model and of the one that it started
    from, what identities.json says, the split that it was trained with, the template of its crops (whole_224 is that of
    whole photographs, the others need MTCNN)."""
    folder.mkdir(parents=True)
    onnx_sha256 = _write_onnx(folder / "model.onnx", weights, task, TEMPLATE_SIZES[template])
    start_sha256 = _write_onnx(folder / "start.onnx", start, task, TEMPLATE_SIZES[template])
    training = {
        "backbone": "tiny",
        "start_sha256": "5" * 64,
        "split": Table(split, "split").sha256 if split else None,
        "onnx": {"sha256": onnx_sha256, "start": {"sha256": start_sha256}},
    }
    config = {
        "task": task,
        "backbone": "tiny",
        "start": "published weights",
        "preprocessing": {"size": TEMPLATE_SIZES[template], "color_order": "rgb", "mean": 127.5, "std": 128.0},
        "embedding_size": 3,
        "alignment": {
            "template": template,
            "size": TEMPLATE_SIZES[template],
            "detector": "none" if template == "whole_224" else "mtcnn",
        },
        "weights_sha256": onnx_sha256,  # as good as any
        "training": training,
    }
    counts = dict.fromkeys(labels, 1)
    write_json(folder / "model.json", config)
    write_json(folder / "identities.json", list(trained_on))
    write_json(folder / "labels.json", list(labels))
    write_json(folder / "sampling.json", {"images": 1, "drawn": 1, "before": counts, "after": counts})
    return folder


def _write_onnx(path: Path, weights: Weights, task: str, side: int) -> str:
    """Means of the channels, less 0.5 each, as embeddings (of length 1) and scores; its SHA-256."""
    nodes = [
        helper.make_node("ReduceMean", ["crops", "axes"], ["means"], keepdims=0),
        helper.make_node("Div", ["means", "white"], ["shares"]),
        helper.make_node("Sub", ["shares", "middle"], ["features"]),
        helper.make_node("LpNormalization", ["features"], ["embeddings"], axis=1, p=2),
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
        helper.make_node("Sigmoid" if task == ATTRIBUTES else "Softmax", ["logits"], ["scores"]),
    ]
    constants = {
        "axes": np.array([2, 3], np.int64),
        "white": np.float32(255),
        "middle": np.float32(0.5),
        "weights": weights.astype(np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["n", 3, side, side])],
        [
            helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", weights.shape[1]]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return sha256_file(path)
