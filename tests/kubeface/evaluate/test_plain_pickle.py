"""Pickles of lists of bytes and booleans: all that are such are read alike, and nothing is ever executed."""

import io
import os
import pickle
import re
import struct
import tracemalloc
from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeface.evaluate import plain_pickle
from kubeface.evaluate.plain_pickle import read_plain_pickle
from kubeface.runtime.errors import KubefaceError

Lists = tuple[list[bytes], list[bool]]
LISTS = st.tuples(st.lists(st.binary(max_size=400), max_size=30), st.lists(st.booleans(), max_size=30))
EXAMPLE: Lists = ([b"\xff\xd8 one", b"", b"it's\n\\x00", b"\xff\xd8 one", b"z" * 300], [True, False, True])


def read(data: bytes) -> Any:
    return read_plain_pickle(io.BytesIO(data), "set.bin")


def python_2(lists: Lists, protocol: int) -> bytes:
    """What Python 2's cPickle writes for a tuple of a list of str and one of bool."""
    images, same = lists
    memo = iter(range(10**6))

    def put() -> bytes:
        return b"p%d\n" % next(memo) if protocol == 0 else b"q%c" % next(memo) if next(memo) < 200 else b""

    def string(data: bytes) -> bytes:
        if protocol == 0:
            return b"S" + repr(data)[1:].encode() + b"\n" + put()  # as Python 2 shows a str
        short = struct.pack("<cB", b"U", len(data)) if len(data) < 256 else struct.pack("<ci", b"T", len(data))
        return short + data + put()

    def boolean(truth: bool) -> bytes:
        return (b"\x89", b"\x88")[truth] if protocol == 2 else b"I0%d\n" % truth

    def listed(items: list[bytes]) -> bytes:
        if protocol == 0:
            return b"(l" + put() + b"".join(item + b"a" for item in items)
        return b"]" + put() + (b"(" + b"".join(items) + b"e" if items else b"")

    both = listed([string(image) for image in images]) + listed([boolean(truth) for truth in same])
    return {0: b"(" + both + b"t.", 1: b"(" + both + b"t.", 2: b"\x80\x02" + both + b"\x86."}[protocol]


@given(LISTS, st.sampled_from([3, 4, 5]))
def test_what_python_3_writes_is_read(lists: Lists, protocol: int) -> None:
    data = pickle.dumps(lists, protocol)
    assert read(data) == lists == pickle.loads(data)  # noqa: S301
    assert [type(item) for part in read(data) for item in part] == [type(item) for part in lists for item in part]


@given(LISTS, st.sampled_from([0, 1, 2]))
def test_what_python_2_writes_is_read(lists: Lists, protocol: int) -> None:
    data = python_2(lists, protocol)
    assert pickle.loads(data, encoding="bytes") == lists  # noqa: S301 - that the pickle by hand is one
    assert read(data) == lists


def test_equal_images_are_remembered_not_copied() -> None:
    image = bytes(1000)
    data = pickle.dumps(([image] * 50, [True] * 25), 4)
    assert len(data) < 2000
    images, _ = read(data)
    assert len({id(found) for found in images}) == 1
    assert read(python_2(EXAMPLE, 0)) == EXAMPLE


def test_python_3_below_protocol_3_writes_bytes_as_a_call() -> None:
    for protocol in (0, 1, 2):
        with pytest.raises(
            KubefaceError, match=r"set\.bin: opcode GLOBAL at byte \d+ is refused, .* with pickle protocol 4"
        ):
            read(pickle.dumps(EXAMPLE, protocol))


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrapped", [False, True])
def test_hostile_file_does_nothing(protocol: int, wrapped: bool, tmp_path: Any) -> None:
    sign = tmp_path / "pwned"
    hostile = Hostile(f"touch {sign}")
    data = pickle.dumps(([hostile], [True]) if wrapped else hostile, protocol)
    with pytest.raises(KubefaceError, match=r"set\.bin: opcode \w+ at byte \d+ is refused"):
        read(data)
    assert not sign.exists()
    pickle.loads(data)  # noqa: S301 - it would have done what it is feared for
    assert sign.exists()


@pytest.mark.parametrize(
    ("value", "opcode"),
    [
        (([np.zeros(3)], [True]), "(SHORT_BINUNICODE|GLOBAL)"),
        (([np.float32(1)], [True]), "(SHORT_BINUNICODE|GLOBAL)"),
        (([b"a"], [1]), "BININT1"),
        (([b"a"], [10**30]), "LONG1"),
        (([b"a"], [1.5]), "BINFLOAT"),
        (([b"a"], [None]), "NONE"),
        ((["text"], [True]), "(SHORT_BINUNICODE|BINUNICODE)"),
        (({}, [True]), "EMPTY_DICT"),
        (([bytearray(b"a")], [True]), "(BYTEARRAY8|SHORT_BINUNICODE|GLOBAL)"),
        (({b"a"}, [True]), "(EMPTY_SET|GLOBAL)"),
    ],
)
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_anything_else_is_refused(value: object, opcode: str, protocol: int) -> None:
    with pytest.raises(KubefaceError, match=rf"opcode {opcode} at byte \d+ is refused, for only lists, bytes and boo"):
        read(pickle.dumps(value, protocol))


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(ios\nsystem\n",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"Pname\n.",  # PERSID
        b"]Q.",  # BINPERSID
        b"\x82\x01.",  # EXT1
        b"]]b.",  # BUILD
        b"]2.",  # DUP
        b"]]0.",  # POP
        b"\x97.",  # NEXT_BUFFER
        b"L7L\n.",
        b"Vtext\n.",
    ],
)
def test_every_opcode_that_acts_is_refused_before_it_is_read(data: bytes) -> None:
    with pytest.raises(KubefaceError, match=r"opcode \w+ at byte \d+ is refused"):
        read(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b".", "its opcodes make no list: unpickling stack underflow"),
        (b"]e.", "its opcodes make no list: could not find MARK"),
        (b"]a.", "its opcodes make no list: "),
        (b"\x88\x88a.", "its opcodes make no list: 'bool' object has no attribute 'append'"),
        (b"h\x07.", "its opcodes make no list: Memo value not found at index 7"),
        (b"q\x07.", "its opcodes make no list: "),
        (b"r\xff\xff\xff\xff.", "opcode LONG_BINPUT at byte 0 is wrong: its index is too large"),
        (b"p99999999\n.", "opcode PUT at byte 0 is wrong: its index is too large"),
        (b"Ix\n.", "opcode INT at byte 0 is wrong: invalid literal"),
        (b"Sabc\n.", "opcode STRING at byte 0 is wrong: no string quotes"),
        (b"S'\\xzz'\n.", r"its opcodes make no list: invalid \\x escape"),
        (b"\x80\x63.", "its opcodes make no list: unsupported pickle protocol: 99"),
        (b"B\xff\xff\xff\x7fabc", "opcode BINBYTES at byte 0 is wrong: expected 2147483647 bytes"),
        (b"\x8e" + b"\xff" * 7 + b"\x7fabc", "opcode BINBYTES8 at byte 0 is wrong: expected"),
        (b"\x8e" + b"\xff" * 8 + b"abc", "opcode BINBYTES8 at byte 0 is wrong:"),
        (b"T\xff\xff\xff\xffabc", "opcode BINSTRING at byte 0 is wrong: string4 byte count < 0"),
        (b"\xff\xd8\xff", "byte 0 is no opcode of pickle"),
        (b"", "set.bin is cut off after 0 bytes"),
    ],
)
def test_what_makes_no_sense_is_named(data: bytes, said: str) -> None:
    with pytest.raises(KubefaceError, match=said):
        read(data)


def test_every_cut_is_refused() -> None:
    for data in (pickle.dumps(EXAMPLE, 4), python_2(EXAMPLE, 0), python_2(EXAMPLE, 2)):
        for length in range(len(data)):
            with pytest.raises(KubefaceError, match=r"is cut off after|is wrong"):
                read(data[:length])


def test_too_many_opcodes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(([], [True] * 1000), 4)
    assert len(read(data)[1]) == 1000
    monkeypatch.setattr(plain_pickle, "MOST_OPCODES", 1000)
    with pytest.raises(KubefaceError, match="has more than 1000 opcodes"):
        read(data)


def test_a_length_that_is_a_lie_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(KubefaceError):
            read(b"\x8e" + struct.pack("<Q", 2**40) + b"abc")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


RUN: Counter[str] = Counter()


def strike(*arguments: object) -> None:
    """What a mutated file must never come to call."""
    RUN["strike"] += 1


class Striking:
    def __reduce__(self) -> tuple[Any, ...]:
        return strike, ()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_mutated_bytes_are_read_or_refused(protocol: int) -> None:
    """Whatever becomes of a file: a value, or an error in one line; and nothing is called."""
    random = np.random.default_rng(protocol)
    plain = python_2(EXAMPLE, protocol) if protocol < 3 else pickle.dumps(EXAMPLE, protocol)
    hostile = pickle.dumps(([Striking(), b"abc"], [True, False]), protocol)
    outcomes: Counter[str] = Counter()
    for number in range(1500):
        data = bytearray(hostile if number % 3 == 0 else plain)
        for _ in range(random.integers(1, 5)):
            place = int(random.integers(len(data)))
            kind = random.integers(3)
            if kind == 0:
                data[place] = random.integers(256)
            elif kind == 1:
                data.insert(place, random.integers(256))
            elif len(data) > 1:
                del data[place : place + int(random.integers(1, 4))]
        try:
            read(bytes(data))
        except KubefaceError as error:
            outcomes[re.sub(r".*(refused|wrong|cut off|no opcode).*", r"\1", str(error))] += 1
        else:
            outcomes["read"] += 1
    assert RUN["strike"] == 0
    assert set(outcomes) >= {"read", "refused", "wrong", "no opcode"}  # each of them occurs


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(KubefaceError):
        read(data)
