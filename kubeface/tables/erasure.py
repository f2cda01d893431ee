"""The erasure list: people and images that are to be forgotten, kept as digests that do not reveal their names."""

from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.keyed_rng import text_digest
from kubeface.storage.downloads import fetch


def name_digest(name: str) -> str:
    """The digest of a person or file: the first 32 hex digits of the SHA-256 of the name."""
    return text_digest(name).hex()[:32]


def read_erasure_list(uri: str) -> frozenset[str]:
    """Reads the digests of the people and images to be forgotten; an empty `uri` stands for nobody.

    The text file (path, s3:// or https:// with #sha256=…) has one name of a person, or of a file below the source, a
    line; lines that begin with # are comments.

    Raises:
        KubefaceError: the file cannot be read, is not UTF-8, or names nobody.
    """
    if not uri:
        return frozenset()
    try:
        lines = [line.strip() for line in fetch(uri).read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise KubefaceError(f"{uri} is not UTF-8: write one name of a person or a file in each line") from None
    digests = frozenset(name_digest(line) for line in lines if line and not line.startswith("#"))
    require(bool(digests), f"{uri} names nobody: write one name of a person or a file in each line, or leave it out")
    return digests
