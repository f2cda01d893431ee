"""`import kubeface`: models, comparisons and runs from Python."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kubeface
from kubeface import api
from kubeface.evaluate import inference
from kubeface.faces.images import decode_rgb
from kubeface.models.recogniser import LeftOut, open_recogniser, similarity
from kubeface.runtime.errors import KubefaceError
from tests.support.commands import run_python
from tests.support.exported import CALIBRATION, calibrated, copied, exported


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model folder."""
    return calibrated(copied(exported(), tmp_path_factory.mktemp("models") / "calibrated"))


@pytest.fixture(scope="module")
def model(folder: Path) -> kubeface.Model:
    return kubeface.load(folder)


def test_importing_kubeface_is_light_and_complete() -> None:
    code = "import kubeface, sys; print('numpy' in sys.modules, kubeface.load.__module__, 'torch' in sys.modules)"

    assert run_python(code).split() == ["False", "kubeface.api", "False"]
    assert set(kubeface.__all__) <= set(dir(kubeface))
    assert all(getattr(kubeface, name) is not None for name in kubeface.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lood'"):
        kubeface.lood  # noqa: B018


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubeface.api", None)
    monkeypatch.delattr(kubeface, "api", raising=False)

    with pytest.raises(ImportError, match=r"kubeface.load needs kubeface.api: pip install 'kubeface\[inference\]'"):
        kubeface.load  # noqa: B018


def test_a_photograph_is_a_path_bytes_or_pixels(
    model: kubeface.Model, folder: Path, orl: dict[str, bytes], tmp_path: Path
) -> None:
    photograph = orl["s1/1.pgm"]
    (tmp_path / "1.pgm").write_bytes(photograph)
    path = tmp_path / "1.pgm"

    embeddings = model.embed([path, str(path), photograph, decode_rgb(photograph), orl["s2/1.pgm"]])

    assert embeddings.shape == (5, 128) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
    assert all(np.array_equal(embeddings[0], other) for other in embeddings[1:4])
    face = open_recogniser(str(folder)).face(photograph)
    assert not isinstance(face, LeftOut) and np.array_equal(embeddings[0], face.embedding)
    with pytest.raises(TypeError, match="images is one photograph: give a list of them"):
        model.embed(str(path))


def test_a_photograph_without_a_face_is_named(model: kubeface.Model, tmp_path: Path, orl: dict[str, bytes]) -> None:
    wall = np.full((112, 92, 3), 128, np.uint8)

    assert isinstance(model.face(wall), LeftOut)
    with pytest.raises(KubefaceError, match=r"photograph 1: no_face \(.*\): give another photograph"):
        model.embed([orl["s1/1.pgm"], wall])
    with pytest.raises(KubefaceError, match=r"nobody\.jpg cannot be read"):
        model.embed([tmp_path / "nobody.jpg"])


def test_two_photographs_of_one_person_and_of_two(model: kubeface.Model, folder: Path, orl: dict[str, bytes]) -> None:
    same = model.compare(orl["s1/1.pgm"], orl["s1/2.pgm"])
    different = kubeface.compare(orl["s1/1.pgm"], orl["s2/1.pgm"], model=folder, threshold=0.9, flip=True)

    left, right = model.embed([orl["s1/1.pgm"], orl["s1/2.pgm"]])
    assert same.similarity == similarity(left, right)
    assert same.same and same.threshold == CALIBRATION["threshold"]
    assert same.confidence is not None and same.confidence > 0.9
    assert not different.same and different.threshold == 0.9
    assert different.confidence is None, "the calibration is for embeddings without flip"


def test_identify_is_the_command() -> None:
    assert kubeface.identify is inference.identify


def test_run_hands_the_parameters_to_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    summary: Any = object()

    def run_local(arguments: dict[str, Any], folder: Path, *, pipeline: str) -> Any:
        calls.append((arguments, folder, pipeline))
        return summary

    monkeypatch.setitem(sys.modules, "pipelines.local.run", SimpleNamespace(run_local=run_local))

    assert api.run("low-resolution", folder=tmp_path / "run", source="people", seed=1) is summary
    assert calls == [({"source": "people", "seed": 1}, tmp_path / "run", "low-resolution")]
