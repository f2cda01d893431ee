"""Output folders and files that are either whole or absent, JSON and CSV."""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubeface.runtime.errors import KubefaceError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `out` that becomes `out` when the block ends well.

    A step that fails or is killed leaves no `out`; what it left under the temporary name is
    cleared by the next attempt.

    Raises:
        KubefaceError: `out` exists and is not an empty folder.
    """
    out = Path(out)
    if out.exists():
        if not out.is_dir() or any(out.iterdir()):
            raise KubefaceError(f"{out} exists already: remove it or choose another output folder")
        out.rmdir()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path` that becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with sorted keys, so that equal values give equal bytes; NaN is refused."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table as CSV; names of files need not be UTF-8."""
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        KubefaceError: the file is missing or is not JSON.
    """
    try:
        return parse_json(Path(path).read_bytes(), str(path))
    except FileNotFoundError:
        raise KubefaceError(f"{path} is missing: was the step before it finished?") from None
    except OSError as error:
        raise KubefaceError(f"{path} cannot be read: {error.strerror}") from None


def parse_json(data: bytes, where: str) -> Any:
    """What a JSON file holds.

    Raises:
        KubefaceError: it is not JSON; the line names `where` it came from.
    """
    try:
        return json.loads(data.decode())
    except ValueError as error:
        raise KubefaceError(f"{where} is not valid JSON ({error}); run the step that writes it again") from None
