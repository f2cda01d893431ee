"""Output folders that are either whole or absent, and the JSON in them."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import new_folder, read_json, write_json


def test_the_folder_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)  # an empty one may be there
    with pytest.raises(KeyboardInterrupt), new_folder(out) as folder:
        (folder / "a.txt").write_text("a")
        raise KeyboardInterrupt
    assert list(out.parent.iterdir()) == []
    with new_folder(out) as folder:
        (folder / "a.txt").write_text("a")
        assert folder != out
        assert not out.exists()
    assert (out / "a.txt").read_text() == "a"
    assert list(out.parent.iterdir()) == [out]


def test_leftovers_of_an_earlier_attempt_are_cleared(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        partial = folder
    partial.mkdir()
    (partial / "old.txt").write_text("old")
    (tmp_path / "out").rmdir()
    with new_folder(tmp_path / "out") as folder:
        (folder / "new.txt").write_text("new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_existing_output_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    kept = out / "kept.txt" if kind == "folder" else out
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(KubefaceError, match="out exists already: remove it or choose another"), new_folder(out):
        pytest.fail("the block must not run")
    assert kept.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(value=st.dictionaries(st.text(), json_values, max_size=5))
def test_json_comes_back_and_does_not_depend_on_the_order_of_keys(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("json")
    write_json(folder / "a.json", value)
    write_json(folder / "b.json", dict(reversed(value.items())))
    assert read_json(folder / "a.json") == value
    assert (folder / "a.json").read_bytes() == (folder / "b.json").read_bytes()


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_refuses_nan_and_infinity(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": number})
    assert not (tmp_path / "a.json").exists()


def test_json_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match=r"a\.json is missing: was the step before it finished"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(KubefaceError, match=r"a\.json is not valid JSON \(.*line 1 column 2"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(KubefaceError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
