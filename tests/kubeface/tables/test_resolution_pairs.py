"""Resolution pairs: partners, enlargement, and the native size of a crop."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kubeface.faces.geometry import ARCFACE_112
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.resolution_pairs import enlarged_of, native_side, pair_key, partners, resolution_of
from kubeface.tables.table import Table
from tests.support.commands import run_python
from tests.support.tables import EMPTY_IMAGE, write_rows


def table_of(folder: Path, rows: list[tuple[str, str, str | None]]) -> Table:
    """A face table of (identity, source, resolution)."""
    found = (
        {"image_id": str(number), "identity": identity, "source": source, **EMPTY_IMAGE}
        | {"groups": json.dumps({"resolution": resolution}) if resolution else None}
        for number, (identity, source, resolution) in enumerate(rows)
    )
    return Table(write_rows(folder / "faces", "faces", found), "faces")


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        (None, None),
        ("", None),
        ("{}", None),
        ('{"camera": "low"}', None),
        ('{"resolution": "low"}', "low"),
        ('{"camera": "2", "resolution": "high"}', "high"),
        ('{"resolution": "medium"}', None),
        ('{"resolution": null}', None),
        ('{"resolution": 14}', None),
        ('{"camera": "resolution"}', None),
    ],
)
def test_resolution_from_groups(groups: str | None, found: str | None) -> None:
    assert resolution_of(groups) == found


@pytest.mark.parametrize(
    ("groups", "found"), [(None, 1), ("{}", 1), ('{"enlarged": "8"}', 8), ('{"camera": "enlarged"}', 1)]
)
def test_enlargement_from_groups(groups: str | None, found: float) -> None:
    assert enlarged_of(groups) == found


@pytest.mark.parametrize("said", ['"yes"', "0", "-2", '"inf"', "[2]", "null"])
def test_invalid_enlargement_is_refused(said: str) -> None:
    with pytest.raises(
        KubefaceError, match=r"^group enlarged is '.+': it must be a number above 0; rename the listing's"
    ):
        enlarged_of(f'{{"enlarged": {said}}}')


@example("s1", "\udcff1")  # a name that is not UTF-8
@given(st.text(), st.text(min_size=1).filter(lambda name: "/" not in name and "." not in name and "\0" not in name))
def test_pair_key_ignores_folder_and_suffix(identity: str, name: str) -> None:
    key = pair_key(identity, f"hr_images/{name}.jpg")
    assert key == pair_key(identity, f"vlr_images/more/{name}.png") == pair_key(identity, name)
    assert 0 < key < 2**64
    assert key != pair_key(f"{identity}x", f"{name}.jpg")
    assert key != pair_key(identity, f"{name}x.jpg")


def test_partners_are_found_in_any_order_of_rows(tmp_path: Path) -> None:
    table = table_of(
        tmp_path,
        [
            ("a", "vlr_images/a/1.png", "low"),
            ("b", "hr_images/b/1.jpg", "high"),
            ("a", "hr_images/a/1.jpg", "high"),
            ("b", "vlr_images/b/1.png", "low"),
            ("a", "hr_images/a/2.jpg", "high"),  # nobody's
            ("b", "vlr_images/b/2.png", "low"),  # alone
            ("b", "b/2.jpg", None),  # says not that it is sharp
            ("a", "vlr_images/a/3.png", "medium"),
        ],
    )
    assert partners(table) == {"0": "2", "3": "1"}


@pytest.mark.parametrize("resolution", ["low", "high"])
def test_two_images_of_one_resolution_are_refused(tmp_path: Path, resolution: str) -> None:
    rows: list[tuple[str, str, str | None]] = [
        ("a", f"{folder}/1.{kind}", resolution) for folder, kind in (("x", "jpg"), ("y", "png"))
    ]
    assert partners(table_of(tmp_path / "alone", rows)) == {}  # of which there is no other resolution
    rows.append(("a", "z/1.png", {"low": "high", "high": "low"}[resolution]))
    with pytest.raises(
        KubefaceError, match=rf"^x/1\.jpg and y/1\.png are both the {resolution} image of one photograph: rename"
    ):
        partners(table_of(tmp_path / "pair", rows))


@given(st.floats(4, 400), st.floats(-3.1, 3.1), st.floats(-50, 50), st.sampled_from([1, 2, 4, 8]))
def test_native_side_of_a_crop(side: float, turn: float, shift: float, enlarged: int) -> None:
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    landmarks = ARCFACE_112 * (side / 112) @ rotation.T + shift
    assert native_side(landmarks * enlarged, enlarged) == pytest.approx(side, rel=1e-6)


def test_pairs_do_not_need_opencv() -> None:
    """ingest and gather carry none."""
    run_python("import sys; sys.modules['cv2'] = None; import kubeface.tables.resolution_pairs, kubeface.gather.step")
