"""Pickles of lists of bytes and booleans, read without running them.

Unpickling a file from elsewhere runs whatever code it names. Here a machine that knows lists, bytes, booleans and
tuples of lists, and no way to look anything up or call it, goes through the opcodes.
"""

import codecs
import pickletools
import re
from typing import IO, Any, cast

from kubeface.runtime.errors import KubefaceError, require

NEWEST_PROTOCOL = 5
MOST_OPCODES = 2_000_000  # a bound on time and memory; insightface's sets have up to 50,000

_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_BYTES = {
    "SHORT_BINBYTES",
    "BINBYTES",
    "BINBYTES8",
    "SHORT_BINSTRING",
    "BINSTRING",
    "STRING",
}  # …STRING: Python 2's str
_BOOLEANS = {"NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LISTS = {"MARK", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "TUPLE"}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
_KNOWN = {*_BYTES, *_BOOLEANS, "INT", *_LISTS, *_TUPLES, *_PUTS, *_GETS, "PROTO", "FRAME", "STOP"}

_ESCAPED = re.compile(rb"""(?:[^\\]|\\(?:[\\'"nrt]|x[0-9a-f]{2}))*""")


def read_plain_pickle(data: IO[bytes], name: str) -> Any:
    """The value that a pickle describes: bytes, a boolean, a list of those, or a tuple of such lists.

    Read are protocols 0 to 2 as Python 2 writes them, whose str counts as bytes, and 3 to 5 as Python 3 does. Below 3
    Python 3 writes bytes as a call, which is refused like every other.

    Args:
        data: the file, from its beginning; best one whose read(n) sets aside no more than there is (mmap, BytesIO),
            since n is whatever an opcode claims.
        name: of the file, for errors.

    Raises:
        KubefaceError: any other opcode, or a pickle that is cut off or makes no sense; opcode and byte are named.
    """
    machine = _Machine()
    for _ in range(MOST_OPCODES):
        offset = data.tell()
        code = data.read(1)
        require(bool(code), f"{name} is cut off after {offset} bytes")
        opcode = _OPCODES.get(code.decode("latin-1"))
        if opcode is None:
            raise KubefaceError(f"{name}: byte {offset} is no opcode of pickle: is it another kind of file?")
        # What is not known is refused before its argument is read.
        require(
            opcode.name in _KNOWN,
            f"{name}: opcode {opcode.name} at byte {offset} is refused, for only lists, bytes and booleans are read; "
            "write the file with pickle protocol 4, bytes as bytes",
        )
        try:
            argument = _argument(opcode, data)
            if opcode.name == "STOP":
                return machine.pop()
            machine.run(opcode.name, argument)
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise KubefaceError(f"{name}: opcode {opcode.name} at byte {offset} is wrong: {reason}") from error
    raise KubefaceError(f"{name} has more than {MOST_OPCODES} opcodes, which no list of images needs")


def _argument(opcode: pickletools.OpcodeInfo, data: IO[bytes]) -> Any:
    """What follows an opcode, strings as bytes.

    Raises:
        ValueError: it is cut off or malformed.
    """
    if opcode.name == "STRING":  # pickletools takes its content for ASCII
        escaped = cast(bytes, pickletools.read_stringnl(data, decode=False))
        _expect(bool(_ESCAPED.fullmatch(escaped)), "an escape is there that Python 2 does not write")
        return codecs.escape_decode(escaped)[0]
    value = opcode.arg.reader(data) if opcode.arg else None
    return value.encode("latin-1") if isinstance(value, str) else value


class _Machine:
    """Pickle's stack machine without all that calls and looks up.

    Lists hold no lists, so nothing is nested in itself. Every method raises ValueError where the opcodes make no sense.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what lies below each mark
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Takes any opcode of `_KNOWN` but STOP."""
        if name in _BYTES:
            self.stack.append(argument)
        elif name in _BOOLEANS:
            self.stack.append(_BOOLEANS[name])
        elif name == "INT":  # protocols 0 and 1 write booleans as I00 and I01
            _expect(isinstance(argument, bool), "a number is there, not a boolean")
            self.stack.append(argument)
        elif name in _PUTS:
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.top()
        elif name in _GETS:
            _expect(argument in self.memo, "nothing was remembered under this number")
            self.stack.append(self.memo[argument])
        elif name in _TUPLES:
            self.add_tuple([self.pop() for _ in range(_TUPLES[name])][::-1])
        elif name in _LISTS:
            self.run_list(name)
        elif name == "PROTO":
            _expect(argument <= NEWEST_PROTOCOL, f"protocol {argument} is not known")

    def run_list(self, name: str) -> None:
        """Takes an opcode of `_LISTS`."""
        if name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name == "TUPLE":
            self.add_tuple(self.since_mark())
        elif name in ("EMPTY_LIST", "LIST"):
            items = self.since_mark() if name == "LIST" else []
            self.stack.append([])
            self.extend(items)
        else:
            self.extend([self.pop()] if name == "APPEND" else self.since_mark())

    def top(self) -> Any:
        """The last value."""
        _expect(bool(self.stack), "no value is there")
        return self.stack[-1]

    def pop(self) -> Any:
        """Takes the last value."""
        value = self.top()
        self.stack.pop()
        return value

    def since_mark(self) -> list[Any]:
        """Takes the values since the last mark."""
        _expect(bool(self.below), "no mark is there")
        values, self.stack = self.stack, self.below.pop()
        return values

    def extend(self, items: list[Any]) -> None:
        """Adds items to the list that is the last value."""
        target = self.top()
        _expect(isinstance(target, list), "what is added to is no list")
        _expect(all(isinstance(item, bytes | bool) for item in items), "a list holds more than bytes and booleans")
        target.extend(items)

    def add_tuple(self, items: list[Any]) -> None:
        """Puts a tuple of lists on the stack."""
        _expect(all(isinstance(item, list) for item in items), "a tuple holds more than lists")
        self.stack.append(tuple(items))


def _expect(right: bool, reason: str) -> None:
    if not right:
        raise ValueError(reason)
