"""The command line: which commands there are, flags out of signatures and options, help, and how a command ends."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeface import cli
from kubeface.cli import COMMANDS, SCREEN_LINES, Command, main
from kubeface.runtime.processors import MALLOC_SETTINGS
from tests.support.commands import refusal, run_python

ROOT = Path(__file__).parents[2]
EVERY = {name: command for commands in COMMANDS.values() for name, command in commands.items()}
BAKERY = '''
"""Commands of a bakery."""
import os
from pathlib import Path
from typing import Annotated, Literal, Self
from pydantic import Field, model_validator
from kubeface.records.record import StepResult
from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.options import Options
from kubeface.runtime.processors import MALLOC_SETTINGS


class BakeOptions(Options):
    """How bread is baked."""

    heat: Annotated[float, Field(gt=0)] = 230.0
    """Heat of the oven in °C."""
    shape: Literal["round", "long"] = "round"
    """Form of a loaf."""
    salted: bool = True
    """Add salt."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.shape == "long" and self.heat > 250:
            raise ValueError("long loaves burn above 250 °C")
        return self


class Baked(StepResult):
    """What was baked."""

    heat: float
    """Heat."""
    shape: str
    """Form."""
    salted: bool
    """Salt."""
    flour: str
    """Flour."""


def bake(flour: Path, loaves: int, options: BakeOptions = BakeOptions()) -> Baked:
    """Bakes bread, and says a lot about it in its docstring.

    Args:
        flour: Bag of flour.
        loaves: Number of loaves, at least one.
        options: How it is baked.
    """
    if loaves < 1:
        raise KubefaceError(f"loaves is {loaves}: bake at least one")
    return Baked(rows_in=loaves, rows_out=loaves, flour=repr(flour), **options.model_dump())


def tell(*words: str, loud: bool = False) -> str:
    """Tells words.

    Args:
        words: Any words.
        loud: Louder.
    """
    return " ".join(words).upper() if loud else " ".join(words)


def environment() -> str:
    """The variables that a heavy command needs, as the process has them."""
    return " ".join(os.environ.get(name, "-") for name in [*MALLOC_SETTINGS, "OMP_NUM_THREADS"])
'''


@pytest.fixture
def bakery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of commands that have nothing to do with faces, in place of those of kubeface."""
    (tmp_path / "bakery.py").write_text(BAKERY)
    (tmp_path / "lame.py").write_text("import flour_that_nobody_sells\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("COLUMNS", "100")
    commands = {
        "Bread": {"bake": Command("bakery:bake", "Bake bread."), "tell": Command("bakery:tell", "Tell words.")},
        "Air": {
            "lame": Command("lame:lame", "Go lame."),
            "elsewhere": Command("kubeface.no_such_step.step:run", "Be elsewhere."),
        },
    }
    monkeypatch.setattr(cli, "COMMANDS", commands)
    yield tmp_path
    sys.modules.pop("bakery", None)


def test_a_record_is_printed_as_json_with_the_seconds(bakery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bake", "bags/rye", "3"])
    figures = json.loads(capsys.readouterr().out)
    assert figures.pop("seconds") >= 0
    assert figures == {
        "rows_in": 3,
        "rows_out": 3,
        "flour": "PosixPath('bags/rye')",
        "heat": 230.0,
        "shape": "round",
        "salted": True,
    }


def test_parameters_are_places_or_flags_and_options_are_flags(bakery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bake", "--loaves=2", "--flour", "a bag", "--heat", "99.5", "--shape=long", "--no-salted"])
    figures = json.loads(capsys.readouterr().out)
    assert (figures["heat"], figures["shape"], figures["salted"]) == (99.5, "long", False)
    assert figures["flour"] == "PosixPath('a bag')"
    assert "unused" in refusal(capsys, "bake", "a", "2", "99.5", code=2).lower()  # options have no place


def test_a_text_is_printed_as_it_is(bakery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tell", "two words", "--loud"])
    assert capsys.readouterr().out == "TWO WORDS\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bak", "a"), "error: there is no command 'bak', did you mean bake?"),
        (("zzz",), "error: there is no command 'zzz': see kubeface --help"),
        (("bake", "a", "1", "--haet", "3"), "error: bake: Unknown option: --haet. Did you mean --heat?"),
        (("bake", "a"), "error: bake: Parameter --loaves requires an argument"),
        (("bake", "a", "many"), 'error: bake: Invalid value for LOAVES: unable to convert "many" into int'),
        (("bake", "a", "1", "--heat", "0"), "error: bake: heat is '0': input should be greater than 0"),
        (("bake", "a", "1", "--shape", "square"), "error: bake: shape is 'square': input should be 'round' or 'long'"),
        (("bake", "a", "1", "--shape", "long", "--heat", "300"), "error: bake: long loaves burn above 250 °C"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    bakery: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, *arguments, code=2).startswith(said)
    assert (bakery / "log").read_text().startswith(said.removeprefix("error: "))


def test_an_error_of_the_command_is_one_line_and_the_last_words(
    bakery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, "bake", "a", "0") == "error: loaves is 0: bake at least one"
    assert (bakery / "log").read_text() == "loaves is 0: bake at least one\n"


def test_what_is_not_installed_is_said(bakery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "lame") == (
        "error: this command needs the package flour_that_nobody_sells, which is not installed here: see the extras of "
        "kubeface"
    )
    assert refusal(capsys, "elsewhere") == (
        "error: kubeface.no_such_step is not in this image, which carries one step: use the image of that step, or an "
        "installation of kubeface"
    )


def test_of_several_processes_the_first_prints(
    bakery: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, printed in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        main(["bake", "rye", "1"])
        assert bool(capsys.readouterr().out) == printed


def test_help_of_a_command(bakery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bake", "--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines == [
        "kubeface bake [OPTIONS] FLOUR LOAVES",
        "Bake bread.",
        "FLOUR, --flour                Bag of flour. [required]",
        "LOAVES, --loaves              Number of loaves, at least one. [required]",
        "--heat FLOAT                  Heat of the oven in °C. [230.0]",
        "--shape round|long            Form of a loaf. [round]",
        "--salted, --no-salted         Add salt. [True]",
    ]


def test_help_that_does_not_fit_on_a_screen_has_a_line_for_each_parameter() -> None:
    rows = [(f"--flag-{number}", "word " * 40, " [3]") for number in range(30)]
    lines = cli._fitting(rows, 100)
    assert len(lines) == len(rows) <= SCREEN_LINES
    assert all(len(line) <= 100 and line.endswith("… [3]") for line in lines)
    assert len(cli._fitting(rows[:5], 100)) == 5 * 4  # where they fit, they are whole


def test_help_of_more_parameters_than_a_screen_has_lines_names_them() -> None:
    rows = [
        ("FACES, --faces", "A table.", " [required]"),
        *((f"--flag-{n} INT", "word " * 40, " [3]") for n in range(90)),
    ]
    lines = cli._fitting(rows, 100)
    assert len(lines) <= SCREEN_LINES and max(map(len, lines)) <= 100
    assert lines[0].split() == ["FACES,", "--faces", "A", "table.", "[required]"]
    assert all(f"--flag-{n} INT [3]" in " ".join(lines) for n in range(90))
    assert lines[-1] == "  --help WORD describes those with WORD."


def test_help_about_a_word(bakery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bake", "--help", "oven"])
    assert capsys.readouterr().out.splitlines()[-1] == "  --heat FLOAT                  Heat of the oven in °C. [230.0]"
    main(["bake", "--help", "yeast"])
    assert capsys.readouterr().out.splitlines()[-1] == "no parameter has 'yeast' in its name or description"


def test_the_help_lists_every_command_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert [line[:-1] for line in lines if line.endswith(":")] == list(COMMANDS)
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(EVERY)
    assert max(map(len, lines)) <= 100
    main(["--help"])
    assert capsys.readouterr().out == text


def test_the_help_imports_next_to_nothing() -> None:
    """That is what makes it quick: under 0.3 s where the machine has nothing else to do."""
    program = "import sys; from kubeface.cli import main; main(['--help']); print(*sys.modules)"
    modules = set(run_python(program).splitlines()[-1].split())
    assert "kubeface.cli" in modules
    assert not modules & {"torch", "numpy", "cv2", "kfp", "pyarrow", "minio", "cyclopts", "rich", "kubernetes"}


@pytest.mark.parametrize("name", EVERY)
def test_each_command_is_there_and_its_help_fits_on_a_screen(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    main([name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"kubeface {name}") and EVERY[name].help in lines
    assert len(lines) <= SCREEN_LINES + 5
    described = [line for line in lines[3:] if line.strip()]
    assert not [line for line in described if line.endswith("-- ")]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, without the settings of the allocator."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in MALLOC_SETTINGS} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_heavy_command_gets_the_allocators_settings(bakery: Path) -> None:
    (bakery / "kubeface_of_the_bakery.py").write_text(
        "from kubeface import cli\n"
        "heavy = cli.Command('bakery:environment', 'Look around.', heavy=True)\n"
        "cli.COMMANDS = {'Bread': {'environment': heavy}}\n"
        "cli.main()\n"
    )
    done = run(
        "-m", "kubeface_of_the_bakery", "environment", PYTHONPATH=f"{bakery}{os.pathsep}{ROOT}", OMP_NUM_THREADS="3"
    )
    assert done.stdout.split() == [*MALLOC_SETTINGS.values(), "3"], done.stderr


@pytest.mark.slow
def test_the_real_align(faces_table: Path, tmp_path: Path) -> None:
    tables = ("-m", "kubeface", "align", str(faces_table), str(tmp_path / "a folder"))
    done = run(*tables, "--min-face-size", "0", TERMINATION_LOG=str(tmp_path / "log"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: align: min_face_size is '0': input should be greater than or equal to 1\n"
    assert (tmp_path / "log").read_text() == done.stderr.removeprefix("error: ")
    done = run(*tables, "--detector", "none", "--template", "whole_224")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["rows_in"] == figures["rows_out"] == 30
    assert (tmp_path / "a folder" / "manifest.json").is_file()
