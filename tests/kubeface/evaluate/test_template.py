"""A model remembers how its crops were made, and is never fed others."""

from pathlib import Path

import pytest

from kubeface.align.options import AlignOptions
from kubeface.align.step import align
from kubeface.filter.step import filter_faces
from kubeface.finetune.options import FinetuneOptions
from kubeface.finetune.step import finetune
from kubeface.models.model import load_model, load_pretrained
from kubeface.runtime.errors import KubefaceError
from kubeface.split.options import SplitOptions
from kubeface.split.step import split
from kubeface.tables.table import Table
from tests.conftest import SPLIT_SEED
from tests.kubeface.conftest import SmallLfw
from tests.support.evaluating import QUICK, evaluate, read


@pytest.mark.slow
def test_from_alignment_to_evaluation(
    faces_table: Path, aligned_table: Path, split_table: Path, small_lfw: SmallLfw, tmp_path: Path, _one_thread: None
) -> None:
    aligned, filtered, divided, model = (tmp_path / name for name in ("aligned", "filter", "split", "model"))
    align(faces_table, aligned, AlignOptions(template="facenet_160"))
    filter_faces(faces_table, aligned, filtered)
    split(aligned, filtered, divided, options=SplitOptions(heldout_fraction=0.5, seed=SPLIT_SEED))
    options = FinetuneOptions(epochs=0, batch_size=4, workers=0)
    finetune(aligned, divided, model, options)
    alignment = {"template": "facenet_160", "size": 160, "detector": "mtcnn"}
    assert read(model, "model.json")["alignment"] == alignment
    assert load_model(model).template == "facenet_160"
    evaluate(
        aligned, divided, model, tmp_path / "evaluation",
        lfw_archive=str(small_lfw.archive), lfw_pairs=str(small_lfw.pairs), **QUICK,
    )  # fmt: skip
    assert read(tmp_path / "evaluation")["finetuned"]["lfw"]["auc"] > 0.5
    with pytest.raises(KubefaceError, match=r"was aligned to another template than facenet_160"):
        evaluate(aligned_table, split_table, model, tmp_path / "other", **QUICK)
    with pytest.raises(KubefaceError, match=r"trained on crops of template facenet_160, these are of arcface_112"):
        finetune(aligned_table, split_table, tmp_path / "more", options.model_copy(update={"pretrained": str(model)}))
    assert load_pretrained("sface", str(model)).template == "facenet_160"
    assert Table(aligned, "aligned").manifest.settings["template"] == "facenet_160"
