"""Pickles of lists of bytes and booleans, read without running them.

Unpickling a file from elsewhere runs whatever code it names. Here every opcode is looked at first: only those that make
lists, bytes, booleans and tuples pass, none that looks something up or calls it.
"""

import pickle
import pickletools
from collections.abc import Collection
from typing import IO, Any

from kubeface.runtime.errors import KubefaceError, require

MOST_OPCODES = 2_000_000  # a bound on time and memory; insightface's sets have up to 50,000

_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_KNOWN: Collection[str] = {
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "SHORT_BINSTRING", "BINSTRING", "STRING"),  # …STRING: Python 2's str
    *("NEWTRUE", "NEWFALSE", "INT"),  # protocols 0 and 1 write booleans as I00 and I01
    *("MARK", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("GET", "BINGET", "LONG_BINGET", "MEMOIZE", *_PUTS, "PROTO", "FRAME", "STOP"),
}


def read_plain_pickle(data: IO[bytes], name: str) -> Any:
    """The value that a pickle describes: bytes, a boolean, or lists and tuples of them.

    Read are protocols 0 to 2 as Python 2 writes them, whose str counts as bytes, and 3 to 5 as Python 3 does. Below 3
    Python 3 writes bytes as a call, which is refused like every other.

    Args:
        data: the file, from its beginning; best one whose read(n) sets aside no more than there is (mmap, BytesIO),
            since n is whatever an opcode claims.
        name: of the file, for errors.

    Raises:
        KubefaceError: any other opcode, or a pickle that is cut off or makes no sense.
    """
    _check_opcodes(data, name)
    data.seek(0)
    try:
        return _Unpickler(data, encoding="bytes").load()
    except Exception as error:  # pickle raises whatever it stumbles over
        raise KubefaceError(f"{name} is wrong, its opcodes make no list: {str(error)[:200]}") from error


class _Unpickler(pickle.Unpickler):
    """Refuses to look anything up, had an opcode that does so slipped through."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is refused")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("persistent ids are refused")


def _check_opcodes(data: IO[bytes], name: str) -> None:
    """Raises KubefaceError where an opcode is not known, is cut off, or would take more memory than the file has."""
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
            if opcode.name in _PUTS and argument > MOST_OPCODES:  # the memo has room for every index up to the largest
                raise ValueError("its index is too large")
        except ValueError as error:
            raise KubefaceError(
                f"{name}: opcode {opcode.name} at byte {offset} is wrong: {str(error)[:200]}"
            ) from error
        if opcode.name == "STOP":
            return
    raise KubefaceError(f"{name} has more than {MOST_OPCODES} opcodes, which no list of images needs")


def _argument(opcode: pickletools.OpcodeInfo, data: IO[bytes]) -> Any:
    """What follows an opcode; raises ValueError where it is cut off or malformed."""
    if opcode.name == "STRING":  # pickletools takes its content for ASCII
        return pickletools.read_stringnl(data, decode=False)
    return opcode.arg.reader(data) if opcode.arg else None
