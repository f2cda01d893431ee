"""make bench-finetune: how much of the machine the training engine uses, side by side with a bare loop and a peer.

Each contestant is a process of its own that waits for its turn; the turns go round, so that a slow minute of the
machine hits all alike, and only ratios within a round are compared. Written to build/bench-finetune.json.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubeface.runtime.processors import MALLOC_SETTINGS, cpu_limit
from kubeface.storage.folders import write_json

RESULT = Path("build/bench-finetune.json")
PEOPLE, PHOTOGRAPHS = 40, 10
BATCH = {"sface": 32, "iresnet18": 16}
STEPS = 6  # of a bare round
ROWS = (4_000, 40_000)


# --- data -----------------------------------------------------------------------------------------------------------


def make_data(folder: Path) -> None:
    """ORL's 400 photographs as JPEG files by person, as a table of crops, and as a split that trains on all."""
    import cv2
    import numpy as np

    from kubeface.faces.images import decode_rgb
    from kubeface.tables.table import TableWriter
    from tests.conftest import ORL

    with (
        TableWriter(folder / "aligned", "aligned", "bench", {}) as aligned,
        TableWriter(folder / "split", "split", "bench", {}) as split,
    ):
        for name, data in sorted(ORL.read_all().items()):
            if not name.endswith(".pgm"):
                continue
            identity, _, number = name.partition("/")
            crop = cv2.resize(decode_rgb(data), (112, 112), interpolation=cv2.INTER_AREA)
            _, jpeg = cv2.imencode(".jpg", np.asarray(crop)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            path = folder / "images" / identity / f"{Path(number).stem}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg.tobytes())
            add_row(aligned, split, name, identity, jpeg.tobytes())


def add_row(aligned: Any, split: Any, image_id: str, identity: str, jpeg: bytes) -> None:
    """A training image in both tables."""
    face = {"image_id": image_id, "identity": identity, "source": image_id, "image": jpeg, "width": 112, "height": 112,
            "content": "0" * 16, "phash": "0" * 16}  # fmt: skip
    aligned.add(face | {"landmarks": [0.0] * 10, "det_score": 1.0, "det_box": [0.0] * 4})
    split.add({"image_id": image_id, "identity": identity, "split": "train"})


# --- contestants: each returns a function that runs one round and gives its images per second ------------------------


def engine(folder: Path, backbone: str, threads: int) -> Callable[[], float]:
    """The whole engine, one epoch a round: reading, decoding, augmenting, logging, and the training."""
    from kubeface.finetune import step
    from kubeface.finetune.options import FinetuneOptions

    step.cpu_limit = lambda: threads  # type: ignore[attr-defined]

    def run() -> float:
        out = Path(tempfile.mkdtemp(dir=folder), "model")
        options = FinetuneOptions(
            backbone=backbone, pretrained=_weights(folder, backbone), strategy="full", epochs=1, distill=0,
            batch_size=BATCH[backbone], onnx=False,
        )  # fmt: skip
        step.finetune(folder / "aligned", folder / "split", out, options)
        row = json.loads((out / "logs" / "history.json").read_text())[0]
        shutil.rmtree(out.parent)
        return float(row["images_per_second"])

    return run


def bare(folder: Path, backbone: str, threads: int) -> Callable[[], float]:
    """Forward, backward and step of the same model and head on one fixed batch in memory."""
    import torch

    from kubeface.finetune.heads import make_head
    from kubeface.models.model import load_pretrained

    torch.set_num_threads(threads)
    model = load_pretrained(backbone, _weights(folder, backbone))
    network = model.network.eval().requires_grad_(True)
    head = make_head("arcface", torch.randn(PEOPLE, model.embedding_size), 64.0, -1.0)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=1e-4, fused=True)
    batch = BATCH[backbone]
    images = model.prepare(torch.randint(0, 256, (batch, 3, 112, 112)))
    labels = torch.arange(batch) % PEOPLE

    def run() -> float:
        start = time.monotonic()
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(head(network(images), labels), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return STEPS * batch / (time.monotonic() - start)

    return run


def peer(folder: Path, backbone: str, threads: int) -> Callable[[], float]:
    """facenet-pytorch's fine-tuning example (examples/finetune.ipynb) with its own loop and preprocessing, on the same
    model, batch and threads; it reads in the process that trains, as the engine does here."""
    import numpy as np
    import torch
    from facenet_pytorch import fixed_image_standardization
    from facenet_pytorch.models.utils import training
    from torchvision import datasets, transforms

    from kubeface.models.model import load_pretrained

    torch.set_num_threads(threads)
    model = load_pretrained(backbone, _weights(folder, backbone))
    network = torch.nn.Sequential(
        model.network.to(memory_format=torch.contiguous_format).requires_grad_(True),
        torch.nn.Linear(model.embedding_size, PEOPLE),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 10])
    trans = transforms.Compose([np.float32, transforms.ToTensor(), fixed_image_standardization])
    dataset = datasets.ImageFolder(str(folder / "images"), transform=trans)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=BATCH[backbone], sampler=torch.utils.data.SubsetRandomSampler(range(len(dataset)))
    )
    metrics = {"fps": training.BatchTimer(), "acc": training.accuracy}

    def run() -> float:
        start = time.monotonic()
        network.train()
        training.pass_epoch(
            network, torch.nn.CrossEntropyLoss(), loader, optimizer, scheduler, batch_metrics=metrics, show_running=True
        )
        return len(dataset) / (time.monotonic() - start)

    return run


def _weights(folder: Path, backbone: str) -> str:
    """Weights to start from: random ones, made once, where the published ones are not part of a package."""
    import safetensors.torch
    import torch

    from kubeface.models.backbones import backbone_named

    if backbone == "sface":
        return ""
    path = folder / f"{backbone}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        partial = path.with_suffix(f".{os.getpid()}")
        safetensors.torch.save_file(dict(backbone_named(backbone).build().state_dict()), partial)
        partial.replace(path)
    return str(path)


CONTESTANTS = {"engine": engine, "bare": bare, "peer": peer}


# --- rounds ---------------------------------------------------------------------------------------------------------


class Contestant:
    """A process that runs a round when it is told to."""

    def __init__(self, folder: Path, kind: str, backbone: str, threads: int, cgroup: Path | None = None) -> None:
        # The peer runs with the allocator as it is, as those who follow its example do.
        environment = {k: v for k, v in os.environ.items() if k not in MALLOC_SETTINGS and not k.startswith("OMP_")}
        if kind != "peer":
            environment |= MALLOC_SETTINGS
        command = [sys.executable, "-m", __spec__.name, "--kind", kind, "--backbone", backbone,
                   "--threads", str(threads), "--folder", str(folder)]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(self.process.pid))

    def round(self) -> float:
        """Images per second of a round."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("rate "):
                return float(line.split()[1])
        raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait()}")

    def end(self) -> None:
        """Lets the process end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def compete(contestants: list[Contestant], rounds: int) -> list[list[float]]:
    """Images per second of each contestant in each round, after a round that does not count."""
    found = []
    for number in range(rounds + 1):
        rates = [contestant.round() for contestant in contestants]
        print(f"  round {number}: " + ", ".join(f"{rate:.1f}" for rate in rates) + " images/s", flush=True)
        if number:
            found.append(rates)
    for contestant in contestants:
        contestant.end()
    return found


def ratio(over: list[float], under: list[float], target: float) -> dict[str, Any]:
    """The ratio of each round, in figures."""
    ratios = [one / other for one, other in zip(over, under, strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "rounds": len(ratios),
        "target": target,
    }


def bench_speed(folder: Path, rounds: int) -> dict[str, Any]:
    """Engine against bare loop for two backbones, and against the peer."""
    ratios, threads = {}, cpu_limit()
    for backbone, kinds in (("sface", ["engine", "bare", "peer"]), ("iresnet18", ["engine", "bare"])):
        print(f"{backbone}, batch {BATCH[backbone]}, {threads} threads: {', '.join(kinds)}", flush=True)
        rates = compete([Contestant(folder, kind, backbone, threads) for kind in kinds], rounds)
        ratios[f"engine_over_bare_{backbone}"] = ratio([r[0] for r in rates], [r[1] for r in rates], 0.95)
        if "peer" in kinds:
            ratios[f"engine_over_peer_{backbone}"] = ratio([r[0] for r in rates], [r[2] for r in rates], 1.2)
    return ratios


def bench_threads(folder: Path, rounds: int) -> dict[str, Any]:
    """Under a cgroup limit of one processor: the threads that cpu_limit() gives, against one for each processor of the
    host. Needs a cgroup that may be made here."""
    cgroup = Path("/sys/fs/cgroup/cpu/kubeface-bench")
    if not cgroup.parent.is_dir():
        cgroup = Path("/sys/fs/cgroup/kubeface-bench")
    try:
        cgroup.mkdir(exist_ok=True)
        if (cgroup / "cpu.max").exists():
            (cgroup / "cpu.max").write_text("100000 100000")
        else:
            (cgroup / "cpu.cfs_quota_us").write_text("100000")
    except OSError as error:
        print(f"threads: not measured, no cgroup can be made here ({error.strerror})")
        return {}
    host = len(os.sched_getaffinity(0))
    print(f"threads under a limit of 1 of {host} processors: 1, {host}", flush=True)
    rates = compete([Contestant(folder, "bare", "sface", n, cgroup) for n in (1, host)], rounds)
    cgroup.rmdir()
    return {"limited_threads_over_all": ratio([r[0] for r in rates], [r[1] for r in rates], 1.0)}


# --- memory ---------------------------------------------------------------------------------------------------------


def train_rows(folder: Path, rows: int) -> None:
    """Trains a small network on a table of that many images; prints its peak memory in KiB."""
    import safetensors.torch
    from torch import nn

    from kubeface.finetune.options import FinetuneOptions
    from kubeface.finetune.step import finetune
    from kubeface.models.backbones import BACKBONES, Backbone, Preprocessing
    from kubeface.tables.table import TableWriter

    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 64))

    place = folder / str(rows)
    place.mkdir()
    pictures = [(path.parent.name, path.read_bytes()) for path in sorted((folder / "images").rglob("*.jpg"))]
    with (
        TableWriter(place / "aligned", "aligned", "bench", {}) as aligned,
        TableWriter(place / "split", "split", "bench", {}) as split,
    ):
        for number in range(rows):
            identity, jpeg = pictures[number % len(pictures)]
            add_row(aligned, split, f"{number:06d}", identity, jpeg)
    safetensors.torch.save_file(dict(build().state_dict()), place / "small.safetensors")
    weights = str(place / "small.safetensors")
    BACKBONES["small"] = Backbone("small", build, Preprocessing(112, "rgb", 127.5, 128.0), 64, weights, "none")
    options = FinetuneOptions(backbone="small", strategy="full", epochs=1, onnx=False)
    finetune(place / "aligned", place / "split", place / "model", options)
    shutil.rmtree(place)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def bench_memory(folder: Path) -> dict[str, Any]:
    """Peak memory of a training on ten times as many images, as a ratio."""
    peaks = []
    for rows in ROWS:
        command = [sys.executable, "-m", __spec__.name, "--rows", str(rows), "--folder", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
        print(f"memory: {rows} images, peak {peaks[-1] / 1024:.0f} MiB", flush=True)
    value = round(peaks[1] / peaks[0], 3)
    return {"memory_40000_over_4000": {"median": value, "min": value, "max": value, "rounds": 1, "target": 1.1}}


def main() -> None:
    """The benchmark, or with --kind one of its contestants, or with --rows one of its trainings."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kind", choices=CONTESTANTS)
    parser.add_argument("--backbone", default="sface")
    parser.add_argument("--threads", type=int, default=cpu_limit())
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rows", type=int)
    arguments = parser.parse_args()
    if arguments.rows:
        train_rows(arguments.folder, arguments.rows)
        return
    if arguments.kind:
        run = CONTESTANTS[arguments.kind](arguments.folder, arguments.backbone, arguments.threads)
        for _ in sys.stdin:
            print(f"\nrate {run()}", flush=True)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_data(folder)
        ratios = bench_memory(folder) | bench_speed(folder, arguments.rounds) | bench_threads(folder, arguments.rounds)
    RESULT.parent.mkdir(exist_ok=True)
    write_json(RESULT, {"ratios": ratios})
    print(f"\n{'ratio':32} median  min    max    target")
    for name, figures in ratios.items():
        values = "  ".join(f"{figures[key]:5.2f}" for key in ("median", "min", "max", "target"))
        print(f"{name:32} {values}")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
