"""make bench-evaluate: what an evaluation costs beside a bare onnxruntime session, and whether its memory is flat.

The faces are ORL's (Samaria and Harter, WACV 1994), aligned by the align step. Written to build/bench-evaluate.json.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.rounds import Details, Figure, orl_faces, peak_memory, report

RESULT = Path("build/bench-evaluate.json")
ROUNDS = 5
PAIRS, SAMPLES = 6_000, 2_000
GALLERIES = (1_415, 4_473)  # images whose pairs are a million and ten million


def make_crops(folder: Path) -> Path:
    """The aligned table of ORL's 400 photographs."""
    from kubeface.align.options import AlignOptions
    from kubeface.align.step import align
    from kubeface.ingest.step import ingest

    for name, data in orl_faces():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    ingest(str(folder / "images"), folder / "faces")
    align(folder / "faces", folder / "aligned", AlignOptions(detector="retinaface"))
    return folder / "aligned"


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def exported(folder: Path) -> Path:
    """The published sface as finetune leaves a model."""
    from kubeface.finetune.export import export_onnx
    from kubeface.models.model import load_pretrained, save_model
    from kubeface.records.model import OnnxRecord, TrainingRecord
    from kubeface.storage.folders import sha256_file

    model, path = load_pretrained("sface"), folder / "model"
    path.mkdir()
    export_onnx(model, path / "model.onnx", np.zeros((2, 112, 112, 3), np.uint8))
    save_model(model, path, TrainingRecord(onnx=OnnxRecord(sha256=sha256_file(path / "model.onnx"))))
    return path


def bench_embedding(folder: Path) -> Figure:
    """Images a second from the table to embeddings, over those of the bare session on prepared batches.

    The bare session is onnxruntime as it is usually called: batches, every processor on each.
    """
    import onnxruntime

    from kubeface.evaluate.heldout import crops_of
    from kubeface.models.onnx_model import open_model
    from kubeface.runtime.processors import cpu_limit
    from kubeface.tables.table import Table

    table, path = Table(make_crops(folder), "aligned"), exported(folder)
    model, options = open_model(str(path), "cpu"), onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_limit()
    session = onnxruntime.InferenceSession(str(path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    wanted = dict.fromkeys(table.columns(["image_id"])["image_id"].to_pylist(), "")
    prepared = [
        np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2), np.float32) for _, crops in crops_of(table, wanted)
    ]

    def ours() -> None:
        for _, crops in crops_of(table, wanted):
            model.embed(np.stack(crops))

    def bare() -> None:
        for batch in prepared:
            session.run(None, {"crops": batch})

    bare()
    ours()
    ratios = []
    for number in range(ROUNDS):
        pair = [seconds(call) for call in ((ours, bare) if number % 2 else (bare, ours))]
        of_ours, of_bare = pair if number % 2 else pair[::-1]
        ratios.append(of_bare / of_ours)
    return Figure.of(ratios, 0.95)


def bench_metrics() -> Figure:
    """Seconds for all figures, curves and the bootstrap of two models on as many pairs as LFW's View 2 has."""
    from kubeface.evaluate.pair_sets import PairSet
    from kubeface.metrics.bootstrap import Bootstrap
    from kubeface.metrics.calibration import calibrate
    from kubeface.metrics.pairs import Pairs
    from kubeface.metrics.verification import roc_points, verification

    random = np.random.default_rng(0)
    same = np.tile(np.repeat([True, False], PAIRS // 20), 10)
    pairs = Pairs(np.arange(0, 2 * PAIRS, 2), np.arange(1, 2 * PAIRS, 2), same)
    people = random.integers(0, 4_000, 2 * PAIRS)
    people[pairs.right[same]] = people[pairs.left[same]]
    scores = {
        which: np.where(same, mean, 0.1) + random.normal(0, 0.1, PAIRS)
        for which, mean in (("baseline", 0.4), ("finetuned", 0.5))
    }
    folds = np.repeat(np.arange(10), PAIRS // 10)

    def all_of_it() -> None:
        made = {which: verification(values, same, folds) for which, values in scores.items()}
        roc = {which: roc_points(values, same) for which, values in scores.items()}
        names = [str(number) for number in range(2 * PAIRS)]
        found = PairSet("lfw", names, names, people, pairs, folds, scores, made, roc)
        found.gain("baseline", 0.01, Bootstrap(SAMPLES))
        found.paired(), found.forgotten(), found.histograms(), found.thresholds()
        calibrate(scores["finetuned"], pairs, people, 0.001, Bootstrap(SAMPLES))

    return Figure.of([seconds(all_of_it) for _ in range(ROUNDS)], 3.0)


def score_gallery(images: int) -> None:
    from kubeface.metrics.score_counts import count_scores

    vectors = np.random.default_rng(0).normal(size=(images, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    count_scores(vectors, np.arange(images) // 10).figures()


def main() -> None:
    """Measures all of it; the memory is for ten million pairs over that for a million."""
    with tempfile.TemporaryDirectory() as scratch:
        embedding = bench_embedding(Path(scratch))
    small, large = (peak_memory(score_gallery, size) for size in GALLERIES)
    details: Details = {"mebibytes": [round(small, 1), round(large, 1)], "pairs": PAIRS, "samples": SAMPLES}
    figures = {"embedding": embedding, "metrics_seconds": bench_metrics()}
    report(RESULT, figures | {"gallery_memory": Figure.of([large / small], 1.1)}, details)


if __name__ == "__main__":
    main()
