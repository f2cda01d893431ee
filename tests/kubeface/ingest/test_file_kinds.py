"""Every kind of file that folders of photographs hold: usable ones are kept, others listed by reason, none is fatal.

FILE_KINDS lists them. All are in one source: a folder, an archive, or objects of a store.
"""

import io
import json
import os
import socket
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image, ImageDraw

from kubeface.align.options import AlignOptions
from kubeface.align.step import align
from kubeface.cli import main
from kubeface.faces.images import RGB, decode_rgb, encode_png
from kubeface.filter.step import filter_faces
from kubeface.ingest.step import IngestResult, ingest
from kubeface.split.options import SplitOptions
from kubeface.split.step import split
from kubeface.storage import objects
from kubeface.tables.table import Table
from pipelines.local.store import local_store
from tests.support.faulty_store import in_force
from tests.support.images import encoded, write_files
from tests.support.tables import reasons, rows_of

KEPT = "kept"
LONG = "x" * 251  # and a suffix: 255 bytes, the most that file systems take
WIDE = "ü" * 125  # 250 bytes


def photograph_of(orl: dict[str, bytes], person: int, number: int) -> Image.Image:
    return Image.open(io.BytesIO(orl[f"s{person}/{number}.pgm"])).convert("RGB")


def saved(kind: str, mode: str = "RGB", **options: Any) -> Callable[[Image.Image], bytes]:
    """The photograph as a file of a kind."""
    return lambda photograph: encoded(photograph.convert(mode), kind, **options)


def scaled(width: int, height: int, kind: str = "JPEG") -> Callable[[Image.Image], bytes]:
    return lambda photograph: encoded(photograph.resize((width, height)), kind)


def truncated(photograph: Image.Image) -> bytes:
    data = encoded(photograph, "JPEG")
    return data[: len(data) // 2]


def animated(photograph: Image.Image) -> bytes:
    frames = [photograph.rotate(angle) for angle in (90, 180)]
    return encoded(photograph, "GIF", save_all=True, append_images=frames)


def sixteen_bits(photograph: Image.Image) -> bytes:
    return encoded(Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 257), "PNG")


def turned(photograph: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photograph.rotate(90, expand=True), "JPEG", exif=exif, quality=95)


def png(width: int, height: int, pixels: bytes, extra: bytes = b"") -> bytes:
    """A PNG file of one bit a pixel; the pixel data need not fit."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")


def decompression_bomb(photograph: Image.Image) -> bytes:
    """400 million pixels in 50 kilobytes."""
    return png(20_000, 20_000, bytes(2501 * 20_000))


def huge_header(photograph: Image.Image) -> bytes:
    """A header of 3.6 billion pixels without the data."""
    return png(60_000, 60_000, b"")


def text_bomb(photograph: Image.Image) -> bytes:
    """A compressed text chunk that unpacks to 80 megabytes."""
    data = b"Comment\0\0" + zlib.compress(bytes(80 * 2**20), 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    return png(8, 8, bytes(2 * 8), chunk)


def text(content: bytes) -> Callable[[Image.Image], bytes]:
    return lambda photograph: content


# name, the file made from a photograph, and what becomes of it: KEPT, or the reason why not
FILE_KINDS: list[tuple[str, Callable[[Image.Image], bytes], str]] = [
    ("ann/truncated.jpg", truncated, "unreadable"),
    ("ann/head.jpg", lambda photograph: encoded(photograph, "JPEG")[:20], "not_an_image"),
    ("ann/truncated.png", lambda photograph: encoded(photograph)[:2000], "unreadable"),
    ("ann/damaged.png", lambda photograph: encoded(photograph)[:100] + b"??" + encoded(photograph)[102:], "unreadable"),
    ("ann/float.tiff", lambda photograph: encoded(photograph.convert("F"), "TIFF"), "unreadable"),
    ("ann/drawing.svg", text(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "not_an_image"),
    ("ann/zero bytes.jpg", text(b""), "empty_file"),
    ("ann/text.jpg", text(b"To do: find the photographs."), "not_an_image"),
    ("ann/page.jpg", text(b"<!DOCTYPE html><title>404 Not Found</title>"), "not_an_image"),
    ("ann/film.mp4", text(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"), "not_an_image"),
    ("ann/paper.pdf", text(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"), "not_an_image"),
    ("ann/Thumbs.db", text(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "not_an_image"),
    ("ann/png inside.jpg", saved("PNG"), KEPT),
    ("ann/jpeg inside.png", saved("JPEG"), KEPT),
    ("ann/no suffix", saved("JPEG"), KEPT),
    ("ann/CAPITALS.JPEG", saved("JPEG"), KEPT),
    ("ann/progressive.jpg", saved("JPEG", progressive=True), KEPT),
    ("ann/cmyk.jpg", saved("JPEG", "CMYK"), KEPT),
    ("ann/grey.jpg", saved("JPEG", "L"), KEPT),
    ("ann/16 bits.png", sixteen_bits, KEPT),
    ("ann/alpha.png", saved("PNG", "RGBA"), KEPT),
    ("ann/grey and alpha.png", saved("PNG", "LA"), KEPT),
    ("ann/palette.png", saved("PNG", "P"), KEPT),
    ("ann/black and white.png", saved("PNG", "1"), KEPT),
    ("ann/animated.gif", animated, KEPT),
    ("ann/telephone.heic", saved("HEIF"), KEPT),
    ("ann/photograph.avif", saved("AVIF"), KEPT),
    ("ann/photograph.webp", saved("WEBP"), KEPT),
    ("ann/photograph.tiff", saved("TIFF"), KEPT),
    ("ann/turned.jpg", turned, KEPT),
    ("bob/20000 wide.jpg", scaled(20_000, 40), KEPT),
    ("bob/51 million.png", text(png(10_200, 5_000, bytes(1276 * 5_000))), "too_large"),
    ("bob/100 million.png", text(png(12_500, 8_000, bytes(1564 * 8_000))), "too_large"),
    ("bob/bomb.png", decompression_bomb, "too_large"),
    ("bob/mine.png", huge_header, "too_large"),
    ("bob/text bomb.png", text_bomb, "unreadable"),
    ("bob/one pixel.png", scaled(1, 1, "PNG"), KEPT),
    ("bob/one line.jpg", scaled(300, 1), KEPT),
    ("cyd/日本 ñ é 🙂.jpg", saved("JPEG"), KEPT),
    ("cyd/e\u0301 apart.jpg", saved("JPEG"), KEPT),
    (f"cyd/{LONG}.jpg", saved("JPEG"), KEPT),
    (f"{WIDE}/{WIDE}.jpg", saved("JPEG"), KEPT),
    ("cyd/a, b; c.jpg", text(b"a"), "not_an_image"),
    ("cyd/\"quoted\" 'too'.jpg", text(b"b"), "not_an_image"),
    ("cyd/two\nlines\r\nthree.jpg", text(b"c"), "not_an_image"),
    ("cyd/tab\tand %2F %s {0}.jpg", text(b"d"), "not_an_image"),
    ("cyd/=1+1.jpg", text(b"e"), "not_an_image"),
    ("cyd/-rf.jpg", saved("JPEG"), KEPT),
    ("nobody.jpg", saved("JPEG"), "no_identity"),
]
HIDDEN = [
    ".DS_Store", "ann/.DS_Store", "ann/._turned.jpg", ".git/ann/1.jpg", "__MACOSX/ann/1.jpg", "ann/.thumbs/1.jpg",
]  # fmt: skip


@pytest.fixture(scope="module")
def mixed_files(orl: dict[str, bytes]) -> dict[str, bytes]:
    """All files of FILE_KINDS, what is hidden, and three good photographs of each of three people."""
    photograph = photograph_of(orl, 1, 1)
    good = {
        f"{person}/{number}.jpg": encoded(photograph_of(orl, label, number), "JPEG")
        for label, person in enumerate(("ann", "bob", "cyd"), 1)
        for number in (1, 2, 3)
    }
    return good | {name: make(photograph) for name, make, _ in FILE_KINDS} | dict.fromkeys(HIDDEN, b"hidden")


def check(table: Path, figures: IngestResult) -> None:
    """Each file of FILE_KINDS became what FILE_KINDS says, the good ones were kept, and the numbers fit."""
    expected = {name: outcome for name, _, outcome in FILE_KINDS if outcome != KEPT}
    assert reasons(table) == expected
    assert Table(table, "faces").manifest.rejected == dict(sorted(Counter(expected.values()).items()))
    kept = {row["source"] for row in rows_of(table)}
    assert kept == {name for name, _, outcome in FILE_KINDS if outcome == KEPT} | {
        f"{person}/{number}.jpg" for person in ("ann", "bob", "cyd") for number in (1, 2, 3)
    }
    assert figures.rows_in == len(FILE_KINDS) + 9
    assert figures.rows_out == len(kept)
    assert (figures.rejected, figures.identities) == (len(expected), 4)
    for row in rows_of(table):
        image = decode_rgb(row["image"])
        assert image.shape == (row["height"], row["width"], 3)
        assert len(row["content"]) == len(row["phash"]) == 16


def test_folder(mixed_files: dict[str, bytes], tmp_path: Path) -> None:
    """With links that lead out of it, a pipe, a socket and folders without a file."""
    source = Path(write_files(tmp_path / "in", mixed_files))
    write_files(tmp_path / "private", {"1.jpg": mixed_files["ann/1.jpg"]})
    (source / "ann" / "link.jpg").symlink_to(tmp_path / "private" / "1.jpg")
    (source / "ann" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (source / "dan").symlink_to(tmp_path / "private")
    (source / "ann" / "round").symlink_to(source)
    (source / "eve" / "empty").mkdir(parents=True)
    os.mkfifo(source / "ann" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(source / "ann")  # the path of a socket may have 107 bytes at most
        try:
            listener.bind("socket.jpg")
        finally:
            os.chdir(here)
    check(tmp_path / "out", ingest(str(source), tmp_path / "out"))
    # One record for each file, whatever is in the names; other programs read rejected.csv too.
    expected = sorted(name for name, _, outcome in FILE_KINDS if outcome != KEPT)
    rejected = Table(tmp_path / "out", "faces").rejected()
    assert [row.source for row in rejected] == expected
    assert list(pandas.read_csv(tmp_path / "out" / "rejected.csv", lineterminator="\n")["source"]) == expected
    details = {row.source: row.detail for row in rejected}
    assert details["bob/51 million.png"] == "10200×5000 pixels, 50000000 allowed"
    assert "truncated" in details["ann/truncated.jpg"]


def test_tar(mixed_files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With links, devices and a pipe; through the command line, which prints the counts."""
    archive = tmp_path / "faces.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in mixed_files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, kind, link in (
            ("ann/passwords.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            ("ann/up.jpg", tarfile.LNKTYPE, "../../../etc/passwd"),
            ("ann/zero.jpg", tarfile.CHRTYPE, ""),
            ("ann/disk.jpg", tarfile.BLKTYPE, ""),
            ("ann/pipe.jpg", tarfile.FIFOTYPE, ""),
            ("eve/empty", tarfile.DIRTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member)
    main(["ingest", "--source", str(archive), "--out", str(tmp_path / "out")])
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("seconds") >= 0
    check(tmp_path / "out", IngestResult(**printed))
    assert sorted(path.name for path in tmp_path.iterdir()) == [archive.name, "out"]


@pytest.mark.slow
def test_bucket(mixed_files: dict[str, bytes], tmp_path: Path) -> None:
    with local_store("kubeface") as environment, in_force(environment):
        objects.upload_folder(Path(write_files(tmp_path / "in", mixed_files)), "s3://kubeface/mixed")
        check(tmp_path / "out", ingest("s3://kubeface/mixed", tmp_path / "out"))


# --- through the steps that look for faces ----------------------------------------------------------------------------


def on_canvas(size: tuple[int, int], *placed: tuple[Image.Image, int, int, float]) -> RGB:
    """Photographs put on a grey picture of width × height: left and top edge, and how many times as large."""
    canvas = Image.new("RGB", size, (120, 120, 120))
    for photograph, left, top, scale in placed:
        canvas.paste(
            photograph.resize((round(photograph.width * scale), round(photograph.height * scale))), (left, top)
        )
    return np.asarray(canvas)


def landscape() -> RGB:
    """Sky, a sun and hills."""
    picture = Image.new("RGB", (320, 240), (140, 190, 240))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((240, 20, 280, 60), (255, 240, 160))
    for left, colour in ((-100, (70, 110, 60)), (60, (60, 130, 50)), (180, (90, 140, 70))):
        draw.ellipse((left, 140, left + 260, 400), colour)
    return np.asarray(picture)


def drawing() -> RGB:
    """A face in black lines on white."""
    picture = Image.new("RGB", (240, 280), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((40, 30, 200, 250), outline="black", width=3)
    for left in (80, 135):
        draw.ellipse((left, 110, left + 28, 126), outline="black", width=2)
        draw.ellipse((left + 10, 114, left + 18, 122), fill="black")
        draw.line((left - 3, 98, left + 30, 96), fill="black", width=3)
    draw.line((120, 120, 112, 165, 126, 168), fill="black", width=2)
    draw.arc((92, 180, 148, 212), 10, 170, fill="black", width=3)
    return np.asarray(picture)


@pytest.fixture(scope="module")
def aligned(orl: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Difficult photographs aligned with RetinaFace; the face table lies beside it."""
    root = tmp_path_factory.mktemp("steps")
    small, large, edge = (photograph_of(orl, person, 1) for person in (5, 6, 7))
    difficult = {
        "ann/three.png": on_canvas((600, 300), (small, 10, 90, 1), (large, 220, 30, 1.7), (edge, 500, 90, 1)),
        "ann/landscape.png": landscape(),
        "ann/noise.png": np.random.default_rng(3).integers(0, 256, (240, 240, 3), dtype=np.uint8),
        "ann/drawing.png": drawing(),
        "ann/one pixel.png": np.zeros((1, 1, 3), np.uint8),
        "ann/wide.png": on_canvas((20_000, 40)),
        "lonely/1.png": np.asarray(photograph_of(orl, 9, 1)),
    }
    good = {
        f"{person}/{number}.png": np.asarray(photograph_of(orl, label, number))
        for label, person in enumerate(("ann", "bob", "cyd", "dan", "eve", "fay"), 11)
        for number in (1, 2, 3, 4)
    }
    write_files(root / "in", {name: encode_png(picture) for name, picture in (good | difficult).items()})
    ingest(str(root / "in"), root / "faces")
    align(root / "faces", root / "aligned", AlignOptions(detector="retinaface"))
    return root / "aligned"


@pytest.fixture(scope="module")
def filtered(aligned: Path) -> Path:
    """The filter's verdicts on `aligned`."""
    filter_faces(aligned.with_name("faces"), aligned, aligned.with_name("filter"))
    return aligned.with_name("filter")


def by_source(table: Table) -> dict[str, dict[str, Any]]:
    return {row["source"]: row for group in table.row_groups() for row in group}


def test_photographs_without_a_face_are_rejected(aligned: Path) -> None:
    left = reasons(aligned)
    left.pop("ann/drawing.png", "")
    assert left == dict.fromkeys(("ann/landscape.png", "ann/noise.png", "ann/one pixel.png", "ann/wide.png"), "no_face")


def test_largest_central_face_of_three_is_taken(aligned: Path) -> None:
    row = by_source(Table(aligned, "aligned"))["ann/three.png"]
    x1, y1, x2, y2 = row["det_box"]
    assert 220 <= x1 < x2 <= 220 + 1.7 * 92 and 30 - 5 <= y1 < y2 <= 30 + 1.7 * 112 + 5


def test_drawing_is_rejected_or_judged(aligned: Path, filtered: Path) -> None:
    """Whatever the detector sees in it: it is in one list or the other."""
    table = Table(aligned, "aligned")
    rows = by_source(table)
    assert ("ann/drawing.png" in rows) != (reasons(aligned).get("ann/drawing.png") == "no_face")
    judged = [row["image_id"] for row in rows_of(filtered)]
    assert sorted(judged) == sorted(row["image_id"] for row in rows.values())


def test_person_with_one_photograph_is_excluded(aligned: Path, filtered: Path, tmp_path: Path) -> None:
    split(aligned, filtered, tmp_path / "split", options=SplitOptions(heldout_fraction=0.5))
    rows = rows_of(tmp_path / "split")
    (lonely,) = (row for row in rows if row["identity"] == "lonely")
    assert (lonely["split"], lonely["reason"]) == ("excluded", "fewer than 2 images")
    assert {row["identity"] for row in rows if row["split"] != "excluded"} >= {"bob", "cyd", "dan", "eve", "fay"}
