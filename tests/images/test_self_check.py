"""The self-check, in this environment instead of an image: it does the work, and notices where that fails."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kubeface.cli import main
from kubeface.runtime.errors import KubefaceError
from kubeface.self_check import self_check
from tests.support.commands import refusal

STEPS = ["ingest", "superresolve", "align", "filter", "gather", "audit", "split", "finetune", "evaluate"]


@pytest.mark.parametrize("step", STEPS)
def test_each_step_passes_on_one_real_face(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["self-check", step])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"ok: {step}: ")


def test_a_picture_without_a_face_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So what passes is what finds the face, not what merely ends."""
    Image.fromarray(np.full((112, 92), 128, np.uint8)).save(tmp_path / "grey.pgm")
    monkeypatch.setenv("KUBEFACE_FACE", str(tmp_path / "grey.pgm"))
    with pytest.raises(KubefaceError, match=r"the face was rejected|no image|none"):
        self_check("filter")


def test_a_step_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "self-check", "alig")
    assert line == "error: there is no step 'alig' in this image or installation"
