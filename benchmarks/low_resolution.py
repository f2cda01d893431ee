"""make bench-low-resolution: methods for low-resolution faces, side by side, for docs/low-resolution.md.

Trained on the people of CELEBA (an archive of folders by person) but for those who look like somebody in LFW: they
alone are held out, so that nobody who is measured was trained on. Fifteen of the others are for validation. Every
method sees the same photographs as often as the others (EPOCHS). Measured are LFW View 2, both photographs of a pair
at a size, and held-out people, a photograph of the size against sharp ones; nothing is chosen on either.

Each stage is kept in build/low-resolution and not done twice; figures go to build/bench-low-resolution.json.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kubeface.align.options import AlignOptions
from kubeface.align.step import align
from kubeface.evaluate.heldout import Heldout
from kubeface.evaluate.lfw import PairsFile, aligned_crops, read_pairs
from kubeface.evaluate.resolutions import FixedThresholds, embed_sizes, measure_sizes
from kubeface.faces.degradation import Degradation, Enlarger
from kubeface.finetune.options import FinetuneOptions
from kubeface.finetune.step import finetune
from kubeface.ingest.step import ingest
from kubeface.metrics.bootstrap import Bootstrap
from kubeface.metrics.figures import VerificationFigures
from kubeface.metrics.pairs import all_pairs
from kubeface.metrics.verification import verification
from kubeface.models.embeddings import Embeddings, embed_batch
from kubeface.models.model import choose_device, load_start
from kubeface.models.onnx_model import OnnxModel, open_model, open_start
from kubeface.models.superresolution import open_enlarger
from kubeface.records.recognition_figures import ResolutionRow
from kubeface.records.record import Record
from kubeface.runtime.processors import cpu_limit
from kubeface.runtime.progress import Progress
from kubeface.storage.folders import read_json, write_json
from kubeface.superresolve.options import TrainSuperresolutionOptions
from kubeface.superresolve.training import train_superresolution
from kubeface.tables.table import Table, TableWriter

BACKBONE = "sface"
FOLDER, RESULT = Path("build/low-resolution"), Path("build/bench-low-resolution.json")
SHARED = Path("../shared/data")
LOOKS_ALIKE = 0.5  # cosine of mean embeddings from which on somebody may be in LFW
VALIDATION = 15  # people
SIZES = [10, 14, 20]
EPOCHS = 3
RANGE = "lowres:10-20"
NETWORK_EPOCHS = 4


@dataclass(frozen=True)
class Method:
    """A method: how it is trained, None for the starting model as it is, and whether a network enlarges the faces."""

    name: str
    options: FinetuneOptions | None = None
    network: bool = False

    @property
    def file(self) -> str:
        return self.name.replace(",", "").replace(" ", "-")


class Row(Record):
    method: str
    minutes: float
    lfw: dict[str, VerificationFigures]
    """By size in pixels, or clean."""
    heldout: list[ResolutionRow]


# Rates are the recipes' own; LoRA's was set once and not tuned.
TWO_STAGES = FinetuneOptions(degradation=RANGE, recipe="two-stage", seed=1, epochs=EPOCHS, amp="bf16")
DISTILLED = FinetuneOptions(degradation=RANGE, recipe="low-resolution", seed=1, epochs=EPOCHS)
LORA = {"strategy": "lora", "num_layers": 0, "frozen_layers": 0, "lr": 2e-3, "guard": False}
METHODS = [
    Method("bicubic, starting model"),
    Method("network, starting model", network=True),
    Method("two stages, ArcFace", TWO_STAGES),
    Method("two stages, AdaFace", TWO_STAGES.model_copy(update={"head": "adaface"})),
    Method("distillation at 14 pixels", DISTILLED.model_copy(update={"degradation": "lowres:14"})),
    Method("distillation at 10 to 20", DISTILLED),
    Method("distillation at 10 to 20, LoRA", DISTILLED.model_copy(update=LORA)),
    Method("distillation at 10 to 20, network", DISTILLED, network=True),
]
TRAINED = next(method for method in METHODS if method.options)


def aligned_people() -> Path:
    out = FOLDER / "aligned"
    if not out.exists():
        archive = os.environ.get("CELEBA") or str(SHARED / "celeba/celeba_wild.tar")
        ingest(archive, FOLDER / "faces")
        align(FOLDER / "faces", out, AlignOptions(detector="retinaface"))
    return out


def lfw_crops(wanted: PairsFile) -> NDArray[np.uint8]:
    """Aligned crops of View 2's images, N×112×112×3."""
    out = FOLDER / "lfw.npy"
    if not out.exists():
        found: list[NDArray[np.uint8]] = []
        with Progress("lfw", len(wanted.images)) as progress:
            for names, crops, _ in aligned_crops(_lfw("lfw-deepfunneled.tar"), wanted.images, "pairs.txt", "retinaface",
                                          "arcface_112"):  # fmt: skip
                found += crops
                progress.advance(len(names))
        np.save(out, np.stack(found))
    return np.asarray(np.load(out, mmap_mode="r"))


def _lfw(name: str) -> str:
    return str(Path(os.environ.get("LFW_FOLDER") or SHARED / "lfw") / name)


def divided(aligned: Path, wanted: PairsFile, crops: NDArray[np.uint8]) -> Path:
    """The split: who looks like somebody in LFW is held out, of the others some are for validation."""
    out = FOLDER / "split"
    if out.exists():
        return out
    start, _ = load_start(BACKBONE, "", "", choose_device("cpu"), "arcface_112", False)
    known = Heldout(Table(aligned, "aligned"), _identities(aligned))
    embedded, people = Embeddings(), []
    for ids, sharp in known.crops(known.people):
        embedded.append(*embed_batch(start, np.stack(sharp)))
        people += [known.people[image_id] for image_id in ids]
    names, numbers = np.unique(people, return_inverse=True)
    others = Embeddings()
    for first in range(0, len(crops), 64):
        others.append(*embed_batch(start, crops[first : first + 64]))
    likeness = (_means(embedded.plain(), numbers) @ _means(others.plain(), wanted.people).T).max(axis=1)
    alike = {str(name) for name, value in zip(names, likeness, strict=True) if value >= LOOKS_ALIKE}
    rest = sorted({str(name) for name in names} - alike)
    validation = set(np.random.default_rng(1).permutation(rest)[:VALIDATION].tolist())
    with TableWriter(out, "split", "bench", {}) as table:
        for image_id, identity in known.people.items():
            part = "heldout" if identity in alike else "val" if identity in validation else "train"
            table.add({"image_id": image_id, "identity": identity, "split": part})
    return out


def _means(vectors: NDArray[np.float32], people: NDArray[np.int64]) -> NDArray[np.float32]:
    sums = np.zeros((people.max() + 1, vectors.shape[1]), np.float32)
    np.add.at(sums, people, vectors)
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)


def _identities(table: Path, part: str = "") -> dict[str, str]:
    columns = ["image_id", "identity", *(["split"] if part else [])]
    rows = Table(table, "split" if part else "aligned").columns(columns).to_pylist()
    return {row["image_id"]: row["identity"] for row in rows if not part or row["split"] == part}


def once(out: Path, train: Callable[[], object]) -> None:
    """Trains what is not there yet, and leaves the seconds that it took beside it."""
    if not out.exists():
        start = time.monotonic()
        train()
        write_json(out / "seconds.json", {"seconds": time.monotonic() - start})


def trained(method: Method, aligned: Path, split: Path, network: Path) -> Path:
    """The method's model folder; without a training, one that has the starting model too."""
    named, options = method, method.options
    if options is None:
        named, options = TRAINED, TRAINED.options or FinetuneOptions()
    elif method.network:
        options = options.model_copy(update={"superresolver": str(network)})
    out = FOLDER / "models" / named.file
    once(out, lambda: finetune(aligned, split, out, options))
    return out


def on_lfw(model: OnnxModel, wanted: PairsFile, crops: NDArray[np.uint8], size: int,
           enlarger: Enlarger | None) -> VerificationFigures:  # fmt: skip
    """View 2's accuracy and its standard error, both photographs of a pair at a size; 0 for the crops as they are."""
    degraded = Degradation("lowres", size, enlarger=enlarger) if size else Degradation()
    embedded: list[NDArray[np.float32]] = []
    with Progress(f"lfw at {size or 'full size'}", len(crops)) as progress:
        for first in range(0, len(crops), 64):
            names = wanted.images[first : first + 64]
            batch = crops[first : first + 64]
            batch = np.stack([degraded(crop, "probe", name) for crop, name in zip(batch, names, strict=True)])
            embedded.append(model.embed(batch))
            progress.advance(len(names))
    return verification(wanted.pairs.scores(np.concatenate(embedded)), wanted.pairs.same, wanted.folds)


def on_heldout(aligned: Path, people: dict[str, str], start: OnnxModel, model: OnnxModel,
               enlarger: Enlarger | None) -> list[ResolutionRow]:  # fmt: skip
    """Figures of held-out people at each size, low resolution against sharp; before: the start on bicubic crops."""
    known = Heldout(Table(aligned, "aligned"), people)
    models = {"baseline": start, "finetuned": model}
    sized = embed_sizes(models, known.views(people), people, SIZES, enlarger, None)
    compared = all_pairs(sized.people, 200_000, 1)
    scores = compared.scores(sized.sharp["baseline"].plain())
    threshold = float(np.quantile(scores[~compared.same], 0.999))
    fixed = FixedThresholds(0.001, threshold, threshold)
    return measure_sizes(sized, 0.001, Bootstrap(500, 1), fixed).rows


def measured(method: Method, aligned: Path, split: Path, wanted: PairsFile, crops: NDArray[np.uint8],
             network: Path) -> Row:  # fmt: skip
    """A row of the table; kept beside the models."""
    folder = trained(method, aligned, split, network)
    kept = FOLDER / "figures" / f"{method.file}.json"
    if kept.exists():
        return Row.read(kept)
    enlarger = open_enlarger(str(network), cpu_limit()) if method.network else None
    before = open_start(str(folder), threads=cpu_limit())
    model = open_model(str(folder), threads=cpu_limit()) if method.options else before
    print(f"\n{method.name}: measuring", flush=True)
    spent = [path for path, counts in ((folder, method.options), (network, method.network)) if counts]
    row = Row(
        method=method.name,
        minutes=round(sum(read_json(path / "seconds.json")["seconds"] for path in spent) / 60, 1),
        lfw={str(size or "clean"): on_lfw(model, wanted, crops, size, enlarger) for size in [*SIZES, 0]},
        heldout=on_heldout(aligned, _identities(split, "heldout"), before, model, enlarger),
    )
    kept.parent.mkdir(exist_ok=True)
    row.write(kept)
    print({size: found.accuracy for size, found in row.lfw.items()}, flush=True)
    return row


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    aligned = aligned_people()
    wanted = read_pairs(_lfw("pairs.txt"))
    crops = lfw_crops(wanted)
    split = divided(aligned, wanted, crops)
    network = FOLDER / "network"
    options = TrainSuperresolutionOptions(epochs=NETWORK_EPOCHS, amp="bf16", seed=1)
    once(network, lambda: train_superresolution(aligned, split, network, options))
    for method in METHODS:  # all trainings before the first look at what is measured
        trained(method, aligned, split, network)
    rows = [measured(method, aligned, split, wanted, crops, network) for method in METHODS]
    people = {part: len(set(_identities(split, part).values())) for part in ("train", "val")}
    about = {"people": people, "epochs": EPOCHS, "threads": cpu_limit()}
    write_json(RESULT, about | {"rows": [row.model_dump(mode="json") for row in rows]})
    print(f"\n{'LFW View 2, %':36} minutes " + " ".join(f"{size!s:>13}" for size in [*SIZES, "clean"]))
    for row in rows:
        cells = (f"{100 * one.accuracy:.2f} ± {100 * one.accuracy_standard_error:.2f}" for one in row.lfw.values())
        print(f"{row.method:36} {row.minutes:7} " + " ".join(f"{cell:>13}" for cell in cells))


if __name__ == "__main__":
    main()
