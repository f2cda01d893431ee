"""Command lines: flags out of a step's signature, and how they end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.faces.cli import main, parser_of
from components.faces.errors import KubefaceError
from components.faces.runtime import MALLOC_SETTINGS

ROOT = Path(__file__).parents[3]


def bake(
    flour: Path,
    loaves: int,
    oven_heat: float = 230.0,
    salted: bool = True,
    crust: str = "",
    shape: str = "round",
) -> dict[str, Any]:
    """Bakes bread.

    Long words about bread.

    Args:
        flour: Bag of flour.
        loaves: Number of loaves,
            at least one.
        oven_heat: Heat in °C, 100 % of it.
        salted: Add salt.
        crust: Kind of crust.
        shape: Form of a loaf.

    Returns:
        everything.
    """
    if loaves < 1:
        raise KubefaceError(f"loaves is {loaves}: bake at least one")
    return {"flour": repr(flour), "loaves": loaves, "heat": oven_heat, "salted": salted, "crust": crust, "shape": shape}


def eat(bread: Path) -> dict[str, Any]:
    """Eats bread.

    Args:
        bread: What to eat.
    """
    return {"eaten": str(bread)}


def output(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    return figures


def test_flags_have_the_types_and_defaults_of_the_signature(capsys: pytest.CaptureFixture[str]) -> None:
    main(bake, ["--flour", "bags/rye", "--loaves", "3"])
    figures = output(capsys)
    assert figures.pop("seconds") >= 0
    assert figures == {
        "flour": "PosixPath('bags/rye')",
        "loaves": 3,
        "heat": 230.0,
        "salted": True,
        "crust": "",
        "shape": "round",
    }
    main(bake, ["--flour=a", "--loaves=1", "--oven-heat=99.5", "--no-salted", "--crust=thick one", "--shape=long"])
    figures = output(capsys)
    assert (figures["heat"], figures["salted"], figures["crust"], figures["shape"]) == (
        99.5,
        False,
        "thick one",
        "long",
    )


def test_help_says_what_the_docstring_says(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as raised:
        main(bake, ["--help"])
    assert raised.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Bakes bread." in text
    assert "--loaves LOAVES Number of loaves, at least one." in text
    assert "--oven-heat OVEN_HEAT Heat in °C, 100 % of it. (230.0)" in text
    assert "--salted, --no-salted Add salt. (True)" in text
    assert "Kind of crust." in text
    assert "Kind of crust. ()" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--loaves", "3"], "required: --flour"),
        (["--flour", "a"], "required: --loaves"),
        (["--flour", "a", "--loaves", "many"], "argument --loaves: invalid int value: 'many'"),
        (["--flour", "a", "--loaves", "1", "--yeast", "2"], "unrecognized arguments: --yeast"),
    ],
)
def test_wrong_flags_end_with_2_and_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(bake, arguments)
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


def test_an_error_of_the_step_ends_with_1_and_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "log"))
    with pytest.raises(SystemExit) as raised:
        main(bake, ["--flour", "a", "--loaves", "0"])
    assert raised.value.code == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: loaves is 0: bake at least one\n")


def test_several_steps_become_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    steps = {"bake": bake, "eat": eat}
    main(steps, ["eat", "--bread", "rye"])
    assert output(capsys)["eaten"] == "rye"
    main(steps, ["bake", "--flour", "a", "--loaves", "2"])
    assert output(capsys)["loaves"] == 2
    for arguments in ([], ["sleep"], ["eat"]):
        with pytest.raises(SystemExit) as raised:
            main(steps, arguments)
        assert raised.value.code == 2
    assert "Eats bread." in parser_of(steps).format_help()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in MALLOC_SETTINGS} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_real_command_refuses_wrong_settings_in_one_line(tmp_path: Path) -> None:
    done = run(
        *("components.split", "--aligned", str(tmp_path / "aligned"), "--filtered", str(tmp_path / "filtered")),
        *("--out", str(tmp_path / "out"), "--heldout-fraction", "2"),
        TERMINATION_LOG=str(tmp_path / "log"),
    )
    line = "heldout_fraction is 2.0: it must lie in 0 to less than 1"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {line}\n")
    assert (tmp_path / "log").read_text() == f"{line}\n"
    assert not (tmp_path / "out").exists()


def test_the_real_command_prints_figures_as_json(aligned_table: Path, filter_table: Path, tmp_path: Path) -> None:
    done = run(
        *("components.split", "--aligned", str(aligned_table), "--filtered", str(filter_table)),
        *("--out", str(tmp_path / "a folder"), "--heldout-fraction", "0"),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["rows_in"] == figures["train"] + figures["val"] + figures["rejected"] == 30
    assert (tmp_path / "a folder" / "manifest.json").is_file()


STEP = '''
import os
from components.faces.cli import main

def look(word: str) -> dict:
    """Looks around.

    Args:
        word: Any word.
    """
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "OMP_NUM_THREADS")
    return {"word": word, "pid": os.getpid(), **{name: os.environ.get(name) for name in names}}

if __name__ == "__main__":
    main(look)
'''


def test_the_allocator_is_set_before_the_step_runs(tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text(STEP)
    done = run("look", "--word", "two words", PYTHONPATH=f"{tmp_path}:{ROOT}", OMP_NUM_THREADS="5")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["word"] == "two words"
    assert {name: figures[name] for name in MALLOC_SETTINGS} == MALLOC_SETTINGS
    assert figures["OMP_NUM_THREADS"] == "5"
