"""The pictures of an evaluation: hardest and forgotten pairs, and samples of what a degradation does."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kubeface.evaluate.bin_sets import bin_pictures
from kubeface.evaluate.heldout import CLEAN_PREFIX, Heldout
from kubeface.evaluate.lfw import lfw_pictures
from kubeface.faces.degradation import Degradation, Enlarger
from kubeface.faces.images import RGB, encode_png

SAMPLES = 8  # crops that show what the degradation does
SIZED = 4  # faces shown of each size


def _shown(evaluation: Mapping[str, Any], sets: tuple[str, ...]) -> set[str]:
    """Names of the images whose pictures the report needs, of the hardest pairs and of the sets' forgotten ones."""
    hardest = [evaluation["hardest"], evaluation.get("hardest_cross", {})] if "heldout" in sets else []
    pairs = [pair for kinds in hardest for pairs in kinds.values() for pair in pairs]
    pairs += [pair for pair in evaluation["forgotten"] if pair["set"] in sets]
    return {pair[side] for pair in pairs for side in ("left", "right")}


def _picture(folder: Path, name: str) -> Path:
    return folder / "pairs" / f"{name.replace('/', '__')}.png"


def write_samples(folder: Path, heldout: Heldout, samples: list[str], bad: Degradation) -> None:
    """Some crops (ids) as they are, and beside it as the degradation makes them."""
    (folder / "samples").mkdir()
    for image_id, crop, degraded in _seen(heldout, samples, bad):
        both = np.concatenate([crop, degraded], axis=1) if bad or heldout.pairs is not None else crop
        (folder / "samples" / f"{image_id}.png").write_bytes(encode_png(both))


def _seen(heldout: Heldout, ids: Iterable[str], bad: Degradation) -> Iterator[tuple[str, RGB, RGB]]:
    """Some photographs: id, sharp crop, and as the target set has it."""
    for view in heldout.views(dict.fromkeys(ids, "")):
        few = view.few or [bad(crop, "probe", i) for i, crop in zip(view.ids, view.sharp, strict=True)]
        yield from zip(view.ids, view.sharp, few, strict=True)


def write_sizes(folder: Path, heldout: Heldout, shown: Mapping[str, list[str]], enlarger: Enlarger | None) -> None:
    """Faces of few pixels by size, as `sizes/<size>/<image_id>.png`: as the models saw them, and the sharp crop beside.

    Where a network enlarged them, what bicubic interpolation makes of them stands on the left.

    Args:
        folder: of the evaluation.
        heldout: the photographs.
        shown: ids of the photographs by size.
        enlarger: what enlarges few pixels that are made; None for bicubic.
    """
    sizes: dict[str, list[str]] = {}
    for size, ids in shown.items():
        (folder / "sizes" / size).mkdir(parents=True)
        for image_id in ids:
            sizes.setdefault(image_id, []).append(size)
    for view in heldout.views(dict.fromkeys(sizes, "")):
        for place, image_id in enumerate(view.ids):
            for size in sizes[image_id]:
                strip = _sized(view.sharp[place], view.few[place] if view.few else None, image_id, size, enlarger)
                (folder / "sizes" / size / f"{image_id}.png").write_bytes(encode_png(strip))


def _sized(sharp: RGB, taken: RGB | None, image_id: str, size: str, enlarger: Enlarger | None) -> RGB:
    """A face of few pixels beside its sharp crop, one of `taken` as the camera had it."""
    if taken is not None:
        return np.concatenate([taken, sharp], axis=1)
    ways = [None, enlarger] if enlarger else [None]
    made = [Degradation("lowres", int(size), enlarger=way)(sharp, "probe", image_id) for way in ways]
    return np.concatenate([*made, sharp], axis=1)


def write_pictures(folder: Path, heldout: Heldout, evaluation: Mapping[str, Any], bad: Degradation) -> None:
    """The crops of hardest and forgotten pairs as the models saw them."""
    seen = _shown(evaluation, ("heldout", "heldout_cross", "heldout_clean", "pairs"))
    (folder / "pairs").mkdir()
    wanted = {name.removeprefix(CLEAN_PREFIX) for name in seen}
    for image_id, crop, degraded in _seen(heldout, wanted, bad):
        if image_id in seen:
            _picture(folder, image_id).write_bytes(encode_png(degraded))
        if CLEAN_PREFIX + image_id in seen:
            _picture(folder, CLEAN_PREFIX + image_id).write_bytes(encode_png(crop))


def write_benchmark_pictures(
    folder: Path, evaluation: Mapping[str, Any], lfw_archive: str, template: str, bins: Mapping[str, str]
) -> None:
    """The crops of the benchmarks' forgotten pairs."""
    if names := sorted(_shown(evaluation, ("lfw",))):
        for name, crop in lfw_pictures(lfw_archive, names, evaluation["lfw"]["detector"], template).items():
            _picture(folder, name).write_bytes(encode_png(crop))
    for name, uri in bins.items():
        if wanted := sorted(_shown(evaluation, (name,))):
            places = {image.rpartition("/")[2]: image for image in wanted}
            for place, crop in bin_pictures(uri, list(places)).items():
                _picture(folder, places[place]).write_bytes(encode_png(crop))
