"""Building and pushing: what is recorded, what is said where it fails. The engine only notes its calls."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from kubeface.cli import main
from kubeface.runtime.errors import KubefaceError
from pipelines.build import images
from pipelines.build.images import Image, all_steps, build, commit, find_engine, push, read_images, revision
from tests.support.commands import refusal

ENGINE = r"""#!/usr/bin/env bash
echo "$@" >> "$CALLS"
case "$1 $2" in
  "image inspect") echo 1000 ;;
  "build "*) [[ "$*" == */"$BROKEN"/* ]] && { echo "STEP 3"; echo "Error: no space left"; exit 125; } ;;
  "push "*) [[ "$*" == *refuses.example* ]] && { echo "Error: unauthorized" >&2; exit 125; }
            while [[ $# -gt 0 ]]; do [[ $1 == --digestfile ]] && printf 'sha256:%064d' 7 > "$2"; shift; done ;;
esac
exit 0
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the calls of a stand-in for podman."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("podman", "docker"):
        (folder / name).write_text(ENGINE)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("BROKEN", "none")
    return tmp_path / "calls"


def test_the_base_is_built_first_and_each_image_is_labelled(calls: Path) -> None:
    built = dict(build(["split", "evaluate"], "podman", "reg.example/team", "abc", lock="requirements-gpu.lock"))
    assert built["split"] == Image(image="reg.example/team/split:abc", size=1000)
    base, split, _, evaluate, _ = calls.read_text().splitlines()
    assert "--tag reg.example/team/base:abc" in base
    assert "--file images/split/Dockerfile" in split
    assert "--build-arg KUBEFACE_BASE=reg.example/team/base:abc" in split
    assert "--build-arg LOCK=requirements-gpu.lock" in evaluate
    assert f"--label org.opencontainers.image.revision={revision('split')}" in split
    assert "--label org.opencontainers.image.title=kubeface split" in split
    assert "BASE_IMAGE" not in base


def test_a_base_image_of_ones_own_reaches_the_base(calls: Path) -> None:
    list(build(["split"], "podman", "r", "t", base_image="python@sha256:1234"))
    assert "--build-arg BASE_IMAGE=python@sha256:1234" in calls.read_text().splitlines()[0]


def test_a_build_that_fails_is_named_and_what_was_built_before_is_recorded(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BROKEN", "split")
    record = tmp_path / "images.json"
    flags = ("--engine", "podman", "--tag", "t", "--step", "ingest split", "--record", record)
    assert refusal(capsys, "images", *flags) == "error: the image of split could not be built Error: no space left"
    assert list(read_images(record)) == ["ingest"]


def test_pushing_records_the_registry_s_digest(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "images.json"
    common = ["--engine", "podman", "--registry", "reg.example/team", "--tag", "t", "--step", "split"]
    for command in ("images", "push"):
        main([command, *common, "--record", str(record)])
    digest = f"sha256:{7:064d}"
    assert json.loads(record.read_text()) == {
        "split": {"image": "reg.example/team/split:t", "digest": digest, "size": 1000}
    }
    assert f"split: reg.example/team/split@{digest}, 0 MB" in capsys.readouterr().out
    line = refusal(capsys, "push", *common[:-1], "align", "--record", record)
    assert "reg.example/team/align:t was not built: run 'make images' first" in line


def test_a_registry_that_refuses_is_named(calls: Path) -> None:
    entry = Image(image="refuses.example/team/split:t", size=1)
    with pytest.raises(KubefaceError, match=r"refuses\.example/team/split:t could not be pushed: .*unauthorized"):
        list(push({"split": entry}, "podman"))


def test_an_image_that_was_not_pushed_has_no_digest() -> None:
    with pytest.raises(KubefaceError, match=r"reg\.example:5000/a/split:t has no digest: push it first"):
        _ = Image(image="reg.example:5000/a/split:t", size=1).pinned
    assert Image(image="reg.example:5000/a/split:t", digest="sha256:1", size=1).pinned == (
        "reg.example:5000/a/split@sha256:1"
    )


def test_a_record_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KubefaceError, match="does not exist: run 'make images' first"):
        read_images(tmp_path / "images.json")
    (tmp_path / "images.json").write_text('{"split": {"image": "a:b"}}')
    with pytest.raises(KubefaceError, match=r"images\.json: split\.size is not what 'make images' writes"):
        read_images(tmp_path / "images.json")


def test_engines(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_engine() == "docker"
    assert find_engine("podman") == "podman"
    with pytest.raises(KubefaceError, match="no container engine: nerdctl is not installed"):
        find_engine("nerdctl")
    (calls.parent / "bin" / "docker").write_text("#!/bin/sh\necho 'ERROR: Cannot connect to the daemon' >&2\n")
    assert find_engine() == "podman"
    with pytest.raises(KubefaceError, match="docker: ERROR: Cannot connect to the daemon"):
        find_engine("docker")


def test_unknown_steps_are_refused_before_anything_is_built(calls: Path) -> None:
    with pytest.raises(KubefaceError, match=r"there is no image of 'alig': use one of align, audit"):
        list(build(["alig"], "podman", "r", "t"))
    assert not calls.exists()
    assert "base" not in all_steps()


def test_the_revision_is_that_of_what_is_in_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the documentation changes the commit, but neither the label nor with it the digest of any image."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(images, "ROOT", tmp_path)
    files = {f"images/{step}/Dockerfile": f"COPY kubeface/{step} kubeface/{step}" for step in ("split", "align")}
    files |= dict.fromkeys(("kubeface/split/step.py", "kubeface/align/step.py", "README.md"), "1")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "1")
    first = git("rev-parse", "HEAD")
    assert (revision("split"), commit()) == (first, first[:12])
    (tmp_path / "README.md").write_text("2")
    (tmp_path / "kubeface/align/step.py").write_text("2")
    assert (revision("split"), revision("align")) == (first, f"{first}-dirty")
    assert commit() == f"{first[:12]}-dirty"
    git("commit", "-qam", "2")
    assert revision("split") == first
    assert revision("align") == git("rev-parse", "HEAD") != first
