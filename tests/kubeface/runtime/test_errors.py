"""What a user is told is one line, whatever it is made of."""

import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage.downloads import Unreachable


@given(st.text(st.sampled_from("a: \t\r\n"), max_size=30))
@example("while parsing a flow\n  in 'r.yaml', line 1:\r\n\n    lr: [1\n")
def test_an_error_is_one_line_of_the_same_words(text: str) -> None:
    for kind in (KubefaceError, Unreachable):
        said = str(kind(text))
        assert not {"\r", "\n"}.intersection(said) and said.split() == text.split()
        assert str(pickle.loads(pickle.dumps(kind(text)))) == said  # noqa: S301


def test_spaces_within_a_line_stay() -> None:
    assert str(KubefaceError("two  spaces.jpg does not exist")) == "two  spaces.jpg does not exist"


def test_require_raises_the_message() -> None:
    require(True, "unused")
    with pytest.raises(KubefaceError, match=r"^epochs is 0$"):
        require(False, "epochs is 0")
