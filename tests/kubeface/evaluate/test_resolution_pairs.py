"""Low-resolution faces that cameras took: a table of pairs of a low and a high image of each photograph."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kubeface.evaluate.heldout import CLEAN_PREFIX
from kubeface.evaluate.resolutions import CROSS, native_sides, nearest
from kubeface.faces.degradation import Degradation
from kubeface.faces.images import decode_rgb, encode_crop
from kubeface.models.model import load_pretrained
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.resolution_pairs import native_side
from kubeface.tables.table import Table, TableWriter
from tests.support.evaluating import QUICK, evaluate, read
from tests.support.tables import rows_of

SIZED = QUICK | {"fmr": 0.1, "sizes": "8 16"}
TEN = Degradation("lowres", 10)
MODELS = ("baseline", "finetuned")


def write_pairs(aligned: Path, split: Path, folder: Path, same_names: bool = True) -> tuple[Path, Path]:
    """Every crop twice, as it is and with ten pixels a side; of one held-out photograph the sharp one is missing, and
    of another it is excluded. Low images of even numbers are of photographs enlarged 10 times, others of 5 times."""
    parts = {row["image_id"]: row for row in Table(split, "split").columns(["image_id", "split"]).to_pylist()}
    source = Table(aligned, "aligned")
    rows = rows_of(source)
    heldout = [row["image_id"] for row in rows if parts[row["image_id"]]["split"] == "heldout"]
    tables = folder / "aligned", folder / "split"
    with (
        TableWriter(tables[0], "aligned", "test", source.manifest.settings) as crops,
        TableWriter(tables[1], "split", "test", {}) as divided,
    ):
        for number, row in enumerate(rows):
            name, part = row["source"].rpartition("/")[2], parts[row["image_id"]]["split"]
            low = encode_crop(TEN(decode_rgb(row["image"])))
            for resolution, image in (("low", low), ("high", row["image"])):
                if resolution == "high" and row["image_id"] == heldout[0]:
                    continue
                groups = {"resolution": resolution} | (
                    {"enlarged": "10" if number % 2 == 0 else "5"} if resolution == "low" else {}
                )
                own = {
                    "image_id": f"{resolution}{row['image_id']}",
                    "identity": row["identity"],
                    "source": f"{resolution}/{row['identity']}/{name if same_names else resolution + name}",
                }
                crops.add(row | own | {"image": image, "groups": json.dumps(groups)})
                shown = "excluded" if resolution == "high" and row["image_id"] == heldout[1] else part
                divided.add({"image_id": own["image_id"], "identity": row["identity"], "split": shown, "reason": None})
    return tables


@pytest.fixture(scope="module")
def pairs(aligned_table: Path, split_table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pairs(aligned_table, split_table, tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def of_pairs(pairs: tuple[Path, Path], mended: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("of_pairs") / "evaluation"
    evaluate(*pairs, mended, out, degradation="lowres:4", gate={"target": CROSS}, **SIZED | {"probes": "clean"})
    return out


@pytest.fixture(scope="module")
def of_native_sizes(pairs: tuple[Path, Path], mended: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same pairs, with other sizes and a gate that looks at the low images alone."""
    out = tmp_path_factory.mktemp("of_native_sizes") / "evaluation"
    evaluate(*pairs, mended, out, **SIZED | {"sizes": "2 12 112"})
    return out


def test_low_images_are_compared_as_they_are(of_pairs: Path, pairs: tuple[Path, Path]) -> None:
    found = read(of_pairs)
    assert found["degradation"] == "none"  # a camera did it
    assert found["images"] == 13 and found["low_resolution"]["paired"] and found["low_resolution"]["alone"] == 2
    assert found["groups"] == {}  # neither resolution nor enlargement is a group of people
    rows = rows_of(pairs[0])
    model = load_pretrained("sface")
    embedded = model.embed(np.stack([decode_rgb(row["image"]) for row in rows]))
    vectors = dict(zip([row["image_id"] for row in rows], embedded, strict=True))
    low = pq.read_table(of_pairs / "scores.parquet").to_pylist()
    cross = pq.read_table(of_pairs / "scores_cross.parquet").to_pylist()
    assert (len(low), len(cross)) == (13 * 12 // 2, 13 * 12)

    def sharp(name: str) -> Any:
        return vectors["high" + name.removeprefix(CLEAN_PREFIX).removeprefix("low")]

    for row in low:
        assert row["heldout_finetuned"] == pytest.approx(vectors[row["left"]] @ vectors[row["right"]], abs=2e-4)
        expected = sharp(row["left"]) @ sharp(row["right"])
        assert row["heldout_clean_finetuned"] == pytest.approx(expected, abs=2e-4)
    for row in cross:
        assert row["left"].startswith("low") and row["right"] != CLEAN_PREFIX + row["left"]
        assert row[f"{CROSS}_finetuned"] == pytest.approx(vectors[row["left"]] @ sharp(row["right"]), abs=2e-4)


def test_pictures_of_pairs_are_of_the_right_images(of_pairs: Path, pairs: tuple[Path, Path]) -> None:
    images = {row["image_id"]: decode_rgb(row["image"]) for row in rows_of(pairs[0])}
    seen = list((of_pairs / "pairs").iterdir())
    assert {path.stem.startswith("clean__") for path in seen} == {True, False}
    for path in seen:
        name = path.stem.replace("clean__low", "high")
        np.testing.assert_array_equal(np.asarray(Image.open(path)), images[name])
    for path in (of_pairs / "samples").iterdir():
        shown = np.asarray(Image.open(path))
        np.testing.assert_array_equal(shown[:, :112], images[path.stem.replace("low", "high")])
        np.testing.assert_array_equal(shown[:, 112:], images[path.stem])


def test_the_threshold_is_for_what_the_gate_decides_on(of_pairs: Path, of_native_sizes: Path) -> None:
    found = read(of_pairs)
    cross = pq.read_table(of_pairs / "scores_cross.parquet").to_pandas()
    for which in MODELS:
        told = found["calibration"][which]
        impostors = cross.loc[~cross["same"], f"{CROSS}_{which}"]
        assert told["impostor_pairs"] == len(impostors)
        assert float((impostors > told["threshold"]).mean()) == pytest.approx(told["fmr"], abs=1 / len(impostors))
    assert found["calibrated_on"] == CROSS
    threshold = read(of_pairs, "threshold.json")
    assert threshold["threshold"] == found["calibration"]["finetuned"]["threshold"]
    plain = read(of_native_sizes)
    assert "calibrated_on" not in plain
    assert plain["calibration"]["finetuned"]["impostor_pairs"] == told["impostor_pairs"] / 2
    assert plain["compatibility"] == found["compatibility"]


def test_sizes_of_pairs_are_what_their_cameras_took(
    of_pairs: Path, of_native_sizes: Path, pairs: tuple[Path, Path]
) -> None:
    table = Table(pairs[0], "aligned")
    rows = {row["image_id"]: row for row in rows_of(table)}
    names = [name for name in rows if name.startswith("low")]
    sides = native_sides(table, names)
    for name, side in zip(names, sides, strict=True):
        plain = native_side(np.reshape(rows[name]["landmarks"], (5, 2)).astype(np.float64))
        assert side == pytest.approx(plain / float(json.loads(rows[name]["groups"])["enlarged"]))
    told = read(of_pairs)["resolutions"]
    counted = {row["size"]: row["images"] for row in [*told["rows"], *told["left_out"]]}
    images = set(pq.read_table(of_pairs / "scores.parquet")["left"].to_pylist())
    images |= set(pq.read_table(of_pairs / "scores.parquet")["right"].to_pylist())
    belong = [nearest(side, [8, 16]) for name, side in zip(names, sides, strict=True) if name in images]
    assert counted == {"8": belong.count(8), "16": belong.count(16), "clean": 13}
    assert belong.count(8) and belong.count(16)
    found = read(of_native_sizes)
    told = found["resolutions"]
    assert [row["size"] for row in told["rows"]] == ["12", "clean"]
    assert told["left_out"] == [{"size": "2", "images": 0}, {"size": "112", "images": 0}]
    assert [path.name for path in (of_native_sizes / "sizes").iterdir()] == ["12"]
    crops = {name: decode_rgb(row["image"]) for name, row in rows.items()}
    faces = sorted((of_native_sizes / "sizes" / "12").iterdir())
    assert len(faces) == 4
    for path in faces:
        both = [crops[path.stem], crops[path.stem.replace("low", "high")]]
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.concatenate(both, axis=1))
    for which in MODELS:
        assert told["rows"][0]["same"][which]["auc"] == pytest.approx(found[which]["heldout"]["auc"])
        assert told["rows"][0]["cross"][which]["auc"] == pytest.approx(found[which][CROSS]["auc"])
        assert told["rows"][1]["same"][which]["auc"] == pytest.approx(found[which]["heldout_clean"]["auc"])


def test_images_of_two_resolutions_and_of_no_one_photograph_are_refused(
    aligned_table: Path, split_table: Path, mended: Path, tmp_path: Path
) -> None:
    tables = write_pairs(aligned_table, split_table, tmp_path, same_names=False)
    with pytest.raises(KubefaceError, match="no two of one photograph: give both"):
        evaluate(*tables, mended, tmp_path / "out", **SIZED)
    assert not (tmp_path / "out").exists()
