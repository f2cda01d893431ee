"""The networks made of facenet-pytorch's files are the ones that the package makes."""

import io
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from torch import nn

from kubeface.faces import mtcnn_networks as networks
from kubeface.runtime.errors import KubefaceError

PEERS = {"pnet": (PNet, (2, 3, 61, 46)), "rnet": (RNet, (3, 3, 24, 24)), "onet": (ONet, (3, 3, 48, 48))}


@pytest.mark.parametrize("name", PEERS)
def test_they_give_what_the_package_gives(name: str) -> None:
    kind, shape = PEERS[name]
    network: nn.Module = kind().eval()
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    session = onnxruntime.InferenceSession(networks.mtcnn_networks()[name], providers=["CPUExecutionProvider"])
    with torch.no_grad():
        theirs = network(torch.from_numpy(images))
    ours = session.run(None, {"images": images})
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other.numpy()).max() < 1e-5


def test_files_of_torch_are_read_without_torch() -> None:
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([-1.5])}
    file = io.BytesIO()
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    file.seek(0)
    read = networks.read_tensors(file)
    assert {name: values.tolist() for name, values in read.items()} == {
        "a.weight": [0, 1, 2, 3, 4, 5],
        "a.bias": [-1.5],
    }


class Elsewhere:
    """A package whose files are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, path: str) -> Path:
        return self.folder / path


def test_another_release_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    networks.mtcnn_networks.cache_clear()
    monkeypatch.setattr(networks, "distribution", lambda name: Elsewhere(tmp_path))
    with pytest.raises(
        KubefaceError, match=r"^MTCNN's weights are in facenet-pytorch, which is not installed: install it$"
    ):
        networks.mtcnn_networks()
    path = tmp_path / "facenet_pytorch" / "data" / "pnet.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other weights")
    message = rf"^{re.escape(str(path))} is not that of facenet-pytorch 2\.6\.0: install that release$"
    with pytest.raises(KubefaceError, match=message):
        networks.mtcnn_networks()
