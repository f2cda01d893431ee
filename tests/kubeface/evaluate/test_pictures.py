"""Pictures of pairs: each as the models saw it in its set."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from kubeface.evaluate.heldout import CLEAN_PREFIX, Heldout
from kubeface.evaluate.pictures import write_benchmark_pictures, write_pictures, write_samples
from kubeface.faces.degradation import Degradation
from kubeface.faces.images import RGB, decode_rgb, encode_png
from kubeface.metrics.figures import ForgottenPair
from kubeface.tables.table import Table
from tests.support.tables import rows_of

NOISE = Degradation.parse("noise:60")


def crops_by_id(table: Table, count: int) -> dict[str, RGB]:
    rows = rows_of(table, ["image_id", "image"])
    return {row["image_id"]: decode_rgb(row["image"]) for row in rows[:count]}


def pair(name: str, left: str, right: str) -> ForgottenPair:
    return ForgottenPair(
        set=name,
        kind="genuine",
        left=left,
        right=right,
        left_identity="",
        right_identity="",
        before=0.6,
        after=0.4,
        threshold_before=0.5,
        threshold_after=0.5,
    )


def written(folder: Path) -> dict[str, RGB]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((folder / "pairs").iterdir())}


def test_a_pair_is_shown_as_its_set_has_it(aligned_table: Path, tmp_path: Path) -> None:
    table = Table(aligned_table, "aligned")
    crops = crops_by_id(table, 3)
    a, b, c = crops
    forgotten = [pair("heldout_clean", CLEAN_PREFIX + a, CLEAN_PREFIX + b), pair("heldout", a, c)]
    write_pictures(tmp_path, Heldout(table, {}), [], forgotten, NOISE)
    found = written(tmp_path)
    assert set(found) == {f"clean__{a}", f"clean__{b}", a, c}
    for name in (a, b):
        np.testing.assert_array_equal(found[f"clean__{name}"], crops[name])
    for name in (a, c):
        np.testing.assert_array_equal(found[name], NOISE(crops[name], "probe", name))


def test_samples_show_what_the_degradation_does(aligned_table: Path, tmp_path: Path) -> None:
    table = Table(aligned_table, "aligned")
    crops = crops_by_id(table, 3)
    name = list(crops)[1]
    for degradation, expected in (
        (NOISE, np.concatenate([crops[name], NOISE(crops[name], "probe", name)], axis=1)),
        (Degradation(), crops[name]),
    ):
        folder = tmp_path / str(degradation)
        folder.mkdir()
        write_samples(folder, Heldout(table, {}), [name], degradation)
        (found,) = (folder / "samples").iterdir()
        assert found.stem == name
        np.testing.assert_array_equal(np.asarray(Image.open(found)), expected)


def test_an_image_of_a_bin_set_is_found_by_its_place(aligned_table: Path, tmp_path: Path) -> None:
    """Equal images have one name, the place of the first of them; what comes after them must not move."""
    crops = list(crops_by_id(Table(aligned_table, "aligned"), 4).values())
    order = [0, 0, 1, 1, 2, 3, 3, 2] * 3
    data = ([encode_png(crops[number]) for number in order], [True, True, False, False] * 3)
    (tmp_path / "set.bin").write_bytes(pickle.dumps(data, protocol=4))
    (tmp_path / "pairs").mkdir()
    forgotten = [pair("set", "set/00004", "set/00005")]
    write_benchmark_pictures(tmp_path, forgotten, "", "mtcnn", "arcface_112", {"set": str(tmp_path / "set.bin")})
    found = written(tmp_path)
    assert set(found) == {"set__00004", "set__00005"}
    np.testing.assert_array_equal(found["set__00004"], crops[2])
    np.testing.assert_array_equal(found["set__00005"], crops[3])
