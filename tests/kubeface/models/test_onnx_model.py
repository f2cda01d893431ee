"""An exported model: torch's embeddings, the same bits alone and among others, and devices that are not there."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from kubeface.models import onnx_model as module
from kubeface.models.model import FaceModel
from kubeface.models.onnx_model import CPU, CUDA, open_model, open_start
from kubeface.runtime.errors import KubefaceError
from tests.support.exported import copied, exported
from tests.support.json_files import edit
from tests.support.labelled import write_model

Crops = NDArray[np.uint8]


def test_sface_is_the_one_of_torch(crops: Crops, sface: FaceModel) -> None:
    ours = open_model(str(exported()), threads=2)
    for flip in (False, True):
        found, expected = ours.embed(crops, flip), sface.embed(crops, flip)
        assert found.dtype == np.float32 and found.shape == expected.shape
        assert np.abs(found @ found.T - expected @ expected.T).max() < 1e-5
    assert np.abs(ours.embed(crops) - ours.embed(crops, flip=True)).max() > 1e-3


def test_an_embedding_has_the_same_bits_alone_and_among_others(crops: Crops) -> None:
    one, two = (open_model(str(exported()), threads=threads) for threads in (1, 2))
    together = two.embed(crops)
    assert np.array_equal(together, one.embed(crops))
    assert np.array_equal(together[3], one.embed(crops[3:4])[0])
    assert np.array_equal(two.embed(crops, flip=True), two.embed(crops[:, :, ::-1]))


def test_a_gpu_takes_batches(crops: Crops, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which session is asked for where onnxruntime has CUDA; nothing runs on a GPU here."""
    asked: dict[str, Any] = {}
    session = onnxruntime.InferenceSession

    def opened(path: str, options: Any, providers: list[Any]) -> Any:
        asked["providers"] = providers
        made = session(path, options, providers=[CPU])
        monkeypatch.setattr(made, "get_providers", lambda: [CUDA, CPU], raising=False)
        return made

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: asked.setdefault("preloaded", True))
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    model = open_model(str(exported()), "cuda")
    assert asked == {"providers": [(CUDA, {"use_tf32": "0"}), CPU], "preloaded": True}
    assert model.batch == module.GPU_BATCH
    expected = open_model(str(exported()), "cpu").embed(crops)
    assert asked["providers"] == [CPU]
    assert np.abs(model.embed(crops) - expected).max() < 1e-5


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(exported())
    with pytest.raises(KubefaceError, match=r"^device 'tpu' is unknown: use auto, cpu or cuda$"):
        open_model(folder, "tpu")
    with pytest.raises(KubefaceError, match=r"^device 'cuda' is asked for but this onnxruntime runs on CPUs alone"):
        open_model(folder, "cuda")
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, options, providers: session(path, options, [CPU]))
    with pytest.raises(KubefaceError, match=r"^device 'cuda' is asked for but onnxruntime finds no GPU: request one"):
        open_model(folder, "cuda")
    assert open_model(folder).batch == 1  # auto goes without


def test_a_promoted_version_has_no_starting_model(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"has no start\.onnx, the model that it was trained from: fine-tune again"):
        open_start(str(exported()))
    folder = copied(exported(), tmp_path / "model")
    edit(folder / "model.json", lambda config: config["training"]["onnx"].update(start={"sha256": "0" * 64}))
    with pytest.raises(KubefaceError, match=r"start\.onnx does not exist"):
        open_start(str(folder))


@pytest.mark.parametrize("task", ["attributes", "classes"])
def test_a_model_of_labels_scores_them_in_their_order(task: str, tmp_path: Path) -> None:
    weights = np.array([[4, 0], [0, 4], [1, 1]], np.float32)
    folder = write_model(tmp_path / "model", ["red", "green"], weights, -weights, task)
    colours = np.array([[255, 0, 0], [0, 255, 0], [90, 10, 250]], np.uint8)
    flat = np.broadcast_to(colours[:, None, None], (3, 112, 112, 3))
    logits = (colours / 255 - 0.5) @ weights
    expected = {
        "attributes": 1 / (1 + np.exp(-logits)),
        "classes": np.exp(logits) / np.exp(logits).sum(1, keepdims=True),
    }[task]
    model, start = open_model(str(folder), threads=2), open_start(str(folder))
    assert model.labels == start.labels == ("red", "green")
    scores = model.scores(flat)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_array_equal(scores[1:2], model.scores(flat[1:2]))  # alone as among others
    np.testing.assert_allclose(start.scores(flat).sum(), 3 if task == "classes" else (1 - expected).sum(), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(model.embed(flat), axis=1), 1, atol=1e-6)


def test_labels_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", ["red"], np.ones((3, 1), np.float32), np.ones((3, 1), np.float32))
    (folder / "labels.json").unlink()
    with pytest.raises(KubefaceError, match=r"labels\.json does not exist"):
        open_model(str(folder))
