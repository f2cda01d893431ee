"""The model as ONNX: the same embeddings for any number of crops, and a refusal where they are not."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from kubeface.faces.degradation import Degradation
from kubeface.faces.images import decode_rgb
from kubeface.finetune import export as export_module
from kubeface.finetune.export import (
    LARGEST_GAP,
    LEAST_COSINE,
    OPSET,
    Embedder,
    SplitPReLU,
    export_models,
    export_onnx,
    split_prelus,
)
from kubeface.models.model import FaceModel, load_model, load_pretrained
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import sha256_file
from tests.support.tables import rows_of

from .conftest import Train, changed

Crops = NDArray[np.uint8]


@pytest.fixture(scope="module")
def crops(aligned_table: Path) -> Crops:
    """Thirty aligned faces, every second of them noisy."""
    noise = Degradation.parse("noise:60")
    images = [decode_rgb(row["image"]) for row in rows_of(aligned_table)]
    return np.stack([noise(image, number) if number % 2 else image for number, image in enumerate(images)])


def embedded(path: Path, crops: Crops) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("crops", "tensor(float)", [3, 112, 112])
    assert isinstance(given.shape[0], str)  # any number of crops
    assert found.name == "embeddings"
    images = np.ascontiguousarray(crops.transpose(0, 3, 1, 2)).astype(np.float32)
    return np.asarray(session.run(None, {"crops": images})[0])


def agrees(path: Path, model: FaceModel, crops: Crops) -> None:
    """With torch, for any number of crops; unit length included."""
    for count in (1, 3, 7):
        for first in (0, 1):
            ours, theirs = embedded(path, crops[first : first + count]), model.embed(crops[first : first + count])
            assert ours.shape == theirs.shape
            assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-5
            assert (ours * theirs).sum(1).min() > 0.99999
    assert (ours * theirs[::-1])[0].sum() < 0.999  # another crop would be noticed


@pytest.mark.parametrize("choices", [{"guard": True}, {"strategy": "lora", "ema": 0.5}], ids=["guard", "lora"])
def test_a_training_leaves_its_model_as_onnx(
    choices: dict[str, Any], train: Train, crops: Crops, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train(**{"strategy": "full", "lr": 3e-3, "onnx": True} | choices)
    agrees(run.folder / "model.onnx", load_model(run.folder), crops)
    agrees(run.folder / "start.onnx", load_pretrained("tiny"), crops)  # as it was before the training
    entry = run.training["onnx"]
    own, start = (
        {"file": name, "sha256": sha256_file(run.folder / name), "least_cosine": pytest.approx(1, abs=1e-5)}
        for name in ("model.onnx", "start.onnx")
    )
    mtcnn = sha256_file(run.folder / "mtcnn.zip")  # the crops were aligned with it
    assert entry == own | {"opset": OPSET, "faces": 3, "start": start, "mtcnn_sha256": mtcnn}
    assert not list(run.folder.glob("*.data"))  # all in one file
    for name in ("model.onnx", "start.onnx"):  # nothing of the machine that it was made on
        assert not re.findall(rb"[\w/]+\.py|site-packages", (run.folder / name).read_bytes())
    said = capfd.readouterr()
    assert all(line.startswith("finetune: ") for line in (said.out + said.err).splitlines())  # the exporter keeps quiet


def test_one_crop_is_enough(tiny: dict[str, Tensor], crops: Crops, tmp_path: Path) -> None:
    """And the model comes out as it went in."""
    model = load_pretrained("tiny")
    before = model.embed(crops)
    for count in (1, 2):
        assert export_onnx(model, tmp_path / f"{count}.onnx", crops[:count]).least_cosine == pytest.approx(1, abs=1e-5)
    agrees(tmp_path / "1.onnx", model, crops)  # any number of them goes in
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()
    assert not changed(model.network.state_dict(), tiny) and np.array_equal(model.embed(crops), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.onnx", "2.onnx"]


def test_a_split_prelu_is_a_prelu() -> None:
    """For maps with a slope for each channel or one for all, and for vectors; the slopes may be negative."""
    torch.manual_seed(0)
    for count in (1, 8):
        prelu = torch.nn.PReLU(count)
        network = torch.nn.Sequential(torch.nn.Sequential(prelu), torch.nn.Identity())
        torch.nn.init.normal_(prelu.weight)
        inputs = (torch.randn(3, 8, 5, 6), torch.randn(3, 8))
        expected = [network(images) for images in inputs]
        split_prelus(network)
        assert isinstance(network.get_submodule("0.0"), SplitPReLU)
        for images, found in zip(inputs, expected, strict=True):
            torch.testing.assert_close(network(images), found, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_sface(crops: Crops, tmp_path: Path) -> None:
    model = load_pretrained("sface")
    assert export_onnx(model, tmp_path / "model.onnx", crops).least_cosine == pytest.approx(1, abs=1e-5)
    agrees(tmp_path / "model.onnx", model, crops)
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "PRelu" not in kinds and {"Conv", "Relu"} <= kinds  # onnxruntime's kernel of it takes half of the time


# --- with a head ----------------------------------------------------------------------------------------------------


def linear(outputs: int, *after: torch.nn.Module) -> torch.nn.Module:
    """A head on the embeddings of `tiny`."""
    torch.manual_seed(outputs)
    return torch.nn.Sequential(torch.nn.Linear(16, outputs), *after)


def test_scores_are_the_heads_on_embeddings_as_they_are(tiny: dict[str, Tensor], crops: Crops, tmp_path: Path) -> None:
    """The second output, for any number of crops; each of the two files with the head that is its own."""
    models = load_pretrained("tiny"), load_pretrained("tiny")
    with torch.no_grad():
        models[0].network.get_parameter("8.weight").mul_(2)
    heads = linear(5, torch.nn.Sigmoid()), linear(5, torch.nn.Sigmoid())
    torch.nn.init.normal_(heads[1].get_parameter("0.weight"))
    told = export_models(*models, tmp_path, crops, heads)
    for entry, model, head, name in zip((told, told.start), models, heads, ("model", "start"), strict=True):
        assert entry is not None and entry.model_fields_set >= {"file", "sha256", "least_cosine", "score_gap"}
        assert entry.score_gap is not None and entry.score_gap < 1e-5
        session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        assert [output.name for output in session.get_outputs()] == ["embeddings", "scores"]
        for count in (1, 3, 7):
            images = crops[:count].transpose(0, 3, 1, 2).astype(np.float32)
            embeddings, scores = session.run(None, {"crops": images})
            with torch.inference_mode():
                raw = model.network(model.prepare(torch.from_numpy(images)))
                expected = head(raw)
            np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5)
            assert (embeddings * model.embed(crops[:count])).sum(1).min() > 0.99999
            assert not np.allclose(head(torch.from_numpy(embeddings)).detach().numpy(), scores, atol=1e-3)


def test_a_graph_that_is_another_model_is_refused(
    tiny: dict[str, Tensor], crops: Crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its embeddings, or by its scores."""
    agreement, export = export_module.agreement, torch.onnx.export
    made: list[Any] = []

    def exported(*args: Any, **options: Any) -> Any:
        if not made:  # both times the same
            made.append(export(*args, **options))
        return made[0]

    monkeypatch.setattr(torch.onnx, "export", exported)
    for name, said in (("network.8.weight", r"cosine -?0\.\d{6}"), ("head.0.bias", r"scores by 0\.\d{6}")):

        def changed_before(path: Path, embedder: Embedder, images: Tensor, name: str = name) -> list[float]:
            with torch.no_grad():
                parameter = embedder.get_parameter(name)
                parameter.add_(0.1 * torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
            return agreement(path, embedder, images)

        monkeypatch.setattr(export_module, "agreement", changed_before)
        model, head = load_pretrained("tiny"), linear(2, torch.nn.Sigmoid())
        with pytest.raises(KubefaceError, match=rf"^model\.onnx differs from the model: {said} on 30 faces$"):
            export_onnx(model, tmp_path / "model.onnx", crops, head)
    assert 0.999 < LEAST_COSINE < 1 and 0 < LARGEST_GAP < 0.01
