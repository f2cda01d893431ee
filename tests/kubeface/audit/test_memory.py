"""Memory does not grow with the number of images."""

from pathlib import Path

import numpy as np
import pytest

from kubeface.faces.images import encode_png
from kubeface.tables.table import TableWriter
from tests.support.commands import run_python
from tests.support.tables import DETECTED, JUDGED

PER_IDENTITY = 20
# The embedder reads from a tiny crop who it is, since SFace itself would take a quarter of an hour. Each thread loads
# SFace all the same and uses it once, since it is most of the step's memory. VmHWM is the process's own peak, where
# ru_maxrss begins with that of the process that started it.
PROGRAM = r"""
import re, sys, threading
from pathlib import Path
import numpy as np
from kubeface.audit import step
from kubeface.audit.embeddings import sface, to_unit_length

network, seen = sface(), threading.local()

def embed(crop):
    if not hasattr(seen, "network"):
        seen.network = network(np.zeros((112, 112, 3), np.uint8))
    person, image = (int.from_bytes(crop[row, 0].tobytes(), "little") for row in (0, 1))
    face, noise = np.random.default_rng(person).normal(size=128), np.random.default_rng(10**8 + image).normal(size=128)
    return to_unit_length(face + noise / 2)

step.sface = lambda: embed
root = Path(sys.argv[1])
result = step.audit(root / "aligned", root / "filtered", root / "out", root / "page.html")
assert result.rows_in == result.rows_out + result.same_photo_two_names, result
assert result.suspects == result.alike_pairs == 0, result
print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


def write(root: Path, images: int) -> None:
    """Tables of tiny crops; every hundredth photograph is there twice."""
    random = np.random.default_rng(0)
    with (
        TableWriter(root / "aligned", "aligned", "test 1", {}) as aligned,
        TableWriter(root / "filtered", "filter", "test 1", {}) as filtered,
    ):
        for number in range(images):
            person = number // PER_IDENTITY
            crop = np.zeros((2, 1, 3), np.uint8)
            crop[0, 0] = list(person.to_bytes(3, "little"))
            image_id, content = f"{number:016x}", number - (number % 100 == 1)
            crop[1, 0] = list(content.to_bytes(3, "little"))
            name, phash = f"person {person:06d}", f"{int(random.integers(2**63)):016x}"
            names = {"image_id": image_id, "identity": name, "source": f"{name}/photograph {number:08d}.jpg"}
            pixels = {"image": encode_png(crop), "width": 112, "height": 112}
            aligned.add({**names, **pixels, "content": f"{content:016x}", "phash": phash, **DETECTED})
            filtered.add({"image_id": image_id, **JUDGED})


@pytest.mark.slow
def test_memory_is_flat(tmp_path: Path) -> None:
    peaks = []
    for images in (5000, 50_000):
        write(tmp_path / str(images), images)
        peaks.append(int(run_python(PROGRAM, tmp_path / str(images))))
    print(f"peak memory {peaks[0] / 1024:.0f} MB at 5,000 images, {peaks[1] / 1024:.0f} MB at 50,000")
    assert peaks[1] < 1.1 * peaks[0]
