"""The self-check, in this environment instead of an image: it does the work, and notices where that fails."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kubeface.cli import main
from kubeface.runtime.errors import KubefaceError
from kubeface.self_check import self_check

STEPS = ["ingest", "superresolve", "align", "filter", "gather", "audit", "split", "finetune", "evaluate"]


@pytest.mark.parametrize("step", STEPS)
def test_each_step_passes_on_one_real_face(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert self_check(step).startswith(f"ok: {step}: ")


def test_the_command_line_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["self-check", "gather"])
    assert capsys.readouterr().out == "ok: gather: kubeface.gather.step loads, 12 rows with a face written and read\n"


def test_a_picture_without_a_face_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So what passes is what finds the face, not what merely ends."""
    Image.fromarray(np.full((112, 92), 128, np.uint8)).save(tmp_path / "grey.pgm")
    monkeypatch.setenv("KUBEFACE_FACE", str(tmp_path / "grey.pgm"))
    with pytest.raises(KubefaceError, match=r"the face was rejected|no image|none"):
        self_check("filter")


def test_a_step_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["self-check", "alig"])
    assert raised.value.code == 1
    assert capsys.readouterr().err == "error: there is no step 'alig' in this image or installation\n"
