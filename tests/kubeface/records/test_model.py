"""model.json as a record: what is written, what older files give, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from kubeface.records.model import ModelRecord
from kubeface.runtime.errors import KubefaceError

WRITTEN: dict[str, Any] = {
    "schema_version": 1,
    "task": "attributes",
    "backbone": "sface",
    "preprocessing": {"size": 112, "color_order": "rgb", "mean": 127.5, "std": [128.0, 1, 2.5]},
    "alignment": {"template": "arcface_112", "size": 112, "detector": "mtcnn"},
    "embedding_size": 128,
    "quality_routed": False,
    "start": "wheel#sha256=1",
    "start_license": "MIT",
    "weights_sha256": "1" * 64,
    "head_sha256": "2" * 64,
    "superresolution": {"name": "edsr", "scale": 8, "sha256": "3" * 64, "identities": ["Ann"]},
    "training": {
        "producer": "finetune 0.1.0",
        "image": None,
        "labels": ["Smiling"],
        "lr": 1e-4,
        "margins": [1.0, 0.3, 0.2],
        "val_loss": None,
        "guard": {"wrong_clean": 0.25, "wrong_degraded": None},
        "onnx": {"sha256": "4" * 64, "start": {"file": "start.onnx", "sha256": "5" * 64}},
        "versions": {"torch": "2.14.1"},
    },
}


def test_a_record_is_written_as_it_was_read(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(WRITTEN))
    record = ModelRecord.read(tmp_path / "model.json")
    record.write(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == WRITTEN


def test_options_of_the_training_stand_beside_its_own_entries() -> None:
    training = ModelRecord.parse(WRITTEN, "model.json").training
    entries = training.entries(leave_out=("versions", "onnx"))
    assert entries["lr"] == 1e-4 and entries["labels"] == ["Smiling"]
    assert not {"versions", "onnx", "seed"} & entries.keys()


def test_a_file_of_an_earlier_release_is_read() -> None:
    earlier = {name: value for name, value in WRITTEN.items() if name not in ("schema_version", "task", "head_sha256")}
    record = ModelRecord.parse(earlier | {"alignment": {"template": "arcface_112", "size": 112}}, "model.json")
    assert (record.schema_version, record.task, record.alignment.detector) == (1, "recognition", "mtcnn")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "schema_version is 2"),
        ({"task": "faces"}, "task is 'faces'"),
        ({"weights_sha256": None}, "weights_sha256 is None"),
        ({"training": {"versions": 3}}, r"training\.versions is 3"),
    ],
)
def test_another_file_is_refused_by_name_and_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(KubefaceError, match=f"model.json is not what this release reads .*{said}"):
        ModelRecord.parse(WRITTEN | change, "model.json")
