"""Comparing two photographs, embedding a folder, finding a person; all without torch."""

import csv
import json
import math
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kubeface.evaluate import inference as module
from kubeface.evaluate.inference import (
    ROW_GROUP_ROWS,
    EmbedResult,
    _nearest,
    _Rows,
    compare,
    compare_faces,
    embed,
    identify,
)
from kubeface.faces.images import decode_rgb, encode_png
from kubeface.models.recogniser import Face, Recogniser, open_recogniser, similarity
from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from kubeface.storage.sources import Source
from tests.support.commands import run_without
from tests.support.exported import CALIBRATION, calibrated, configured, copied, exported


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A calibrated model folder."""
    return str(calibrated(copied(exported(), tmp_path_factory.mktemp("models") / "calibrated")))


@pytest.fixture(scope="module")
def recogniser(model: str) -> Recogniser:
    return open_recogniser(model)


@pytest.fixture(scope="module")
def photographs(orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people with three photographs each, one that lies in no folder, and three that cannot be used."""
    root = tmp_path_factory.mktemp("photographs")
    for name in [f"s{person}/{number}.pgm" for person in range(1, 5) for number in (1, 2, 3)]:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(orl[name])
    (root / "somebody.pgm").write_bytes(orl["s20/1.pgm"])
    (root / "s2" / "cut.png").write_bytes(encode_png(decode_rgb(orl["s2/4.pgm"]))[:2000])
    (root / "s3" / "wall.png").write_bytes(encode_png(np.full((112, 92, 3), 128, np.uint8)))
    (root / "s4" / "notes.txt").write_text("no photograph")
    return root


@pytest.fixture(scope="module")
def gallery(photographs: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("galleries") / "embeddings.parquet"
    figures = embed(str(photographs), model=model, out=out)
    assert figures == EmbedResult(rows_in=16, rows_out=13, identities=5, rejected={"no_face": 1, "unreadable": 2})
    return out


def test_one_person_and_two(photographs: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    one, again, other = (str(photographs / name) for name in ("s1/1.pgm", "s1/2.pgm", "s2/1.pgm"))
    same = compare(one, again, model=model)
    lines = capsys.readouterr().out.splitlines()
    assert same.same is True
    assert 0.4 < same.similarity < 0.99
    assert same.confidence == pytest.approx(1 / (1 + math.exp(6 - 20 * same.similarity)))
    for name in ("threshold", "threshold_low", "threshold_high", "fmr"):
        assert getattr(same, name) == CALIBRATION[name]
    assert (same.left.faces, same.right.faces) == (1, 1)
    assert lines[0].endswith("threshold 0.300 (95 % 0.270 to 0.330, false match rate 0.1 %)")
    assert lines[1].startswith("the same person; one person has a probability of 99.")
    different = compare(one, other, model=model)
    assert different.same is False
    assert different.similarity < 0.25
    assert different.confidence is not None and different.confidence < 0.3
    assert capsys.readouterr().out.splitlines()[1].startswith("not the same person; ")


def test_the_degradation_that_a_threshold_holds_for_is_said(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = calibrated(copied(exported(), tmp_path / "noisy"), degradation="noise:60")
    compare(str(photographs / "s1/1.pgm"), str(photographs / "s1/2.pgm"), model=str(folder))
    assert capsys.readouterr().out.splitlines()[0].endswith("false match rate 0.1 % on crops under noise:60)")


@pytest.mark.parametrize("flip", [False, True])
def test_sides_do_not_matter_and_a_photograph_is_like_itself(photographs: Path, model: str, flip: bool) -> None:
    opened = open_recogniser(model, flip)
    names = ("s1/1.pgm", "s1/3.pgm", "s3/2.pgm", "somebody.pgm")
    faces = [face for name in names if isinstance(face := opened.face((photographs / name).read_bytes()), Face)]
    assert len(faces) == 4
    for index, left in enumerate(faces):
        for right in faces[: index + 1]:
            one, other = compare_faces(opened, left, right, 0.4), compare_faces(opened, right, left, 0.4)
            assert (one.similarity, one.same) == (other.similarity, other.same)
            assert one.similarity <= 1
            assert (one.similarity > 0.999999) == (left is right)


def test_a_given_threshold_decides(photographs: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = (str(photographs / name) for name in ("s1/1.pgm", "s1/2.pgm"))
    found = compare(left, right, model=model).similarity
    for limit, same in ((found - 1e-9, True), (found, False)):
        figures = compare(left, right, model=model, threshold=limit)
        assert (figures.same, figures.threshold) == (same, limit)
        assert (figures.fmr, figures.threshold_low) == (None, None)
        assert figures.confidence is not None and figures.confidence > 0.9  # which does not depend on the threshold
    plain = str(exported())
    capsys.readouterr()
    figures = compare(left, right, model=plain, threshold=0.3)
    assert figures.confidence is None
    assert capsys.readouterr().out.splitlines()[1] == "the same person"
    with pytest.raises(KubefaceError, match=r"^\S+ has no threshold\.json"):
        compare(left, right, model=plain)


def test_several_faces_are_told(
    orl: dict[str, bytes], photographs: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "both.png"
    both.write_bytes(encode_png(np.concatenate([decode_rgb(orl[f"s{person}/1.pgm"]) for person in (1, 2)], 1)))
    figures = compare(str(both), str(photographs / "s1/1.pgm"), model=model)
    assert (figures.left.faces, figures.right.faces) == (2, 1)
    assert capsys.readouterr().out.startswith(f"{both} shows 2 faces: the largest near the middle counts\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "s3/wall.png",
            r"s3/wall\.png shows no face \(mtcnn found none of 20 pixels and more\): give another photograph$",
        ),
        (
            "s4/notes.txt",
            r"s4/notes\.txt cannot be read as a photograph \(none of JPEG, .*\): give another photograph$",
        ),
        ("s9/1.pgm", r"s9/1\.pgm cannot be read: No such file or directory$"),
        ("s1", r"/s1 cannot be read: Is a directory$"),
    ],
)
def test_a_photograph_that_cannot_be_used_is_named(
    name: str, said: str, photographs: Path, model: str, gallery: Path
) -> None:
    good, bad = str(photographs / "s1/1.pgm"), str(photographs / name)
    for call in (
        lambda: compare(good, bad, model=model),
        lambda: compare(bad, good, model=model),
        lambda: identify(bad, gallery=str(gallery), model=model),
    ):
        with pytest.raises(KubefaceError, match=said):
            call()


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def rejected(path: Path) -> dict[str, str]:
    with open(path.with_name(f"{path.name}.rejected.csv"), newline="") as file:
        return {row["source"]: row["reason"] for row in csv.DictReader(file)}


def test_every_photograph_is_a_row_or_has_a_reason(
    gallery: Path, photographs: Path, recogniser: Recogniser, model: str
) -> None:
    rows = rows_of(gallery)
    names = [row["source"] for row in rows]
    usable = {f"s{person}/{number}.pgm" for person in range(1, 5) for number in (1, 2, 3)} | {"somebody.pgm"}
    assert names == sorted(usable)
    assert [row["identity"] for row in rows] == [name.partition("/")[0] if "/" in name else "" for name in names]
    for row in rows:
        face = recogniser.face((photographs / row["source"]).read_bytes())
        assert isinstance(face, Face)
        assert np.array_equal(np.array(row["embedding"], np.float32), face.embedding)
        assert np.allclose(row["landmarks"], face.landmarks.ravel())
        assert np.allclose(row["box"], face.box)
        assert (row["det_score"], row["faces"]) == (pytest.approx(face.score), 1)
    assert rejected(gallery) == {"s2/cut.png": "unreadable", "s3/wall.png": "no_face", "s4/notes.txt": "unreadable"}
    schema = pq.read_schema(gallery)
    assert schema.field("embedding").type == pa.list_(pa.float32(), 128)
    weights = json.loads((Path(model) / "model.json").read_text())["weights_sha256"]
    marks = {"weights_sha256": weights, "template": "arcface_112", "detector": "mtcnn", "flip": "false"}
    assert {key.decode(): value.decode() for key, value in schema.metadata.items()} == marks
    assert sorted(path.name for path in gallery.parent.iterdir()) == [gallery.name, f"{gallery.name}.rejected.csv"]


def test_workers_and_archives_change_nothing(
    gallery: Path, photographs: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "photographs.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(photographs.rglob("*"), reverse=True):
            if path.is_file():
                tar.add(path, path.relative_to(photographs))
    for number, (source, workers) in enumerate(((photographs, 1), (photographs, 5), (archive, 2))):
        monkeypatch.setattr(module, "cpu_limit", lambda workers=workers: workers)
        out = tmp_path / str(number) / "out.parquet"
        embed(str(source), model=model, out=out)
        assert out.read_bytes() == gallery.read_bytes()
        assert rejected(out) == rejected(gallery)


def test_similarity_in_the_gallery_is_that_of_compare(gallery: Path, photographs: Path, model: str) -> None:
    vectors = {row["source"]: np.array(row["embedding"], np.float32) for row in rows_of(gallery)}
    for left, right in (("s1/1.pgm", "s1/2.pgm"), ("s1/1.pgm", "s4/3.pgm")):
        figures = compare(str(photographs / left), str(photographs / right), model=model)
        assert figures.similarity == similarity(vectors[left], vectors[right])


def test_embed_overwrites_nothing_and_leaves_nothing_half(
    photographs: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("mine")
    with pytest.raises(KubefaceError, match=f"^{out} exists already: remove it or choose another file$"):
        embed(str(photographs), model=model, out=out)
    assert out.read_text() == "mine"
    out.unlink()
    with pytest.raises(KubefaceError, match="are written to a local file"):
        embed(str(photographs), model=model, out=Path("s3://bucket/out.parquet"))
    with pytest.raises(KubefaceError, match="is not a folder"):
        embed(str(tmp_path / "nowhere"), model=model, out=out)
    face = Recogniser.face

    def fail_late(recogniser: Recogniser, photograph: bytes) -> object:
        if photograph == (photographs / "s4/3.pgm").read_bytes():
            raise MemoryError
        return face(recogniser, photograph)

    monkeypatch.setattr(Recogniser, "face", fail_late)
    with pytest.raises(MemoryError):
        embed(str(photographs), model=model, out=out)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_face_leaves_its_reasons(photographs: Path, model: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "walls", tmp_path / "out.parquet"
    folder.mkdir()
    (folder / "wall.png").write_bytes((photographs / "s3/wall.png").read_bytes())
    (folder / os.fsdecode(b"caf\xe9.pgm")).write_bytes((photographs / "s1/1.pgm").read_bytes())
    with pytest.raises(
        KubefaceError, match=f"^{folder}: none of 2 files shows a sure face, {out}.rejected.csv says why"
    ):
        embed(str(folder), model=model, out=out)
    assert not out.exists()
    text = (tmp_path / "out.parquet.rejected.csv").read_bytes()
    assert b"caf\xe9.pgm,unreadable,the name is not UTF-8: rename the file or folder\n" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet.rejected.csv", "walls"]


def test_a_file_that_cannot_be_read_stops_nothing_but_a_store_that_is_away_does(
    photographs: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = objects.read_bytes

    def fail(uri: str) -> bytes:
        if uri.endswith("s1/2.pgm"):
            raise KubefaceError(f"{uri} cannot be read: Permission denied")
        return read(uri)

    monkeypatch.setattr(objects, "read_bytes", fail)
    embed(str(photographs), model=model, out=tmp_path / "out.parquet")
    assert rejected(tmp_path / "out.parquet")["s1/2.pgm"] == "unreadable"

    @contextmanager
    def open_store(uri: str) -> Iterator[Source]:
        yield Source(objects.list_files(str(photographs)), lambda name: fail(str(photographs / name)))

    monkeypatch.setattr(module, "open_source", open_store)
    with pytest.raises(KubefaceError, match=r"s1/2\.pgm cannot be read: Permission denied$"):
        embed("s3://bucket", model=model, out=tmp_path / "other.parquet")
    assert not (tmp_path / "other.parquet").exists()


def test_the_photograph_itself_is_found_first(
    gallery: Path, photographs: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for person in ("s1", "s3"):
        figures = identify(str(photographs / person / "2.pgm"), gallery=str(gallery), model=model, top=3)
        assert (figures.known, figures.verdict, figures.images, figures.faces) == (True, person, 13, 1)
        first, *others = figures.people
        assert (first.identity, first.source) == (person, f"{person}/2.pgm")
        assert first.similarity == pytest.approx(1, abs=1e-6)
        assert len(others) == 2
        assert person not in {other.identity for other in others}  # a person is one row
        assert figures.stranger_matches == pytest.approx(1 - 0.999**13)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1.000  s1  (s1/2.pgm)"
    assert lines[3] == "s1, threshold 0.300; a stranger would match one of 13 images by chance in 1.3 %"


def test_another_photograph_of_the_person_is_enough_and_a_stranger_is_unknown(
    gallery: Path, orl: dict[str, bytes], model: str, tmp_path: Path
) -> None:
    for name, verdict in (("s1/7.pgm", "s1"), ("s20/2.pgm", "somebody.pgm"), ("s30/1.pgm", "unknown")):
        path = tmp_path / "probe.pgm"
        path.write_bytes(orl[name])
        figures = identify(str(path), gallery=str(gallery), model=model)
        assert (figures.verdict, figures.known) == (verdict, verdict != "unknown")
    strict = identify(str(path), gallery=str(gallery), model=model, threshold=-1.0)
    assert strict.known
    assert strict.stranger_matches is None
    with pytest.raises(KubefaceError, match=r"^top is 0: it must be at least 1$"):
        identify(str(path), gallery=str(gallery), model=model, top=0)


def test_a_gallery_of_another_model_is_refused(gallery: Path, photographs: Path, model: str, tmp_path: Path) -> None:
    probe = str(photographs / "s1/1.pgm")
    other = configured(copied(exported(), tmp_path / "other"), weights_sha256="1" * 64)
    with pytest.raises(KubefaceError, match=f"^{gallery} was made with weights_sha256 .*: .* embed the gallery with"):
        identify(probe, gallery=str(gallery), model=str(other), threshold=0.3)
    with pytest.raises(KubefaceError, match=r"was made with flip false, this model has true: .* set --flip alike$"):
        identify(probe, gallery=str(gallery), model=model, threshold=0.3, flip=True)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(KubefaceError, match=r"a\.parquet is no gallery: make one with"):
        identify(probe, gallery=str(tmp_path / "a.parquet"), model=model)
    damaged = bytearray(gallery.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    for data in (b"no Parquet", bytes(damaged), gallery.read_bytes()[:-1000]):
        (tmp_path / "b.parquet").write_bytes(data)
        with pytest.raises(KubefaceError, match=r"b\.parquet cannot be read as a gallery \(.*\): embed it again$"):
            identify(probe, gallery=str(tmp_path / "b.parquet"), model=model)
    with pytest.raises(KubefaceError, match=r"c\.parquet does not exist"):
        identify(probe, gallery=str(tmp_path / "c.parquet"), model=model)


def test_of_many_the_nearest_are_those_of_a_full_search(tmp_path: Path) -> None:
    """Across row groups; people come back after they were dropped, and equal ones are in the order of their names."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5 * ROW_GROUP_ROWS // 2, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[7] = vectors[3]
    people = [f"p{number:03d}" for number in rng.integers(0, 60, len(vectors))]
    people[3], people[7] = "p001", "p000"
    with _Rows(tmp_path / "many.parquet", 16, {}) as rows:
        for number, (person, vector) in enumerate(zip(people, vectors, strict=True)):
            face = Face(embedding=vector, score=1.0, box=np.zeros(4), landmarks=np.zeros((5, 2)), faces=1)
            rows.add(f"{person}/{number}.jpg", face)
    assert rows.count == len(vectors)
    with pq.ParquetFile(tmp_path / "many.parquet") as file:
        assert file.num_row_groups == 3
        for probe in (vectors[3], vectors[400], *rng.normal(size=(3, 16)).astype(np.float32)):
            probe = probe / np.linalg.norm(probe)
            best: dict[str, float] = {}
            for person, vector in zip(people, vectors, strict=True):
                best[person] = max(best.get(person, -2), similarity(vector, probe))
            expected = sorted(best.items(), key=lambda entry: (-entry[1], entry[0]))
            for top in (1, 5, 100):
                found = _nearest(file, probe, top)
                assert [entry.identity for entry in found] == [person for person, _ in expected[:top]]
                assert [entry.similarity for entry in found] == pytest.approx([best for _, best in expected[:top]])
                for entry in found:
                    number = int(Path(entry.source).stem)
                    assert people[number] == entry.identity
                    assert similarity(vectors[number], probe) == pytest.approx(entry.similarity)


def test_the_commands_run_without_torch(photographs: Path, model: str, tmp_path: Path) -> None:
    one, other, out = str(photographs / "s1/1.pgm"), str(photographs / "s1/2.pgm"), str(tmp_path / "out.parquet")
    options = ("--gallery", out, "--model", model, "--flip", "--threshold", "0.5", "--top", "1")
    compared, embedded, identified, failed = run_without(
        ("torch", "torchvision", "facenet_pytorch", "onnx", "safetensors", "scipy", "sklearn", "timm"),
        ("compare", one, other, "--model", model),
        ("embed", str(photographs), "--model", model, "--out", out, "--flip"),
        ("identify", other, *options),
        ("compare", one, str(photographs / "s3/wall.png"), "--model", model),
    )
    assert compared.figures["same"] is True
    assert embedded.figures["rows_out"] == 13
    assert "embed: 16/16 100 % images" in embedded.err
    assert "embed: 3 left out (no_face 1, unreadable 2), see " in embedded.err
    assert identified.figures["people"][0]["identity"] == "s1"
    assert (failed.code, failed.out, len(failed.err.splitlines())) == (1, "", 1)
