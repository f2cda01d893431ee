"""People and images that are to be forgotten, known by marks that do not tell their names."""

import hashlib

from kubeface.runtime.errors import KubefaceError, require
from kubeface.storage.downloads import fetch


def name_digest(name: str) -> str:
    """The mark of a person or a file: 32 hex digits of the SHA-256 of the name."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def read_forget(uri: str) -> frozenset[str]:
    """Marks of the people and images in a list: one name a line, of a person or of a file below the source; what
    follows a # at the beginning of a line is a remark.

    Args:
        uri: text file (path, s3:// or https:// with #sha256=…); empty for nobody.

    Raises:
        KubefaceError: the file cannot be read, is not UTF-8, or names nobody.
    """
    if not uri:
        return frozenset()
    try:
        lines = [line.strip() for line in fetch(uri).read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise KubefaceError(f"{uri} is not UTF-8: write one name of a person or a file in each line") from None
    marks = frozenset(name_digest(line) for line in lines if line and not line.startswith("#"))
    require(bool(marks), f"{uri} names nobody: write one name of a person or a file in each line, or leave it out")
    return marks
