"""The pictures of an evaluation: hardest and forgotten pairs, and samples of what a degradation does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluate.bin_sets import bin_pictures
from components.evaluate.heldout import CLEAN_PREFIX, crops_of
from components.evaluate.lfw import lfw_pictures
from components.faces.degrade import Degradation
from components.faces.images import encode_png
from components.faces.table import Table

SAMPLES = 8  # crops that show what the degradation does


def _shown(evaluation: Mapping[str, Any], sets: tuple[str, ...]) -> set[str]:
    """Names of the images whose pictures the report needs, of the hardest pairs and of the sets' forgotten ones."""
    pairs = [pair for pairs in evaluation["hardest"].values() for pair in pairs] if "heldout" in sets else []
    pairs += [pair for pair in evaluation["forgotten"] if pair["set"] in sets]
    return {pair[side] for pair in pairs for side in ("left", "right")}


def _picture(folder: Path, name: str) -> Path:
    return folder / "pairs" / f"{name.replace('/', '__')}.png"


def write_samples(folder: Path, table: Table, samples: list[str], bad: Degradation) -> None:
    """Some crops (ids) as they are, and beside it as the degradation makes them."""
    (folder / "samples").mkdir()
    for ids, crops in crops_of(table, dict.fromkeys(samples, "")):
        for image_id, crop in zip(ids, crops, strict=True):
            both = np.concatenate([crop, bad(crop, "probe", image_id)], axis=1) if bad else crop
            (folder / "samples" / f"{image_id}.png").write_bytes(encode_png(both))


def write_pictures(folder: Path, table: Table, evaluation: Mapping[str, Any], bad: Degradation) -> None:
    """The crops of hardest and forgotten pairs as the models saw them."""
    seen = _shown(evaluation, ("heldout", "heldout_clean", "pairs"))
    (folder / "pairs").mkdir()
    wanted = {name.removeprefix(CLEAN_PREFIX) for name in seen}
    for ids, crops in crops_of(table, dict.fromkeys(wanted, "")):
        for image_id, crop in zip(ids, crops, strict=True):
            degraded = bad(crop, "probe", image_id)
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
