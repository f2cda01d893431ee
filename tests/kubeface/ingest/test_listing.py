"""Listings: joined tables, CelebA's own files, and names without folders."""

import json
from pathlib import Path

import pytest

from kubeface.ingest.listing import Listing
from kubeface.ingest.options import IngestOptions
from kubeface.ingest.step import ingest, plan_shards
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.labels import known_labels, read_labels
from kubeface.tables.table import Table
from tests.support.commands import run_python
from tests.support.images import write_files
from tests.support.tables import reasons, rows_of

ATTRIBUTES = "3\nSmiling Wearing_Hat\n000001.jpg  1 -1\n000002.jpg -1 -1\n000003.jpg -1  1\n"
PARTITION = "000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n"
PEOPLE = "000001.jpg 2880\n000002.jpg 17\n"


@pytest.fixture
def celeba(images: dict[str, bytes], tmp_path: Path) -> Path:
    """CelebA as it is published, but for its size; 000004.jpg is in no list."""
    pictures = list(images.values())
    write_files(tmp_path / "img", {f"{number:06d}.jpg": pictures[number] for number in range(1, 5)})
    for name, text in {
        "list_attr_celeba.txt": ATTRIBUTES,
        "list_eval_partition.txt": PARTITION,
        "identity_CelebA.txt": PEOPLE,
        "list_attr_celeba.csv": "image_id,Smiling,Wearing_Hat\n000001.jpg,1,0\n000002.jpg,0,0\n000003.jpg,0,1\n",
        "list_eval_partition.csv": "image_id,partition\n000001.jpg,0\n000002.jpg,1\n000003.jpg,2\n",
        "identity_CelebA.csv": "image_id,identity\n000001.jpg,2880\n000002.jpg,17\n",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def known(table: Path) -> dict[str, tuple[str, str | None, dict[str, str]]]:
    return {
        row["source"]: (row["identity"], row["given_split"], json.loads(row["groups"] or "{}"))
        for row in rows_of(table)
    }


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_celeba_files(suffix: str, celeba: Path, tmp_path: Path) -> None:
    names = ("list_eval_partition", "list_attr_celeba", "identity_CelebA")
    listing = " ".join(f"{celeba}/{name}{suffix}" for name in names)
    figures = ingest(str(celeba / "img"), tmp_path / "out", IngestOptions(listing=listing))
    assert (figures.rows_out, figures.rejected) == (3, 0)
    assert known(tmp_path / "out") == {
        "000001.jpg": ("2880", "train", {"Smiling": "1", "Wearing_Hat": "0"}),
        "000002.jpg": ("17", "val", {"Smiling": "0", "Wearing_Hat": "0"}),
        "000003.jpg": ("000003.jpg", "test", {"Smiling": "0", "Wearing_Hat": "1"}),  # nobody says who it is
    }


def test_without_identity_column_folder_or_image_name_is_the_identity(celeba: Path, tmp_path: Path) -> None:
    listing = f"{celeba}/list_attr_celeba.txt"
    ingest(str(celeba / "img"), tmp_path / "flat", IngestOptions(listing=listing))
    assert {row["identity"] for row in rows_of(tmp_path / "flat")} == {f"{number:06d}.jpg" for number in (1, 2, 3)}
    for number, person in ((1, "ann"), (2, "ann"), (3, "bob")):
        picture = (celeba / "img" / f"{number:06d}.jpg").read_bytes()
        write_files(tmp_path / "deep", {f"test/{person}/{number:06d}.jpg": picture})
    ingest(
        str(tmp_path / "deep"),
        tmp_path / "people",
        IngestOptions(listing=f"{listing} {celeba}/list_eval_partition.csv"),
    )
    assert known(tmp_path / "people") == {
        "test/ann/000001.jpg": ("ann", "train", {"Smiling": "1", "Wearing_Hat": "0"}),  # the listing goes first
        "test/ann/000002.jpg": ("ann", "val", {"Smiling": "0", "Wearing_Hat": "0"}),
        "test/bob/000003.jpg": ("bob", "test", {"Smiling": "0", "Wearing_Hat": "1"}),
    }
    ingest(str(celeba / "img"), tmp_path / "named", IngestOptions(listing=listing, identity_pattern=r"^(\d{5}[12])"))
    assert {row["identity"] for row in rows_of(tmp_path / "named")} == {"000001", "000002", "000003.jpg"}


def test_columns_of_several_files_are_joined(celeba: Path, tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text("path,Smiling,age\n000001.jpg,,31\n000004.jpg,1,7\nnowhere.jpg,0,8\n")
    ingest(
        str(celeba / "img"),
        tmp_path / "out",
        IngestOptions(listing=f"{celeba}/list_attr_celeba.csv {tmp_path}/more.csv"),
    )
    assert reasons(tmp_path / "out") == {"nowhere.jpg": "missing_file"}
    found = {name: groups for name, (_, _, groups) in known(tmp_path / "out").items()}
    assert found["000001.jpg"] == {"Smiling": "1", "Wearing_Hat": "0", "age": "31"}
    assert found["000004.jpg"] == {"Smiling": "1", "age": "7"}
    table = Table(tmp_path / "out", "faces")
    assert known_labels(table) == ["Smiling", "Wearing_Hat"]
    ids, values = read_labels(table, ["Wearing_Hat", "Smiling"])
    names = {row["image_id"]: row["source"] for row in rows_of(tmp_path / "out")}
    assert dict(zip((names[i] for i in ids), values.tolist(), strict=True))["000004.jpg"] == [-1, 1]


def test_path_of_a_listing_with_a_space(celeba: Path, tmp_path: Path) -> None:
    (tmp_path / "my lists").mkdir()
    (celeba / "list_attr_celeba.csv").rename(tmp_path / "my lists" / "a.csv")
    assert Listing(str(tmp_path / "my lists" / "a.csv")).of("000001.jpg") == {"Smiling": "1", "Wearing_Hat": "0"}


def test_listing_beside_its_images(celeba: Path, tmp_path: Path) -> None:
    (celeba / "list_attr_celeba.txt").rename(celeba / "img" / "list_attr_celeba.txt")
    assert ingest(str(celeba / "img" / "list_attr_celeba.txt"), tmp_path / "out").rows_out == 3


def test_name_without_folders_resolves_to_its_only_file(images: dict[str, bytes], tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a/7.png": images["ann/0.png"], "b/8.png": images["bob/0.png"]})
    (tmp_path / "l.csv").write_text("path,hat\n7.png,1\n8.png,0\n9.png,0\n")
    ingest(source, tmp_path / "out", IngestOptions(listing=str(tmp_path / "l.csv")))
    assert known(tmp_path / "out") == {"a/7.png": ("a", None, {"hat": "1"}), "b/8.png": ("b", None, {"hat": "0"})}
    assert reasons(tmp_path / "out") == {"9.png": "missing_file"}
    (tmp_path / "more.csv").write_text("path,hat,age\na/7.png,1,30\n")  # the same file by its whole name
    ingest(source, tmp_path / "both", IngestOptions(listing=f"{tmp_path}/l.csv {tmp_path}/more.csv"))
    assert known(tmp_path / "both")["a/7.png"] == ("a", None, {"hat": "1", "age": "30"})
    (tmp_path / "more.csv").write_text("path,hat\na/7.png,0\n")
    with pytest.raises(KubefaceError, match=r"says something else of '7.png' than of 'a/7.png'"):
        plan_shards(source, options=IngestOptions(listing=f"{tmp_path}/l.csv {tmp_path}/more.csv"))
    write_files(tmp_path / "in", {"c/7.png": images["cyd/0.png"]})
    with pytest.raises(
        KubefaceError, match=r"names '7.png', and a/7.png and c/7.png are both called so: write the path"
    ):
        plan_shards(source, options=IngestOptions(listing=str(tmp_path / "l.csv")))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("people.csv", "", "has no column path"),
        ("people.csv", "name,identity\nann/0.png,ann", "has no column path"),
        ("people.csv", "path,identity", "lists no image"),
        ("people.csv", "path,identity\nann/0.png,", "row 2 names no path or no identity"),
        ("people.csv", "path,identity,split\nann/0.png,ann,dev", "row 2 has split 'dev': use train, val, test"),
        ("people.csv", "image_id,partition\nann/0.png,3", "row 2 has split '3': use train, val, test or nothing"),
        ("people.csv", "path,identity\na.png,ann\na.png,bob", "row 3 says something else of 'a.png' than a row"),
        ("people.csv", "path,identity\nann/0.png,Smith, Ann", "row 2 has more fields than the head has columns"),
        ("people.csv", "path,identity\nelsewhere.png,ann", "holds none of the images that"),
        ("people.csv", "path,identity\n\udcff.png,ann", "is not a readable listing: 'utf-8' codec"),
        ("people.parquet", "PAR1 is all", "people.parquet is not a readable listing"),
        ("list_attr_celeba.txt", ATTRIBUTES.replace("3\n", "4\n", 1), "says 4 images and lists 3: it is cut off"),
        ("list_attr_celeba.txt", ATTRIBUTES[:-3], "row 5 has 2 fields for 3 columns"),
        ("list_attr_celeba.txt", "", "is none of CelebA's text files"),
        ("remarks.txt", "000001.jpg 7\n", "is none of CelebA's text files"),
        ("list_eval_partition.txt", "000001.jpg 7\n", "row 1 has split '7': use train, val, test or nothing"),
        ("list_eval_partition.csv", "image_id,partition\na.jpg,0\na.jpg,1\n", "row 3 says something else of 'a.jpg'"),
    ],
)
def test_invalid_listing_is_refused(name: str, text: str, said: str, images: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    source = write_files(tmp_path / "in", images)
    with pytest.raises(KubefaceError) as raised:
        ingest(source, tmp_path / "out", IngestOptions(listing=str(tmp_path / name)))
    assert said in str(raised.value) and name in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_labelled_photographs_of_celeba(shared_data: Path, tmp_path: Path) -> None:
    source, listing = (shared_data / "celeba" / name for name in ("celeba_wild.tar", "list_attr_celeba.csv"))
    if not listing.is_file():
        pytest.skip(f"{listing} is not there")
    figures = ingest(str(source), tmp_path / "out", IngestOptions(listing=str(listing)))
    assert (figures.rows_out, figures.rejected) == (215, 0)
    table = Table(tmp_path / "out", "faces")
    labels = known_labels(table)
    assert (len(labels), labels[0], labels[-1]) == (40, "5_o_Clock_Shadow", "Young")
    assert set(table.columns(["identity"])["identity"].to_pylist()) == {
        name.split("/")[1] for name in table.columns(["source"])["source"].to_pylist()
    }
    _, values = read_labels(table, labels)
    assert values.shape == (215, 40) and set(values.ravel().tolist()) == {0, 1}


@pytest.mark.slow
def test_listing_takes_little_memory(tmp_path: Path) -> None:
    """40 labels for each of 40,000 images, a fifth of CelebA, in a process of its own: less than 1 kB an image."""
    script = """
import re, sys
from pathlib import Path
from kubeface.ingest.listing import Listing
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
path = Path(sys.argv[1], "list_attr_celeba.csv")
with open(path, "w") as file:
    file.write("image_id," + ",".join(f"Label_{label}" for label in range(40)) + "\\n")
    for image in range(40_000):
        file.write(f"{image:06d}.jpg" + "".join(",1" if (image * label) % 7 == 1 else ",-1" for label in range(40)))
        file.write("\\n")
before = peak()
listing = Listing(str(path))
assert listing.of("039999.jpg") == {f"Label_{n}": str(int(39_999 * n % 7 == 1)) for n in range(40)}
print(peak() - before)
"""
    assert int(run_python(script, tmp_path)) < 40_000
