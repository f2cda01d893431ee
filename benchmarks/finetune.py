"""make bench-finetune: how much of the machine the training engine uses, side by side with a bare loop and a peer.

Written to build/bench-finetune.json.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import cyclopts

from benchmarks.rounds import Contestant, Figure, Round, Run, compete, orl_faces, peak_memory, ratio, report
from kubeface.runtime.processors import MALLOC_SETTINGS, cpu_limit
from kubeface.tables.table import TableWriter

RESULT = Path("build/bench-finetune.json")
PEOPLE, PHOTOGRAPHS = 40, 10
BATCH = {"sface": 32, "iresnet18": 16}
STEPS = 6  # of a bare round
ROWS = (4_000, 40_000)
Maker = Callable[[Path, str, int], Run]


def make_data(folder: Path) -> None:
    """ORL's 400 photographs as JPEG files by person, as a table of crops, and as a split that trains on all."""
    import cv2
    import numpy as np
    import safetensors.torch
    import torch

    from kubeface.faces.images import decode_rgb
    from kubeface.models.backbones import backbone_named

    for name, data in orl_faces():
        crop = cv2.resize(decode_rgb(data), (112, 112), interpolation=cv2.INTER_AREA)
        path = (folder / "images" / name).with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        _, jpeg = cv2.imencode(".jpg", np.asarray(crop)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        path.write_bytes(jpeg.tobytes())
    write_tables(folder / "images", folder, PEOPLE * PHOTOGRAPHS)
    torch.manual_seed(0)
    safetensors.torch.save_file(backbone_named("iresnet18").build().state_dict(), folder / "iresnet18.safetensors")


def write_tables(images: Path, folder: Path, count: int) -> None:
    """An aligned table of that many of the files, again and again, and the split that trains on all."""
    files = sorted(images.rglob("*.jpg"))
    with (
        TableWriter(folder / "aligned", "aligned", "bench", {}) as aligned,
        TableWriter(folder / "split", "split", "bench", {}) as split,
    ):
        for number, path in enumerate(islice(cycle(files), count)):
            image = {"image_id": f"{number:06d}", "identity": path.parent.name}
            face = {"source": path.name, "image": path.read_bytes(), "width": 112, "height": 112, "content": "0" * 16}
            found = {"phash": "0" * 16, "landmarks": [0.0] * 10, "det_score": 1.0, "det_box": [0.0] * 4}
            aligned.add(image | face | found)
            split.add(image | {"split": "train"})


def engine(folder: Path, backbone: str, threads: int) -> Run:
    """The whole engine, one epoch a round: reading, decoding, augmenting, logging, and the training."""
    from kubeface.finetune import step
    from kubeface.finetune.options import FinetuneOptions

    step.cpu_limit = lambda: threads  # type: ignore[attr-defined]

    def run(number: int) -> Round:
        out = Path(tempfile.mkdtemp(dir=folder), "model")
        options = FinetuneOptions(
            backbone=backbone, pretrained=_weights(folder, backbone), strategy="full", epochs=1, distill=0,
            batch_size=BATCH[backbone], onnx=False,
        )  # fmt: skip
        step.finetune(folder / "aligned", folder / "split", out, options)
        row = json.loads((out / "logs" / "history.json").read_text())[0]
        shutil.rmtree(out.parent)
        return Round(row["images_per_second"])

    return run


def bare(folder: Path, backbone: str, threads: int) -> Run:
    """Forward, backward and step of the same model and head on one fixed batch in memory."""
    import torch

    from kubeface.finetune.heads import make_head
    from kubeface.finetune.options import FinetuneOptions
    from kubeface.models.model import load_pretrained

    torch.set_num_threads(threads)
    model = load_pretrained(backbone, _weights(folder, backbone))
    network = model.network.eval().requires_grad_(True)
    head = make_head(FinetuneOptions(head="arcface"), torch.randn(PEOPLE, model.embedding_size))
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=1e-4, fused=True)
    batch = BATCH[backbone]
    images = model.prepare(torch.randint(0, 256, (batch, 3, 112, 112)))
    labels = torch.arange(batch) % PEOPLE

    def run(number: int) -> Round:
        start = time.monotonic()
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(head(network(images), labels), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return Round(STEPS * batch / (time.monotonic() - start))

    return run


def peer(folder: Path, backbone: str, threads: int) -> Run:
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

    def run(number: int) -> Round:
        start = time.monotonic()
        network.train()
        training.pass_epoch(
            network, torch.nn.CrossEntropyLoss(), loader, optimizer, scheduler, batch_metrics=metrics, show_running=True
        )
        return Round(len(dataset) / (time.monotonic() - start))

    return run


def _weights(folder: Path, backbone: str) -> str:
    """Weights to start from: random ones where the published ones are not part of a package."""
    return "" if backbone == "sface" else str(folder / f"{backbone}.safetensors")


def start(folder: Path, make: Maker, backbone: str, threads: int) -> Contestant:
    """A contestant; the peer runs with the allocator as it is, as those who follow its example do."""
    environment = {k: v for k, v in os.environ.items() if k not in MALLOC_SETTINGS and not k.startswith("OMP_")}
    environment |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
    environment |= {} if make is peer else MALLOC_SETTINGS
    return Contestant(environment, make, folder, backbone, threads)


def contest(contestants: list[Contestant], rounds: int) -> list[list[Round]]:
    """What each found, after a round that does not count."""
    return [found[1:] for found in compete(contestants, rounds + 1)]


def bench_speed(folder: Path, rounds: int) -> dict[str, Figure]:
    """Engine against bare loop for two backbones, and against the peer."""
    figures, threads = {}, cpu_limit()
    contests: list[tuple[str, list[Maker]]] = [("sface", [engine, bare, peer]), ("iresnet18", [engine, bare])]
    for backbone, makers in contests:
        print(f"{backbone}, batch {BATCH[backbone]}, {threads} threads, of {len(makers)}", flush=True)
        ours, loop, *others = contest([start(folder, make, backbone, threads) for make in makers], rounds)
        figures[f"engine_over_bare_{backbone}"] = ratio(ours, loop, 0.95)
        for theirs in others:
            figures[f"engine_over_peer_{backbone}"] = ratio(ours, theirs, 1.2)
    return figures


def bench_threads(folder: Path, rounds: int) -> dict[str, Figure]:
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
    contestants = [start(folder, bare, "sface", threads) for threads in (1, host)]
    for contestant in contestants:
        (cgroup / "cgroup.procs").write_text(str(contestant.pid))
    limited, all_of_them = contest(contestants, rounds)
    cgroup.rmdir()
    return {"limited_threads_over_all": ratio(limited, all_of_them, 1.0)}


def train_rows(folder: Path, rows: int) -> None:
    from kubeface.finetune.options import FinetuneOptions
    from kubeface.finetune.step import finetune

    place = folder / str(rows)
    write_tables(folder / "images", place, rows)
    options = FinetuneOptions(backbone="small_cnn", strategy="scratch", epochs=1, onnx=False)
    finetune(place / "aligned", place / "split", place / "model", options)
    shutil.rmtree(place)


def bench_memory(folder: Path) -> dict[str, Figure]:
    peaks = []
    for rows in ROWS:
        peaks.append(peak_memory(train_rows, folder, rows))
        print(f"memory: {rows} images, peak {peaks[-1]:.0f} MiB", flush=True)
    return {"memory_40000_over_4000": Figure.of([peaks[1] / peaks[0]], 1.1)}


def main(*, rounds: int = 5) -> None:
    """Measures all of it.

    Args:
        rounds: that count.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_data(folder)
        report(RESULT, bench_memory(folder) | bench_speed(folder, rounds) | bench_threads(folder, rounds))


if __name__ == "__main__":
    cyclopts.run(main)
