"""The pages say of the options what the models say."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import Options
from pipelines.build import docs


class Oven(Options):
    """Options of an oven."""

    heat: Annotated[float, Field(gt=0, le=300)] = 230.0
    """Heat in °C."""


class Bread(Options):
    """Options of a bread."""

    loaves: int
    """How many."""
    shape: Literal["round", "long"] = "round"
    """Its form | as cut."""
    oven: Oven = Oven()
    """The oven."""


def test_the_pages_are_up_to_date() -> None:
    docs.write_docs(check=True)


def test_a_table_has_what_the_model_has() -> None:
    assert docs.options_table(Bread).splitlines()[2:] == [
        "| `loaves` | whole number | required | How many. |",
        "| `shape` | `round`, `long` | `round` | Its form \\| as cut. |",
        "| `oven.heat` | number > 0, ≤ 300 | `230.0` | Heat in °C. |",
    ]


def test_a_page_that_is_out_of_date_or_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    page = tmp_path / "docs" / "align.md"
    page.parent.mkdir()
    page.write_text("a\n<!-- options: kubeface.align.options.AlignOptions -->\nold\n<!-- /options -->\nb\n")
    with pytest.raises(KubefaceError, match=r"docs/align\.md is out of date: run 'make docs'"):
        docs.write_docs(check=True)
    docs.write_docs()
    docs.write_docs(check=True)
    assert "| `detector` | `mtcnn`, `retinaface`, `none` | `mtcnn` |" in page.read_text("utf-8")
    page.write_text("<!-- options: kubeface.align.options.None_ -->\n<!-- /options -->")
    with pytest.raises(KubefaceError, match=r"docs/align\.md names kubeface\.align\.options\.None_: there are no such"):
        docs.write_docs()
