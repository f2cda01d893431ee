"""insightface's verification sets: LFW, CFP-FP, AgeDB-30, CALFW and CPLFW as .bin files.

Such a file is a pickle of two lists: encoded images, aligned to the template arcface_112, and booleans. Pair k is
images 2k and 2k + 1, and the k-th boolean says whether they show one person (insightface,
recognition/arcface_torch/eval/verification.py).
"""

import io
import mmap
from collections.abc import Mapping, Sequence
from typing import IO, cast

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import KFold

from kubeface.evaluate.lfw import BATCH, CLEAN, PairsFile, measure_benchmark
from kubeface.evaluate.pair_sets import PairSet
from kubeface.evaluate.plain_pickle import read_plain_pickle
from kubeface.faces.degradation import Degradation
from kubeface.faces.geometry import CROP_SIZE
from kubeface.faces.images import RGB, decode_rgb
from kubeface.metrics.pairs import Ints, Pairs
from kubeface.metrics.verification import FOLDS
from kubeface.models.embeddings import Embeddings, Model, embed_batch
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.progress import Progress
from kubeface.storage.downloads import fetch

TEMPLATE = "arcface_112"
FORMATS = ("JPEG", "PNG", "BMP")  # of the images; Pillow knows others that start programs


def read_bin(uri: str) -> tuple[list[bytes], list[bool]]:
    """The encoded images and the booleans of a .bin set, two images for each boolean, all in memory.

    Nothing in the file is executed.

    Raises:
        KubefaceError: the file cannot be read, or holds something other than two such lists.
    """
    path = fetch(uri)
    require(path.stat().st_size > 0, f"{uri} is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = read_plain_pickle(cast(IO[bytes], data), uri)
    if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, list) for part in found)):
        raise KubefaceError(f"{uri} is no tuple of a list of images and a list of booleans: is it a .bin set?")
    images, same = found
    kinds = [all(isinstance(image, bytes) for image in images), all(isinstance(truth, bool) for truth in same)]
    require(all(kinds), f"{uri}: the first list must hold encoded images alone, the second booleans alone")
    require(len(images) == 2 * len(same), f"{uri} has {len(images)} images and {len(same)} pairs: it needs two a pair")
    return images, same


def evaluate_bin(
    name: str, uri: str, models: Mapping[str, Model], template: str, degradation: Degradation = CLEAN
) -> PairSet:
    """Runs models over a .bin set: ten folds of pairs in their order, as insightface's evaluation makes them.

    Unlike insightface's, a threshold is the best of all, not of a grid of 400, and the figures are measured with and
    without flip. Equal images are embedded once, named by the set and their index in the file (<name>/00000 …); people
    are told apart as far as the pairs allow, since the file names nobody.

    Args:
        template: how the models' crops were made; only arcface_112 will do.
        degradation: put on every crop, on both sides of a pair.

    Raises:
        KubefaceError: another template, a file that is no .bin set, or an image in it that is no 112×112 crop.
    """
    require(template == TEMPLATE, f"{uri} holds crops of template {TEMPLATE}, the models were trained on {template}")
    wanted, images = _pairs(uri)
    collected = {which: Embeddings() for which in models}
    with Progress("evaluate", len(images)) as progress:
        for start in range(0, len(images), BATCH):
            names = wanted.images[start : start + BATCH]
            crops = [_crop(images[image], image, uri) for image in names]
            batch = np.stack([degradation(crop, "probe", image) for crop, image in zip(crops, names, strict=True)])
            for which, model in models.items():
                collected[which].append(*embed_batch(model, batch))
            progress.advance(len(names))
    return measure_benchmark(name, wanted, collected)


def bin_pictures(uri: str, names: Sequence[str]) -> dict[str, RGB]:
    """The crops of a few images of a .bin set by the names that `evaluate_bin` gives them.

    Raises:
        KubefaceError: as `evaluate_bin`, or the file has no image of such a name.
    """
    _, images = _pairs(uri)
    unknown = [name for name in names if name not in images]
    require(not unknown, f"{uri} has no image {unknown[0] if unknown else ''}")
    return {name: _crop(images[name], name, uri) for name in names}


def _pairs(uri: str) -> tuple[PairsFile, dict[str, bytes]]:
    """The pairs of a .bin set, and its different images by name: the index of the first of equal ones."""
    encoded, truths = read_bin(uri)
    same = np.array(truths, bool)
    genuine = int(same.sum())
    require(
        len(same) >= FOLDS and 0 < genuine < len(same),
        f"{uri} has {genuine} pairs of one person and {len(same) - genuine} of two: both must occur, {FOLDS} in all",
    )
    firsts: dict[bytes, int] = {}
    for index, image in enumerate(encoded):
        firsts.setdefault(image, index)
    numbers = {image: number for number, image in enumerate(firsts)}
    images = np.array([numbers[image] for image in encoded])
    pairs = Pairs(images[::2], images[1::2], same)
    folds = np.zeros(len(same), np.int64)
    for fold, (_, test) in enumerate(KFold(FOLDS).split(same)):
        folds[test] = fold
    names = {f"{index:05d}": image for image, index in firsts.items()}
    return PairsFile(list(names), pairs, folds, _people(pairs, len(names))), names


def _people(pairs: Pairs, images: int) -> Ints:
    """A number for each image's person, as far as the pairs tell: a genuine pair's images show one person.

    Somebody whose images no genuine pair joins counts as several people, which makes intervals over people a little too
    narrow.
    """
    joined = pairs.left[pairs.same], pairs.right[pairs.same]
    graph = coo_array((np.ones(len(joined[0])), joined), shape=(images, images))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _crop(data: bytes, name: str, uri: str) -> RGB:
    """A decoded crop, whose size is looked at before it is decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
        require(
            (width, height) == (CROP_SIZE, CROP_SIZE),
            f"{uri}: image {name} has {width}×{height} pixels, an aligned crop has {CROP_SIZE}×{CROP_SIZE}",
        )
        return decode_rgb(data)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's decoders raise
        raise KubefaceError(f"{uri}: image {name} cannot be decoded: {error}") from error
