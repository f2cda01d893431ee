"""Models to compare and a small LFW, made once for the tests of this folder."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from kubeface.faces.images import RGB, decode_rgb
from kubeface.finetune import step as finetune_step
from kubeface.finetune.options import FinetuneOptions
from kubeface.models.model import FaceModel, load_pretrained
from tests.support.exported import exported, saved, trained
from tests.support.shared import made_once
from tests.support.tables import rows_of


@pytest.fixture(scope="session")
def sface() -> FaceModel:
    """The published model."""
    return load_pretrained("sface")


@pytest.fixture(scope="session")
def crop(aligned_table: Path) -> RGB:
    """A real face crop, coloured so that swapped channels show."""
    return np.asarray(decode_rgb(rows_of(aligned_table, ["image"])[0]["image"]) * [1.0, 0.7, 0.4], np.uint8)


@pytest.fixture(scope="session")
def _one_thread() -> Iterator[None]:
    """A training on one thread, since two wait for each other on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_step, "cpu_limit", lambda: 1)
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def tuned(aligned_table: Path, split_table: Path, _one_thread: None) -> Path:
    """The model folder of a short training on noisy crops."""
    options = FinetuneOptions(degradation="noise:60", device="cpu", strategy="full", epochs=1, batch_size=8)
    return made_once("tuned", lambda out: finetune_step.finetune(aligned_table, split_table, out, options))


@pytest.fixture(scope="session")
def unchanged() -> Path:
    """A model folder that says it started from the published weights and holds them."""
    return made_once("unchanged", lambda out: trained(exported(), exported(), _empty(out)))


@pytest.fixture(scope="session")
def damaged() -> Path:
    """A weights file of the published model with much noise on it and two dimensions of 128 left: it tells
    hardly anybody apart."""

    def make(folder: Path) -> None:
        model = load_pretrained("sface")
        torch.manual_seed(0)
        state = {name: value.clone().contiguous() for name, value in model.network.state_dict().items()}
        for name, value in state.items():
            if name.endswith("conv.weight"):
                value += 1.5 * value.std() * torch.randn_like(value)
            if name in ("features.weight", "features.bias"):
                value[2:] = 0
        folder.mkdir()
        safetensors.torch.save_file(state, folder / "damaged.safetensors")

    return made_once("damaged-weights", make) / "damaged.safetensors"


@pytest.fixture(scope="session")
def damaged_folder(damaged: Path) -> Path:
    """A model folder of the damaged weights."""
    return made_once("damaged", lambda out: saved(load_pretrained("sface", str(damaged)), _empty(out)))


@pytest.fixture(scope="session")
def mended(damaged_folder: Path) -> Path:
    """A model folder that says it started from the damaged weights and holds the published ones."""
    return made_once("mended", lambda out: trained(damaged_folder, exported(), _empty(out)))


@pytest.fixture(scope="session")
def spoilt(damaged_folder: Path) -> Path:
    """A model folder that says it started from the published weights and holds the damaged ones."""
    return made_once("spoilt", lambda out: trained(exported(), damaged_folder, _empty(out)))


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


PEOPLE = ("Ann_Lee", "Bob_de_Vries", "Carl_Orff_Jr", "Dora_Maar", "Eve_O'Hara", "Finn_Bell")


@dataclass(frozen=True)
class SmallLfw:
    """Photographs of ORL under names of LFW, by `<person>/<person>_%04d`, and a pairs file of two folds."""

    photographs: dict[str, bytes]
    pairs: Path
    archive: Path


def write_tar(path: Path, photographs: dict[str, bytes], folder: str = "lfw-small") -> Path:
    """An archive laid out as LFW's."""
    with tarfile.open(path, "w") as tar:
        for name, data in photographs.items():
            member = tarfile.TarInfo(f"{folder}/{name}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def small_lfw(orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> SmallLfw:
    """Six people with three photographs each, in two folds of four and four pairs."""
    folder = tmp_path_factory.mktemp("lfw")
    photographs = {}
    for index, person in enumerate(PEOPLE):
        for number in (1, 2, 3):
            buffer = io.BytesIO()
            with Image.open(io.BytesIO(orl[f"s{index + 11}/{number}.pgm"])) as image:
                image.save(buffer, "JPEG", quality=95)
            photographs[f"{person}/{person}_{number:04d}"] = buffer.getvalue()
    lines = ["2\t4"]
    for fold in (PEOPLE[:3], PEOPLE[3:]):
        a, b, c = fold
        lines += [f"{a}\t1\t2", f"{a}\t2\t3", f"{b}\t1\t3", f"{c}\t1\t2"]
        lines += [f"{a}\t1\t{b}\t1", f"{a}\t2\t{c}\t3", f"{b}\t2\t{c}\t1", f"{c}\t2\t{b}\t3"]
    pairs = folder / "pairs.txt"
    pairs.write_text("\n".join(lines) + "\n")
    return SmallLfw(photographs, pairs, write_tar(folder / "lfw-small.tar", photographs))
