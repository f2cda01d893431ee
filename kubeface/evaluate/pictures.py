"""Pictures of an evaluation: hardest and forgotten pairs, samples of the degradation, low-resolution faces by size."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from kubeface.evaluate.bin_sets import bin_pictures
from kubeface.evaluate.gate import HELDOUT
from kubeface.evaluate.heldout import CLEAN_PREFIX, Heldout
from kubeface.evaluate.lfw import lfw_pictures
from kubeface.faces.degradation import Degradation, Enlarger
from kubeface.faces.images import RGB, encode_png
from kubeface.metrics.figures import ForgottenPair, HardPair
from kubeface.records.recognition_figures import HardestPairs

SAMPLES = 8  # crops that show what the degradation does


def _shown(pairs: Iterable[HardPair]) -> set[str]:
    """Names of the images in some pairs."""
    return {name for pair in pairs for name in (pair.left, pair.right)}


def _picture(folder: Path, name: str) -> Path:
    return folder / "pairs" / f"{name.replace('/', '__')}.png"


def write_samples(folder: Path, heldout: Heldout, samples: list[str], degradation: Degradation) -> None:
    """Some crops (ids) as they are, each beside its degraded copy."""
    (folder / "samples").mkdir()
    for image_id, crop, degraded in _seen(heldout, samples, degradation):
        both = np.concatenate([crop, degraded], axis=1) if degradation or heldout.pairs is not None else crop
        (folder / "samples" / f"{image_id}.png").write_bytes(encode_png(both))


def _seen(heldout: Heldout, ids: Iterable[str], degradation: Degradation) -> Iterator[tuple[str, RGB, RGB]]:
    """Some photographs: id, sharp crop, and as the target set has it."""
    for view in heldout.views(dict.fromkeys(ids, "")):
        low = view.low or [degradation(crop, "probe", i) for i, crop in zip(view.ids, view.sharp, strict=True)]
        yield from zip(view.ids, view.sharp, low, strict=True)


def write_sizes(folder: Path, heldout: Heldout, shown: Mapping[str, list[str]], enlarger: Enlarger | None) -> None:
    """Low-resolution faces (ids by size) as `sizes/<size>/<image_id>.png`: as the models saw them, then the sharp crop.

    Where a network enlarged them, the crop enlarged by bicubic interpolation comes first.
    """
    sizes: dict[str, list[str]] = {}
    for size, ids in shown.items():
        (folder / "sizes" / size).mkdir(parents=True)
        for image_id in ids:
            sizes.setdefault(image_id, []).append(size)
    for view in heldout.views(dict.fromkeys(sizes, "")):
        for number, image_id in enumerate(view.ids):
            for size in sizes[image_id]:
                low = view.low[number] if view.low else None
                strip = _strip(view.sharp[number], low, image_id, size, enlarger)
                (folder / "sizes" / size / f"{image_id}.png").write_bytes(encode_png(strip))


def _strip(sharp: RGB, low: RGB | None, image_id: str, size: str, enlarger: Enlarger | None) -> RGB:
    """A low-resolution face beside its sharp crop; `low` is what a camera took."""
    if low is not None:
        return np.concatenate([low, sharp], axis=1)
    ways = [None, enlarger] if enlarger else [None]
    made = [Degradation("lowres", int(size), enlarger=way)(sharp, "probe", image_id) for way in ways]
    return np.concatenate([*made, sharp], axis=1)


def write_pictures(
    folder: Path,
    heldout: Heldout,
    hardest: Iterable[HardestPairs],
    forgotten: Iterable[ForgottenPair],
    degradation: Degradation,
) -> None:
    """The crops of hardest and of held-out people's forgotten pairs as the models saw them."""
    seen = _shown(pair for pairs in hardest for pair in (*pairs.genuine, *pairs.impostor))
    seen |= _shown(pair for pair in forgotten if pair.set in HELDOUT)
    (folder / "pairs").mkdir()
    wanted = {name.removeprefix(CLEAN_PREFIX) for name in seen}
    for image_id, crop, degraded in _seen(heldout, wanted, degradation):
        if image_id in seen:
            _picture(folder, image_id).write_bytes(encode_png(degraded))
        if CLEAN_PREFIX + image_id in seen:
            _picture(folder, CLEAN_PREFIX + image_id).write_bytes(encode_png(crop))


def write_benchmark_pictures(
    folder: Path,
    forgotten: Sequence[ForgottenPair],
    lfw_archive: str,
    detector: str,
    template: str,
    bins: Mapping[str, str],
) -> None:
    """The crops of the benchmarks' forgotten pairs."""
    if names := sorted(_shown(pair for pair in forgotten if pair.set == "lfw")):
        for name, crop in lfw_pictures(lfw_archive, names, detector, template).items():
            _picture(folder, name).write_bytes(encode_png(crop))
    for which, uri in bins.items():
        if wanted := sorted(_shown(pair for pair in forgotten if pair.set == which)):
            image_of = {image.rpartition("/")[2]: image for image in wanted}
            for name, crop in bin_pictures(uri, list(image_of)).items():
                _picture(folder, image_of[name]).write_bytes(encode_png(crop))
