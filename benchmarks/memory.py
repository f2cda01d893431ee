"""make bench-memory: peak memory of the data path's steps at 10,000 and at 100,000 images, which should be the same.

The images are ORL's real faces (Samaria and Harter, WACV 1994), each re-encoded as JPEG many times with its own light
and quality, ten to a person, in one archive. Every step runs as a process of its own, as on the command line; what is
compared is the most memory that the process ever held (ru_maxrss). Written to build/bench-memory.json.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import cyclopts
import numpy as np
from PIL import Image

from benchmarks.rounds import Details, Figure, orl_faces, report

SMALL, LARGE = 10_000, 100_000
IMAGES_OF_A_PERSON = 10
TARGET = 1.10
RESULT = Path("build/bench-memory.json")


def make_archive(path: Path, count: int) -> None:
    """`count` JPEG files of real faces, no two alike, as <person>/<number>.jpg."""
    faces = [np.asarray(Image.open(io.BytesIO(data))) for _, data in orl_faces()]
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            face = faces[number % len(faces)] * random.uniform(0.6, 1.1) + random.uniform(-10, 10)
            buffer = io.BytesIO()
            image = Image.fromarray(np.clip(face, 0, 255).astype(np.uint8))
            image.save(buffer, "JPEG", quality=int(random.integers(60, 96)))
            entry = tarfile.TarInfo(f"p{number // IMAGES_OF_A_PERSON}/{number}.jpg")
            entry.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(entry, buffer)


def commands(source: Path, root: Path) -> dict[str, list[str]]:
    """The command line of each step, all tables below `root`."""
    faces, aligned, filtered, audited = (str(root / name) for name in ("faces", "aligned", "filter", "audit"))
    merged = [str(root / name) for name in ("gathered", "merged-aligned", "merged-filter")]
    return {
        "ingest": ["ingest", "--source", str(source), "--out", faces],
        "align": ["align", "--faces", faces, "--out", aligned, "--detector", "retinaface"],
        "filter": ["filter", "--faces", faces, "--aligned", aligned, "--out", filtered],
        "gather": ["gather", "--ingested", faces, "--aligned", aligned, "--filtered", filtered,
                   "--out", merged[0], "--out-aligned", merged[1], "--out-filtered", merged[2]],
        # Without the audit's verdicts: it rightly sees forty people under many names here, and would leave nobody.
        "split": ["split", "--aligned", merged[1], "--filtered", merged[2], "--out", str(root / "split")],
        "audit": ["audit", "--aligned", merged[1], "--filtered", merged[2], "--out", audited,
                  "--html", str(root / "audit.html")],
    }  # fmt: skip


def measure(command: list[str]) -> tuple[float, float]:
    """Peak memory in MiB and seconds of a step's process."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "kubeface", *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"error: kubeface {command[0]} failed")
    return usage.ru_maxrss / 1024, time.monotonic() - start


def main(*, small: int = SMALL, large: int = LARGE, skip: tuple[str, ...] = ()) -> None:
    """Measures every step with few images and with many.

    Args:
        small: images of the small set.
        large: images of the large set.
        skip: steps that are not measured (audit takes longest).
    """
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in (small, large):
            source = Path(scratch, f"{count}.tar")
            make_archive(source, count)
            for step, command in commands(source, Path(scratch, str(count))).items():
                if step not in skip:
                    memory, seconds = measure(command)
                    found.setdefault(step, []).append((memory, 1e6 * seconds / count))
                    print(f"bench-memory: {step} with {count:,} images: {memory:.0f} MiB, {seconds:.0f} s", flush=True)
    figures = {step: Figure.of([much[0] / little[0]], TARGET) for step, (little, much) in found.items()}
    measured: Details = {
        step: {
            "mebibytes": [round(memory, 1) for memory, _ in sizes],
            "microseconds_an_image": [round(time, 1) for _, time in sizes],
        }
        for step, sizes in found.items()
    }
    report(RESULT, figures, {"images": [small, large], "steps": measured})


if __name__ == "__main__":
    cyclopts.run(main)
