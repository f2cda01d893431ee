"""Pictures inside the page, as data: URIs."""

import io
from pathlib import Path

from PIL import Image

from kubeface.faces.images import data_uri, decode_rgb
from kubeface.runtime.errors import KubefaceError, require
from kubeface.tables.table import Table

LARGEST = 224  # pixels of a picture's longer side
CROP = 112  # pixels of a crop's longer side
JPEG_QUALITY = 90


def picture(path: Path, largest: int = LARGEST) -> str:
    """A picture as a JPEG of at most `largest` pixels a side, so that pages stay small.

    Raises:
        KubefaceError: the file is missing or cannot be decoded.
    """
    require(path.is_file(), f"{path} is missing: was the step before it finished?")
    try:
        image = Image.fromarray(decode_rgb(path.read_bytes()))
    except Exception:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise KubefaceError(f"{path} is no picture: run the step that writes it again") from None
    return _as_jpeg(image, largest)


def crops(aligned: Table, sources: set[str]) -> dict[str, str]:
    """Crops by source; one row group is in memory at a time, and no more are read than needed."""
    found: dict[str, str] = {}
    for rows in aligned.row_groups(["source", "image"]):
        found |= {row["source"]: _crop(row["image"]) for row in rows if row["source"] in sources}
        if len(found) == len(sources):
            break
    return found


def _crop(image: bytes) -> str:
    """A crop; one that is larger than it is shown is shrunk, so that pages stay small."""
    if max(Image.open(io.BytesIO(image)).size) <= CROP:
        return data_uri(image)
    return _as_jpeg(Image.fromarray(decode_rgb(image)), CROP)


def _as_jpeg(image: Image.Image, largest: int) -> str:
    image.thumbnail((largest, largest))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return data_uri(buffer.getvalue())
