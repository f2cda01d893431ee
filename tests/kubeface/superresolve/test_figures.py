"""The sample sheet of a super-resolution training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from kubeface.superresolve.figures import SampleFace, draw_samples


def test_the_sample_sheet_labels_its_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def kept(self: Figure, *arguments: Any, **more: Any) -> None:
        drawn.append(self)
        save(self, *arguments, **more)

    monkeypatch.setattr(Figure, "savefig", kept)
    grey = np.full((112, 112, 3), 128, np.uint8)
    face = SampleFace(np.zeros((14, 14, 3), np.uint8), grey, grey, grey, bicubic_identity=0.25, network_identity=0.5)
    draw_samples([face, face], tmp_path / "samples.png")
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == ["low resolution", "bicubic", "network", "sharp", "", "", "", ""]
    under = [axes.get_xlabel() for axes in drawn[0].axes]
    assert under == 2 * ["14×14", "identity 0.25", "identity 0.50", "112×112"]
    assert (tmp_path / "samples.png").stat().st_size > 1000
