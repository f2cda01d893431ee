"""SFace in torch against the ONNX file it comes from, and the loading of weights."""

import contextlib
import pickle
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from kubeface.faces.images import RGB
from kubeface.models.backbones import backbone_named
from kubeface.models.backbones.sface import ConvBlock
from kubeface.models.model import FaceModel, load_pretrained
from kubeface.models.weights import load_state
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.downloads import WheelFile

ONNX = cast(WheelFile, backbone_named("sface").sources[0])


@pytest.mark.slow
def test_it_agrees_with_onnxruntime_on_real_faces(sface: FaceModel, faces: tuple[RGB, np.ndarray]) -> None:
    """The loader by hand gives what ONNX's own runtime makes of OpenCV Zoo's file, which normalises inside."""
    proto = onnx.load_model_from_string(ONNX.read())
    inputs = [value for value in proto.graph.input if value.name == "data"]
    del proto.graph.input[:]  # weights are listed as inputs too, which onnxruntime refuses
    proto.graph.input.extend(inputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    crops = faces[0][::3]
    images = crops.transpose(0, 3, 1, 2).astype(np.float32)
    embeddings = np.concatenate([session.run(None, {"data": image[None]})[0] for image in images])
    reference = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert (sface.embed(crops) * reference).sum(1).min() > 0.99999
    for wrong in (255 - crops, crops // 4, np.roll(crops, 8, axis=2)):  # the comparison would notice
        assert (sface.embed(wrong) * reference).sum(1).max() < 0.99


def randomise(block: nn.Module, seed: int) -> None:
    """Gives parameters and statistics values that no shortcut survives."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in block.state_dict().items():
        if tensor.is_floating_point():
            low = 0.3 if name.endswith(("running_var", "bn.weight")) else -1.0
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (1.5 - low) + low)


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "groups"), [(3, 32, 3, 1, 1), (32, 32, 3, 2, 32), (32, 64, 1, 1, 1)]
)
def test_folded_batch_norm_is_the_batch_norm(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
    block = ConvBlock(inputs, outputs, kernel, stride, groups)
    randomise(block, kernel + stride)
    images = torch.randn(2, inputs, 15, 15, generator=torch.Generator().manual_seed(1))
    block.eval()
    folded, plain = block(images), block.act(block.bn(block.conv(images)))
    assert folded.shape == plain.shape
    assert torch.allclose(folded, plain, atol=1e-4, rtol=1e-4)
    for one, other in zip(*(torch.autograd.grad(m.sum(), [*block.parameters()]) for m in (folded, plain)), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))
    block.train()
    assert not torch.allclose(block(images), plain, atol=1e-2)  # the batch's own statistics


def test_the_whole_network_is_the_plain_one(sface: FaceModel, crops: RGB) -> None:
    network = cast(Any, sface.network)
    maps = images = sface.prepare(torch.from_numpy(crops[:3]).permute(0, 3, 1, 2))
    with torch.inference_mode():
        for block in network.blocks:
            maps = block.act(block.bn(block.conv(maps)))
        plain = network.features(network.fc(network.bn(maps).flatten(1)))
        assert torch.allclose(network(images), plain, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize(("stride", "groups"), [(2, 8), (1, 8), (2, 1)])
def test_gradients_in_bf16(stride: int, groups: int) -> None:
    """A strided depthwise convolution is computed in float32, and nothing else; maps stay bf16 either way."""
    block = ConvBlock(8, 8, 3, stride, groups).eval()
    randomise(block, stride)
    images = torch.randn(2, 8, 9, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
    kinds = []
    block.act.register_forward_pre_hook(lambda _, given: kinds.append(given[0].dtype))
    found = []
    for amp in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            maps = block(images.bfloat16() if amp else images)
        found.append(torch.autograd.grad(maps.float().square().sum(), [images, *block.parameters()]))
    assert kinds == [torch.float32, torch.bfloat16]
    for whole, half in zip(*found, strict=True):
        assert half.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(whole.flatten(), half.flatten(), dim=0) > 0.999


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "sface.onnx", ONNX.read()
    for share in (0.0, 0.1, 0.5, 0.999):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(KubefaceError, match=r"sface\.onnx is not"):
            load_pretrained("sface", str(path))


def graph_with(**tensors: np.ndarray) -> bytes:
    data, out = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("data", "out"))
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()]
    nodes = [onnx.helper.make_node("Relu", ["data"], ["out"])]
    graph = onnx.helper.make_graph(nodes, "foreign", [data], [out], weights)
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(graph_with(other=np.zeros(3, np.float32)))
    with pytest.raises(KubefaceError, match=r"other\.onnx is not OpenCV Zoo's SFace: 'pre_fc1_weight'"):
        load_pretrained("sface", str(path))
    path.write_bytes(graph_with(pre_fc1_weight=np.zeros((2, 3), np.float32)))
    with pytest.raises(KubefaceError, match=r"other\.onnx is not OpenCV Zoo's SFace: .*shape"):
        load_pretrained("sface", str(path))


def test_weights_that_do_not_fit_are_listed() -> None:
    network = nn.Sequential(*[nn.Linear(2, 2) for _ in range(3)])
    fitting = {name: torch.ones_like(value) for name, value in network.state_dict().items()}
    load_state(network, fitting, "a.pt")
    assert all((parameter == 1).all() for parameter in network.parameters())
    state = {"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(2), "head.weight": torch.zeros(1)}
    with pytest.raises(KubefaceError) as raised:
        load_state(network, state, "a.pt")
    assert str(raised.value) == (
        "a.pt does not fit the backbone: 4 missing (1.bias, 1.weight, 2.bias, …); 1 unexpected (head.weight); "
        "1 of another shape (0.weight)"
    )
    assert all((parameter == 1).all() for parameter in network.parameters())  # nothing half loaded


class Code:
    """What an attacker's pickle holds."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_weights_file_is_not_run(suffix: str, zipped: bool, tmp_path: Path) -> None:
    path, target = tmp_path / f"weights{suffix}", tmp_path / "run"
    if zipped:
        torch.save({"fc.weight": Code(target)}, path)
    else:
        path.write_bytes(pickle.dumps({"fc.weight": Code(target)}, protocol=2))
    with pytest.raises(KubefaceError, match=f"weights{suffix} holds other things than tensors"):
        load_pretrained("sface", str(path))
    assert not target.exists()
    with contextlib.suppress(RuntimeError):  # "invalid magic number", after it has run
        torch.load(path, weights_only=False)
    assert target.exists()  # the trap works


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx", ".txt"])
@pytest.mark.parametrize(
    "data", [b"", b"junk" * 100, bytes(range(256)), b"\x80\x02}q\x00X\x05", b"PK\x03\x04", bytes(5000)]
)
def test_what_is_no_weights_file_is_named(suffix: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(data)
    with pytest.raises(KubefaceError, match=rf"weights\{suffix} (is not|holds other things than tensors)"):
        load_pretrained("sface", str(path))
