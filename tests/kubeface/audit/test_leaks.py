"""People of the evaluation sets in the training data: found by face, whatever they are called."""

import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from kubeface.audit import evaluation_sets
from kubeface.audit.embeddings import sface
from kubeface.audit.evaluation_sets import read_evaluation_set, split_sources
from kubeface.records.findings import FindingsRecord
from kubeface.runtime.errors import KubefaceError
from tests.support.audit_tables import Photo, audited, changed, photos, read_findings
from tests.support.images import write_files
from tests.support.tables import rows_of

People = dict[str, list[bytes]]
# Of CelebA's people at hand these two are in LFW, one of them with the same photograph, cut differently.
KNOWN = {"07355": "Noel_Niell", "07261": "Nicole_Hiltz"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds SFace and no evaluation set."""
    sface()
    from kubeface.storage.downloads import cache_folder

    real, own = cache_folder(), tmp_path / "cache"
    own.mkdir()
    for name in ("sha256", "wheels"):
        if (real / name).exists():
            (own / name).symlink_to(real / name)
    monkeypatch.setenv("KUBEFACE_CACHE", str(own))
    return own


@pytest.fixture
def evaluation(people: People, tmp_path: Path) -> Path:
    """An evaluation set in LFW's layout: s5 under another name, two strangers, and what is no photograph."""
    root = tmp_path / "evaluation"
    faces = {
        f"lfw/{name}/{name}_{number:04d}.pgm": people[person][number]
        for name, person in (("Somebody", "s5"), ("A", "s20"), ("B", "s21"))
        for number in (7, 8, 9)
    }
    write_files(root, faces | {"lfw/.DS_Store": b"junk", "lfw/A/broken.jpg": b"junk"})
    return root


def images(people: People) -> list[Photo]:
    return photos(people, "s1", "s5", "s9", count=4)


def reasons(root: Path) -> dict[str, set[str | None]]:
    rows = rows_of(root / "out")
    return {name: {row["reason"] for row in rows if row["identity"] == name} for name in {r["identity"] for r in rows}}


@pytest.mark.parametrize("on_leak", ["drop", "warn", "fail"])
def test_leaks_are_dropped_or_listed_or_stop_the_run(
    people: People, evaluation: Path, tmp_path: Path, on_leak: str
) -> None:
    options = {"evaluation_sets": str(evaluation), "on_leak": on_leak}
    if on_leak == "fail":
        message = r"1 people of the training data are in an evaluation set \(s5\)"
        with pytest.raises(KubefaceError, match=message):
            audited(tmp_path, images(people), **options)
    else:
        assert audited(tmp_path, images(people), **options)[0].leaks == 1
    (leak,) = read_findings(tmp_path, "leaks.csv")
    assert (leak["identity"], leak["person"], leak["same_photograph"]) == ("s5", "Somebody", "false")
    dropped = None if on_leak == "warn" else "leak"
    assert reasons(tmp_path) == {"s1": {None}, "s5": {dropped}, "s9": {None}}
    page = (tmp_path / "page.html").read_text()
    assert "Somebody" in page and page.count("data:image/jpeg") >= 2


def test_a_shared_photograph_is_a_leak(people: People, evaluation: Path, tmp_path: Path) -> None:
    copy = changed(people["s20"][7], lambda image: image, 90)
    photographs = [*images(people), Photo("s1", "wrong.jpg", copy)]
    audited(tmp_path, photographs, evaluation_sets=str(evaluation), on_leak="warn")
    leaked = {leak["identity"]: leak for leak in read_findings(tmp_path, "leaks.csv")}
    assert leaked.keys() == {"s1", "s5"}
    assert (leaked["s1"]["person"], leaked["s1"]["same_photograph"]) == ("A", "true")
    assert leaked["s1"]["source"] == "s1/wrong.jpg" and "same photograph" in (tmp_path / "page.html").read_text()


def test_lookalikes_of_a_leak_are_dropped_too(people: People, evaluation: Path, tmp_path: Path) -> None:
    twin = [Photo("twin", f"{n}.pgm", data) for n, data in enumerate(people["s5"][4:7])]
    audited(tmp_path, [*images(people), *twin], evaluation_sets=str(evaluation))
    found = reasons(tmp_path)
    assert found["s5"] == found["twin"] == {"leak"} and found["s1"] == {None}


def test_an_evaluation_set_is_embedded_once(evaluation: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_evaluation_set(str(evaluation), sface())
    assert first.names == ["A", "B", "Somebody"] and len(first.files) == 10

    def never(*_: Any) -> Any:
        raise AssertionError("embedded again")

    monkeypatch.setattr(evaluation_sets, "_embed_all", never)
    again = read_evaluation_set(str(evaluation), never)
    assert (again.vectors == first.vectors).all() and (again.phash == first.phash).all()
    (cached,) = (own_cache / "evaluation-sets").iterdir()
    (evaluation / "lfw" / "A" / "A_0007.pgm").write_bytes(b"another size")
    with pytest.raises(AssertionError, match="embedded again"):
        read_evaluation_set(str(evaluation), never)
    monkeypatch.undo()
    monkeypatch.setenv("KUBEFACE_CACHE", str(own_cache))
    cached.write_bytes(b"damaged")
    (evaluation / "lfw" / "A" / "A_0007.pgm").unlink()
    assert len(read_evaluation_set(str(evaluation), sface()).files) == 9


def test_evaluation_sets_without_photographs_or_faces_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set" / "A").mkdir(parents=True)
    with pytest.raises(KubefaceError, match="holds no photographs: give a folder for each person"):
        read_evaluation_set(str(tmp_path / "set"), sface())
    (tmp_path / "set" / "A" / "a.png").write_bytes(b"junk")
    with pytest.raises(KubefaceError, match=r"no face was found in any of its 1 photographs"):
        read_evaluation_set(str(tmp_path / "set"), sface())


def test_sources_are_separated_by_commas_or_spaces() -> None:
    assert split_sources(" a, b  c,a ,") == ["a", "b", "c"]
    assert split_sources("") == []


@pytest.mark.slow
def test_people_of_celeba_are_found_in_lfw(shared_data: Path, tmp_path: Path) -> None:
    celeba, lfw = shared_data / "celeba" / "celeba_wild.tar", shared_data / "lfw" / "lfw-deepfunneled.tar"
    for path in (celeba, lfw):
        if not path.is_file():
            pytest.skip(f"{path} is not there: LFW and CelebA are not part of the repository")
    chosen = {*KNOWN, "07448", "07480", "07334", "07202", "07203"}
    with tarfile.open(celeba) as archive:
        found: list[Photo] = []
        for member in archive:
            name = re.fullmatch(r".*/(\d+)/(\w+\.jpg)", member.name)
            file = archive.extractfile(member) if name and name[1] in chosen else None
            if name and file and sum(photo.identity == name[1] for photo in found) < 10:
                found.append(Photo(name[1], name[2], file.read()))
    look_alikes = {*KNOWN.values(), "Kim_Clijsters", "Elin_Nordegren", "Liza_Minnelli"}
    people: dict[str, int] = {}
    with tarfile.open(lfw) as archive, tarfile.open(tmp_path / "lfw.tar", "w") as subset:
        for member in archive:
            person = Path(member.name).parent.name
            if member.isfile() and member.name.endswith(".jpg"):
                others = len(people.keys() - look_alikes)
                if person in look_alikes or person in people or others < 60:
                    people[person] = people.get(person, 0) + 1
                    if people[person] <= 5:
                        subset.addfile(member, archive.extractfile(member))
    audited(tmp_path, found, evaluation_sets=str(tmp_path / "lfw.tar"))
    assert {leak["identity"]: leak["person"] for leak in read_findings(tmp_path, "leaks.csv")} == KNOWN
    counts = FindingsRecord.read(tmp_path / "out" / "data.json").counts
    assert counts.reasons["leak"] == sum(photo.identity in KNOWN for photo in found)
