"""The passport: what a version was made of, and that it still is."""

import json
from pathlib import Path
from typing import Any

import pytest

from kubeface.promote.options import PromoteOptions
from kubeface.promote.passport import differences, verify
from kubeface.promote.step import promote
from kubeface.records.gate import Gate
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.folders import sha256_file
from tests.support.promoted_models import FIGURES, make, write_data

SETTINGS = {"fmr": 0.001, "gate": {}, "bootstrap": 100, "seed": 0}


def promoted(folder: Path, **further: Any) -> Path:
    model, evaluation = make(folder, better=True, **further)
    gathered, audited = write_data(folder, marks=["a", "b"], files_left_out=1, rows_checked=2)
    options = PromoteOptions(name="face", destination=str(folder / "models"))
    promote(model, evaluation, folder / "out", gathered, audited, options)
    return Path(json.loads((folder / "out" / "promotion.json").read_text())["uri"])


def test_the_passport_tells_what_a_version_was_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEFACE_IMAGE", "registry/promote@sha256:12")
    measured = {"image": "registry/evaluate@sha256:34", "settings": SETTINGS, "versions": {"scipy": "1.16"}}
    version = promoted(tmp_path, champion={"heldout": FIGURES | {"flip": FIGURES}}, **measured)
    passport = json.loads((version / "passport.json").read_text("utf-8"))
    assert passport["name"] == "face"
    images = {"finetune": None, "evaluate": measured["image"], "promote": "registry/promote@sha256:12"}
    assert passport["images"] == images
    data = {name: sha256_file(tmp_path / name / "data.json") for name in ("gathered", "audited")}
    assert passport["data"] == data | {"aligned": "a1" * 32, "split": "b2" * 32}
    assert passport["seed"] == 4 and passport["erasure_marks"] == 2
    assert passport["settings"]["training"]["lr"] == 0.0001
    assert passport["settings"]["evaluation"] == SETTINGS | {"gate": Gate().model_dump()}
    assert passport["versions"]["finetune"] == {"torch": "2.14.1"}
    assert passport["versions"]["evaluate"] == {"scipy": "1.16"}
    assert passport["versions"]["promote"]["python"].startswith("3.11.")
    assert passport["start"] == {"name": "somewhere#sha256=12ab", "license": "Apache-2.0", "sha256": "c3" * 32}
    assert passport["metrics"]["gate"]["better"] is True
    main = {name: value for name, value in FIGURES.items() if name != "threshold"}
    assert passport["metrics"]["finetuned"]["heldout"] == main
    assert "flip" not in passport["metrics"]["champion"]["heldout"]
    files = {p.name: {"sha256": sha256_file(p), "bytes": p.stat().st_size} for p in version.iterdir()}
    del files["passport.json"]
    assert passport["files"] == files


def test_equal_runs_have_equal_passports(tmp_path: Path) -> None:
    one, two = promoted(tmp_path / "one"), promoted(tmp_path / "two")
    assert one.name == two.name
    assert (one / "passport.json").read_bytes() == (two / "passport.json").read_bytes()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.json", "model_card.md", "metrics.json", "identities.json"]
)
def test_each_changed_file_is_named(tmp_path: Path, name: str) -> None:
    version = promoted(tmp_path)
    assert differences(str(version)) == [] and verify(version.as_uri()).whole
    content = (version / name).read_bytes()
    (version / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(KubefaceError, match=f"is not as it was promoted: {name} has SHA-256 .*, its passport says"):
        verify(str(version))
    (version / name).unlink()
    assert differences(str(version)) == [f"{name} is missing"]


def test_what_has_no_passport_or_a_broken_one_is_said_so(tmp_path: Path) -> None:
    version = promoted(tmp_path)
    (version / "passport.json").unlink()
    with pytest.raises(KubefaceError, match=r"passport\.json is missing"):
        verify(str(version))
    outside = json.dumps({"files": {"../../secret": {"sha256": "0" * 64}}})
    for text in ("{", "[]", '{"files": 3}', '{"files": {"a": {}}}', outside):
        (version / "passport.json").write_text(text)
        with pytest.raises(KubefaceError, match=r"passport\.json is no passport"):
            verify(str(version))
