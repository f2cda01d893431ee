"""Images as models score them: in stored order, each model's labels put in the order of the fine-tuned one's."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kubeface.evaluate.compared_models import load_models
from kubeface.evaluate.scored import GRID, LARGEST, Scored, grid_images, score_crops, write_shown
from kubeface.faces.degradation import Degradation
from kubeface.models.onnx_model import OnnxModel
from kubeface.records.labelled_figures import GridImage
from kubeface.records.tasks import ATTRIBUTES, CLASSES
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.table import Table
from tests.support.labelled import Photo, write_model, write_tables

COLOURS = ([250, 10, 10], [10, 250, 10], [10, 10, 250], [200, 200, 0])
WEIGHTS = np.diag([5, 3, 1]).astype(np.float32)
NAMES = ("red", "green", "blue")


@pytest.fixture
def table(tmp_path: Path) -> Table:
    aligned, _ = write_tables(tmp_path, [Photo(f"p{n}", colour, "heldout") for n, colour in enumerate(COLOURS)])
    return Table(aligned, "aligned")


def models_of(folder: Path, table: Table) -> dict[str, OnnxModel]:
    """A model, its start, one from scratch and a champion, the last two with the labels in another order."""
    order = [2, 0, 1]
    model = write_model(folder / "model", NAMES, WEIGHTS, -WEIGHTS, CLASSES)
    other = write_model(folder / "other", [NAMES[n] for n in order], WEIGHTS[:, order], -WEIGHTS[:, order], CLASSES)
    return load_models(model, str(other), table, "cpu", CLASSES, scratch=other)


def test_every_model_scores_the_same_labels_in_one_order(table: Table, tmp_path: Path) -> None:
    models = models_of(tmp_path, table)
    assert list(models) == ["baseline", "finetuned", "scratch", "champion"]
    wanted = {f"{number:016d}": f"p{number}" for number in (3, 0, 2)}
    found = score_crops(table, wanted, models, {"heldout": Degradation.parse("grey"), "clean": Degradation()})
    assert found.ids == [f"{number:016d}" for number in (0, 2, 3)]
    assert (found.identities, found.sources) == (["p0", "p2", "p3"], ["0.png", "2.png", "3.png"])
    clean = found.scores["clean"]
    assert clean["finetuned"].argmax(1).tolist()[:2] == [0, 2]
    np.testing.assert_allclose(clean["champion"], clean["finetuned"], atol=1e-6)
    np.testing.assert_array_equal(clean["scratch"], clean["champion"])
    assert (clean["baseline"][0].argmin(), clean["baseline"][1].argmin()) == (0, 2)
    assert np.abs(found.scores["heldout"]["finetuned"] - clean["finetuned"]).max() > 0.1


def test_no_wanted_image_gives_empty_scores(table: Table, tmp_path: Path) -> None:
    found = score_crops(table, {}, models_of(tmp_path, table), {"val": Degradation()})
    assert len(found) == 0
    assert found.scores["val"]["scratch"].shape == (0, 3)


def test_an_image_that_the_table_lacks_is_refused(table: Table, tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="lacks images that the split names"):
        score_crops(table, {"f" * 16: "p0"}, models_of(tmp_path, table), {"val": Degradation()})


def test_a_model_from_scratch_for_another_task_is_refused(table: Table, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", NAMES, WEIGHTS, WEIGHTS, CLASSES)
    scratch = write_model(tmp_path / "scratch", NAMES, WEIGHTS, WEIGHTS, ATTRIBUTES)
    with pytest.raises(KubefaceError, match="scratch is a model of attributes, this evaluation is of classes"):
        load_models(model, "", table, "cpu", CLASSES, scratch)


def test_images_are_drawn_once_and_in_stored_order() -> None:
    def drawn(count: int, seed: int) -> list[str]:
        names = [f"{number:03d}" for number in range(count)]
        return [
            image.image_id for image in grid_images(Scored(names, names, names, {}), seed, lambda _: ([], [], True))
        ]

    assert drawn(100, 0) == sorted(set(drawn(100, 0)))
    assert len(drawn(100, 0)) == GRID
    assert drawn(100, 0) != drawn(100, 1)
    assert drawn(4, 0) == ["000", "001", "002", "003"]


def test_one_image_may_be_shown_twice(table: Table, tmp_path: Path) -> None:
    shown = {
        kind: [
            GridImage(file=f"{kind}/000.png", image_id=f"{1:016d}", source="", true=[], predicted=[], right=True),
            GridImage(file=f"{kind}/001.png", image_id=f"{2:016d}", source="", true=[], predicted=[], right=True),
        ]
        for kind in ("grid", "mistakes")
    }
    write_shown(tmp_path, table, shown, Degradation.parse("grey"))
    for kind in ("grid", "mistakes"):
        with Image.open(tmp_path / kind / "000.png") as picture:
            assert max(picture.size) <= LARGEST
            red, green, blue = np.asarray(picture)[5, 5].tolist()
            assert red == green == blue
        assert (tmp_path / kind / "001.png").is_file()
