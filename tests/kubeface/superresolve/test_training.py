"""Training of a super-resolution network: on the split's training people alone, from bicubic interpolation."""

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from kubeface.models.superresolution import open_enlarger
from kubeface.records.superresolution import TrainedSuperresolutionRecord
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import read_options
from kubeface.superresolve import training
from kubeface.superresolve.options import TrainSuperresolutionOptions
from kubeface.superresolve.quality import psnr, ssim
from kubeface.superresolve.training import train_superresolution
from kubeface.tables.table import Table
from tests.support.tables import rows_of, write_rows

QUICK = TrainSuperresolutionOptions(architecture="espcn", channels=4, blocks=1, epochs=2, batch_size=4, lr=1e-4)


def damaged_heldout(table: Path, split: Path, out: Path) -> Path:
    """The table with the bytes of every held-out image destroyed: nobody may read them."""
    rows = Table(split, "split").columns(["image_id", "split"]).to_pylist()
    heldout = {row["image_id"] for row in rows if row["split"] == "heldout"}
    source = Table(table, "aligned")
    assert heldout
    spoilt = (row | ({"image": b"none"} if row["image_id"] in heldout else {}) for row in rows_of(source))
    return write_rows(out, "aligned", spoilt, source.manifest.settings)


@pytest.mark.slow
def test_a_training_leaves_a_network_that_enlarges(
    aligned_table: Path, split_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "cpu_limit", lambda: 1)  # two threads wait for each other on a busy machine
    table = damaged_heldout(aligned_table, split_table, tmp_path / "aligned")
    one, other = (train_superresolution(table, split_table, tmp_path / name, QUICK) for name in ("one", "other"))
    assert one == other
    names = ("superresolution.safetensors", "superresolution.onnx", "superresolution.json", "logs/history.csv")
    for name in (*names, "figures/samples.png", "figures/history.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    rows = Table(split_table, "split").columns(["identity", "split"]).to_pylist()
    people = sorted({row["identity"] for row in rows if row["split"] in ("train", "val")})
    enlarger = open_enlarger(str(tmp_path / "one"))
    assert (enlarger.scale, list(enlarger.identities)) == (8, people)
    figures = TrainedSuperresolutionRecord.read(tmp_path / "one" / "superresolution.json").figures
    history = list(csv.DictReader((tmp_path / "one" / "logs" / "history.csv").open()))
    assert [row["epoch"] for row in history] == ["0", "1", "2"]
    best = min(history, key=lambda row: float(row["val_loss"]))
    assert figures.best_epoch == int(best["epoch"]) == one.best_epoch
    assert figures.bicubic.psnr == float(history[0]["psnr"]) == one.psnr_bicubic
    assert figures.network.psnr == float(best["psnr"]) == one.psnr


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": 3}, "scale is 3: input should be 2, 4 or 8"),
        ({"architecture": "gan"}, "architecture is 'gan': input should be 'espcn' or 'edsr'"),
        ({"channels": 0}, "channels is 0: input should be greater than or equal to 1"),
        ({"blocks": 129}, "blocks is 129: input should be less than or equal to 128"),
        ({"epochs": 0}, "epochs is 0: input should be greater than or equal to 1"),
        ({"batch_size": 0}, "batch_size is 0: input should be greater than or equal to 1"),
        ({"lr": 1}, "lr is 1: input should be less than 1"),
        ({"identity_weight": -1.0}, "identity_weight is -1.0: input should be greater than or equal to 0"),
        ({"amp": "half"}, "amp is 'half': input should be 'auto', 'off' or 'bf16'"),
    ],
)
def test_wrong_options_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(KubefaceError) as raised:
        read_options(TrainSuperresolutionOptions, values)
    assert str(raised.value) == message


def test_psnr_by_hand() -> None:
    one = torch.full((2, 3, 12, 12), 0.5)
    other = one.clone()
    other[0] += 0.1
    assert psnr(one, other).tolist() == pytest.approx([20.0, 100.0], abs=1e-4)


def test_ssim_by_the_formula() -> None:
    """As in the paper, for one position of the window, with OpenCV's Gaussian."""
    random = np.random.default_rng(0)
    pictures = random.random((2, 11, 11))
    line = cv2.getGaussianKernel(11, 1.5)
    weights = line @ line.T
    first, second = ((weights * picture).sum() for picture in pictures)
    variances = [
        (weights * picture**2).sum() - mean**2 for picture, mean in zip(pictures, (first, second), strict=True)
    ]
    covariance = (weights * pictures[0] * pictures[1]).sum() - first * second
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * first * second + c1) * (2 * covariance + c2)
    expected /= (first**2 + second**2 + c1) * (sum(variances) + c2)
    grey = [torch.from_numpy(picture)[None, None].repeat(1, 3, 1, 1) for picture in pictures]
    assert float(ssim(*grey)) == pytest.approx(expected, rel=1e-9)
    assert float(ssim(grey[0], grey[0])) == pytest.approx(1)
