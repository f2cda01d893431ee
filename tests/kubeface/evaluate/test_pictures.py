"""Pictures of the pairs of benchmarks; those of held-out people are in test_evaluate."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from kubeface.evaluate.pictures import write_benchmark_pictures
from kubeface.faces.images import RGB, decode_rgb, encode_png
from kubeface.metrics.figures import ForgottenPair
from kubeface.tables.table import Table
from tests.support.tables import rows_of


def crops_by_id(table: Table, count: int) -> dict[str, RGB]:
    rows = rows_of(table, ["image_id", "image"])
    return {row["image_id"]: decode_rgb(row["image"]) for row in rows[:count]}


def written(folder: Path) -> dict[str, RGB]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((folder / "pairs").iterdir())}


def test_an_image_of_a_bin_set_is_found_by_its_place(aligned_table: Path, tmp_path: Path) -> None:
    """Equal images have one name, the place of the first of them; what comes after them must not move."""
    crops = list(crops_by_id(Table(aligned_table, "aligned"), 4).values())
    order = [0, 0, 1, 1, 2, 3, 3, 2] * 3
    data = ([encode_png(crops[number]) for number in order], [True, True, False, False] * 3)
    (tmp_path / "set.bin").write_bytes(pickle.dumps(data, protocol=4))
    (tmp_path / "pairs").mkdir()
    forgotten = [
        ForgottenPair(
            set="set", kind="genuine", left="set/00004", right="set/00005", left_identity="", right_identity="",
            before=0.6, after=0.4, threshold_before=0.5, threshold_after=0.5,
        )
    ]  # fmt: skip
    write_benchmark_pictures(tmp_path, forgotten, "", "mtcnn", "arcface_112", {"set": str(tmp_path / "set.bin")})
    found = written(tmp_path)
    assert set(found) == {"set__00004", "set__00005"}
    np.testing.assert_array_equal(found["set__00004"], crops[2])
    np.testing.assert_array_equal(found["set__00005"], crops[3])
