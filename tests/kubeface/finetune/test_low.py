"""Faces of low resolution in training: beside the sharp image of the same photograph, and enlarged by a network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kubeface.faces.degradation import Degradation, downsample
from kubeface.faces.images import RGB, decode_rgb, encode_crop
from kubeface.finetune.augment import Augmentation
from kubeface.finetune.data import FaceCrops
from kubeface.models.superresolution import Enlarger, open_enlarger
from kubeface.models.superresolution_networks import Enlarging, save_network
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.row_index import RowIndex, row_index
from kubeface.tables.table import Table
from tests.support.tables import rows_of, splitting, write_rows

from .conftest import Train, same

LOW = Degradation("lowres", 10)
NOISE = Degradation.parse("noise:60")


@pytest.fixture(scope="module")
def paired(aligned_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every crop twice: as it is, and with ten pixels a side; but the last two have no sharp one."""
    source = Table(aligned_table, "aligned")
    rows = rows_of(source)
    made = []
    for number, row in enumerate(rows):
        name = row["source"].rpartition("/")[2]
        low = encode_crop(LOW(decode_rgb(row["image"])))
        for kind, resolution, image in (("vlr", "low", low), ("hr", "high", row["image"])):
            if number < len(rows) - 2 or kind == "vlr":
                own = {"image_id": f"{kind}{row['image_id']}", "source": f"{kind}_images/{row['identity']}/{name}"}
                made.append(row | own | {"image": image, "groups": json.dumps({"resolution": resolution})})
    return write_rows(tmp_path_factory.mktemp("low") / "aligned", "aligned", made, source.manifest.settings)


@pytest.fixture
def halves(paired: Path, tmp_path: Path) -> Path:
    """A split of the pairs: three people with four images each in train and one in val, three held out."""
    trained = dict.fromkeys(("s1", "s2", "s3"), "ttttttttvv")
    return splitting(paired, tmp_path / "split", trained | dict.fromkeys(("s4", "s5", "s6"), "hhhhhhhhhh"))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network for eight times the size that makes everything a little brighter than bicubic interpolation."""
    made = Enlarging("espcn", 8, 4, 1)
    torch.nn.init.constant_(made.tail.bias, 0.1)  # type: ignore[arg-type]
    save_network(made, tmp_path / "bright.safetensors")
    return tmp_path / "bright.safetensors"


def all_of(table: Path) -> RowIndex:
    ids = Table(table, "aligned").columns(["image_id"])["image_id"].to_pylist()
    return row_index(Table(table, "aligned"), dict.fromkeys(ids, 0))


def seen(crops: FaceCrops, index: int, epoch: int = 1) -> tuple[RGB, RGB]:
    clean, bad, _ = crops[index, epoch]
    return clean.permute(1, 2, 0).numpy(), bad.permute(1, 2, 0).numpy()


def test_each_low_image_knows_its_sharp_one(paired: Path) -> None:
    found = all_of(paired)
    crops = FaceCrops(found, Degradation(), 0)
    lows = [index for index in range(len(found)) if found[index].image_id.startswith("vlr")]
    assert [index for index in range(len(found)) if found.is_low(index)] == lows
    alone = [index for index in lows if found.sharp(index) is None]
    assert len(alone) == 2 and len(found.low()) == len(lows) - 2
    for places, indices in ((found, set(lows) - set(alone)), (found.low(), range(len(found.low())))):
        for index in indices:
            place = places.sharp(index)
            assert place is not None
            np.testing.assert_array_equal(LOW(crops.image(place)), crops.image(places[index]))
    assert len(found.low().low()) == len(found.low())


def test_low_images_are_not_degraded_and_sharp_ones_are(paired: Path) -> None:
    found = all_of(paired)
    for augmentation in (None, Augmentation(flip=0)):
        crops = FaceCrops(found, NOISE, 0, augmentation)
        for index in range(8):
            clean, bad = seen(crops, index)
            own = crops.image(found[index])
            if found.is_low(index):
                np.testing.assert_array_equal(bad, own)
                np.testing.assert_array_equal(LOW(clean), own)
            else:
                np.testing.assert_array_equal(clean, own)
                assert np.abs(bad.astype(int) - own).mean() > 20


def test_both_of_a_pair_are_changed_alike(paired: Path) -> None:
    found = all_of(paired).low()
    crops = FaceCrops(found, Degradation(), 0, Augmentation(flip=1))
    clean, bad = seen(crops, 0)
    np.testing.assert_array_equal(bad, crops.image(found[0])[:, ::-1])
    np.testing.assert_array_equal(LOW(clean[:, ::-1]), bad[:, ::-1])
    much = FaceCrops(found, Degradation(), 0, Augmentation(flip=0.5, crop=1, warp=1, jitter=0.3, mix=1))
    still = FaceCrops(found, Degradation(), 0, None)
    for index in range(6):
        clean, bad = (image.astype(float) for image in seen(much, index))
        # What is blurred of the clean one is the bad one: the same place, the same colours, the same other face.
        own_clean, own_bad = (image.astype(float) for image in seen(still, index))
        blurred = LOW(clean.astype(np.uint8)).astype(float)
        assert np.corrcoef(blurred.ravel(), bad.ravel())[0, 1] > 0.95
        assert np.abs(clean - own_clean).mean() > 5 and np.abs(bad - own_bad).mean() > 5


def test_two_sharp_images_of_one_photograph_are_an_error(paired: Path, tmp_path: Path) -> None:
    rows = rows_of(paired)
    sharp = next(row for row in rows if row["source"].startswith("hr"))
    again = sharp | {"image_id": "again", "source": sharp["source"].replace("hr_images/", "hr_images/more/")}
    write_rows(tmp_path / "twice", "aligned", [*rows, again])
    with pytest.raises(KubefaceError, match=r"hr_images/.* are both the high image of one photograph: rename one"):
        all_of(tmp_path / "twice")


def test_a_training_on_pairs(train: Train, paired: Path, halves: Path) -> None:
    """Without a degradation: what is learnt are the pairs; quality routing tells them apart."""
    choices = {"aligned": paired, "split": halves, "degradation": "none", "guard": True, "distill": 1000.0, "epochs": 6}
    run, again = (train(name, **choices, lr=1e-3) for name in ("one", "again"))
    losses = [row["val_loss"] for row in run.history if row["stage"] == 2]
    assert losses[-1] < losses[0]
    assert run.training["guard"]["wrong_clean"] == run.training["guard"]["wrong_degraded"] == 0
    assert same(run.weights, again.weights)


def test_centres_are_those_of_sharp_images(train: Train, paired: Path, halves: Path, monkeypatch: Any) -> None:
    """The head begins at the people's means as they are known: by their sharp images."""
    from kubeface.finetune import trainer

    wanted: list[torch.Tensor] = []
    real = trainer.Trainer._class_means

    def class_means(self: Any) -> torch.Tensor:
        means = real(self)
        found = self.setup.data.train
        self.setup.model.network.eval()
        crops = FaceCrops(found, Degradation(), 0)
        with torch.no_grad():
            clean = torch.stack([crops[index, 0][0] for index in range(len(found))])
            embeddings = torch.nn.functional.normalize(self.setup.model.network(self.setup.model.prepare(clean)))
        sums = torch.zeros_like(means).index_add_(0, torch.from_numpy(found.labels).long(), embeddings)
        wanted.append(torch.nn.functional.normalize(sums))
        torch.testing.assert_close(means, wanted[0])
        return means

    monkeypatch.setattr(trainer.Trainer, "_class_means", class_means)
    train(aligned=paired, split=halves, degradation="none")
    assert wanted


# --- super-resolution -----------------------------------------------------------------------------------------------


def test_a_network_enlarges_what_is_trained_on(train: Train, network: Path, aligned_table: Path) -> None:
    plain, bright = (Degradation.parse("lowres:14", enlarger) for enlarger in (None, open_enlarger(str(network))))
    crop = decode_rgb(next(Table(aligned_table, "aligned").row_groups(["image"]))[0]["image"])
    assert bright(crop).mean() > plain(crop).mean() + 15
    runs = [
        train(name, degradation="lowres:14", superresolver=uri)
        for name, uri in (("plain", "bicubic"), ("bright", str(network)))
    ]
    assert not same(runs[0].weights, runs[1].weights)
    config = json.loads((runs[1].folder / "model.json").read_text())
    told = config["superresolution"]
    assert told["scale"] == 8 and told["name"].startswith("bright.safetensors@")
    kept = open_enlarger(str(runs[1].folder))
    assert kept.name == told["name"]
    np.testing.assert_array_equal(kept.to(downsample(crop, 14), 112, 112), bright(crop))
    assert "superresolution" not in json.loads((runs[0].folder / "model.json").read_text())
    assert not (runs[0].folder / "superresolution.onnx").exists()


def test_bicubic_enlarger_is_the_default(aligned_table: Path) -> None:
    crop = decode_rgb(next(Table(aligned_table, "aligned").row_groups(["image"]))[0]["image"])
    ours, usual = (Degradation.parse("lowres:14", enlarger)(crop) for enlarger in (Enlarger(), None))
    np.testing.assert_array_equal(ours, usual)


def test_workers_share_a_network(network: Path, aligned_table: Path) -> None:
    bad = Degradation.parse("lowres:10-20", open_enlarger(str(network)))
    crops = FaceCrops(all_of(aligned_table), bad, 0, Augmentation())
    crops[0, 1]  # opens it in this process first
    loaded = torch.utils.data.DataLoader(crops, sampler=[(index, 1) for index in range(6)], num_workers=2)
    for index, (_, crop, _) in enumerate(loaded):
        torch.testing.assert_close(crop[0], crops[index, 1][1])
