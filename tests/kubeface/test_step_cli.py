"""Command lines: flags out of a step's signature, and how they end."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from kubeface.runtime.errors import KubefaceError
from kubeface.runtime.processors import MALLOC_SETTINGS
from kubeface.step_cli import Later, main, parser_of

ROOT = Path(__file__).parents[2]


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


def weigh(flour: Path, loaves: int, /, scale: str = "kitchen", limit: float | None = None) -> dict[str, Any]:
    """Weighs bread.

    Args:
        flour: Bag of flour.
        loaves: Number of loaves.
        scale: Which scale.
        limit: Most kilograms.
    """
    return {"flour": repr(flour), "loaves": loaves, "scale": scale, "limit": limit}


def test_parameters_before_a_slash_are_arguments_without_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    main({"weigh": weigh, "eat": eat}, ["weigh", "bags/rye", "--limit", "2.5", "3"])
    figures = output(capsys)
    assert figures.pop("seconds") >= 0
    assert figures == {"flour": "PosixPath('bags/rye')", "loaves": 3, "scale": "kitchen", "limit": 2.5}
    main(weigh, ["a", "1"])
    assert output(capsys)["limit"] is None
    for arguments, said in ((["a"], "required: LOAVES"), (["a", "x"], "argument LOAVES: invalid int value: 'x'")):
        with pytest.raises(SystemExit) as raised:
            main(weigh, arguments)
        assert raised.value.code == 2
        assert said in capsys.readouterr().err
    text = " ".join(parser_of(weigh).format_help().split())
    assert "FLOUR LOAVES" in text
    assert "LOAVES Number of loaves." in text


def slice_up(loaves: Sequence[str], /, knife: str, plan: dict[str, Any] = {}) -> dict[str, Any]:  # noqa: B006
    """Slices bread.

    Args:
        loaves: Loaves.
        knife: Which knife.
        plan: How many slices of each kind.
    """
    return {"loaves": loaves, "knife": knife, "plan": plan}


def test_a_sequence_before_a_slash_is_several_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["rye"], ["rye", "a white one", "oat"]):
        main({"slice": slice_up, "eat": eat}, ["slice", *given, "--knife", "long"])
        figures = output(capsys)
        assert (figures["loaves"], figures["knife"], figures["plan"]) == (given, "long", {})
    with pytest.raises(SystemExit) as raised:
        main(slice_up, ["--knife", "long"])
    assert raised.value.code == 2
    assert "required: LOAVES" in capsys.readouterr().err


def test_a_dictionary_without_a_model_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(slice_up, ["rye", "--knife", "long", "--plan", '{"thin": 3}'])
    assert output(capsys)["plan"] == {"thin": 3}
    for text in ("thin", "[3]"):
        with pytest.raises(SystemExit) as raised:
            main(slice_up, ["rye", "--knife", "long", "--plan", text])
        assert raised.value.code == 2
        assert f"argument --plan: invalid JSON object value: '{text}'" in capsys.readouterr().err


def taste(breads: Sequence[str], /, guests: int = 1) -> dict[str, Any]:
    """Tastes bread.

    Args:
        breads: What to taste.
        guests: Number of guests.
    """
    return {"breads": list(breads), "guests": guests}


def test_a_sequence_before_a_slash_takes_one_or_more(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, breads in ((["rye"], ["rye"]), (["rye", "oat", "spelt"], ["rye", "oat", "spelt"])):
        main(taste, [*arguments, "--guests", "2"])
        figures = output(capsys)
        assert (figures["breads"], figures["guests"]) == (breads, 2)
    with pytest.raises(SystemExit) as raised:
        main(taste, ["--guests", "2"])
    assert raised.value.code == 2
    assert "required: BREADS" in capsys.readouterr().err
    assert "BREADS [BREADS ...]" in parser_of(taste).format_help()


def order(
    prices: dict[str, float],
    loaves: list[str] | None = None,
    wishes: dict[str, Any] = {},  # noqa: B006 - read only
) -> dict[str, Any]:
    """Orders bread.

    Args:
        prices: By loaf.
        loaves: Which.
        wishes: What else.
    """
    return {"prices": prices, "loaves": loaves, "wishes": wishes}


def test_dictionaries_and_lists_are_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    main(order, ["--prices", '{"rye": 2.5}', "--loaves", '["rye", "oat"]', "--wishes", '{"cut": true}'])
    figures = output(capsys)
    assert figures.pop("seconds") >= 0
    assert figures == {"prices": {"rye": 2.5}, "loaves": ["rye", "oat"], "wishes": {"cut": True}}
    main(order, ["--prices", "{}"])
    figures = output(capsys)
    assert (figures["prices"], figures["loaves"], figures["wishes"]) == ({}, None, {})
    for given, said in (
        (["--prices", "rye"], "argument --prices: invalid JSON object value: 'rye'"),
        (["--prices", "[1]"], "argument --prices: invalid JSON object value: '[1]'"),
        (["--prices", "{}", "--loaves", "{}"], "argument --loaves: invalid JSON list value: '{}'"),
    ):
        with pytest.raises(SystemExit) as raised:
            main(order, given)
        assert raised.value.code == 2
        assert said in capsys.readouterr().err
    monkeypatch.setenv("COLUMNS", "100")
    assert "--wishes WISHES What else." in " ".join(parser_of(order).format_help().split())


def test_a_later_step_is_imported_only_when_its_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "late_step.py").write_text(
        'def sleep(hours: int) -> dict:\n    """Sleeps.\n\n    Args:\n        hours: How long.\n    """\n'
        '    return {"slept": hours}\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    steps = {"sleep": Later("late_step", "sleep", "Sleeps well."), "eat": eat}
    main(steps, ["eat", "--bread", "rye"])
    assert "Sleeps well." in parser_of(steps).format_help()
    with pytest.raises(SystemExit):
        main(steps, ["dream"])
    assert "late_step" not in sys.modules
    capsys.readouterr()
    main(steps, ["sleep", "--hours", "8"])
    assert output(capsys)["slept"] == 8
    del sys.modules["late_step"]


class Toppings(BaseModel):
    """What goes on a pizza."""

    cheese: str = Field("mozzarella", description="Kind of cheese, 100 % of it.")
    olives: int = Field(3, ge=0, description="Number of olives.")
    hot: bool = Field(False, description="Put chilli on it.")
    where: tuple[float, float] = Field((0.0, 1.0), description="Place of the first olive.")


def pizza(flour: Path, toppings: dict[str, Any] | None = None, salted: bool = True) -> dict[str, Any]:
    """Bakes a pizza.

    Args:
        flour: Bag of flour.
        toppings: What goes on it.
        salted: Add salt.
    """
    if toppings is not None and toppings.get("olives") == "-1":
        raise KubefaceError("olives is -1: give some")
    return {"flour": str(flour), "toppings": toppings, "salted": salted}


MODELS = {"toppings": Toppings}


def test_entries_of_a_model_are_flags_and_only_those_that_are_given_arrive(capsys: pytest.CaptureFixture[str]) -> None:
    main(pizza, ["--flour", "a"], MODELS)
    assert output(capsys)["toppings"] == {}
    main(pizza, ["--flour=a", "--no-salted", "--olives", "7", "--hot", "--where", "0.5", "0.25"], MODELS)
    figures = output(capsys)
    assert (figures["flour"], figures["salted"]) == ("a", False)
    given = {"olives": "7", "hot": True, "where": ["0.5", "0.25"]}
    assert figures["toppings"] == given
    assert Toppings(**figures["toppings"]) == Toppings(olives=7, hot=True, where=(0.5, 0.25))
    main(pizza, ["--flour", "a", "--no-hot"], MODELS)
    assert output(capsys)["toppings"] == {"hot": False}


def test_entries_that_are_not_given_are_those_of_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    class Rule(BaseModel):
        target: str = "this"
        gain: float = 0.0

    def decide(rule: dict[str, Any] = {"target": "that"}) -> dict[str, Any]:  # noqa: B006
        """Decides.

        Args:
            rule: By which.
        """
        return rule

    for flags, rule in (([], {"target": "that"}), (["--gain", "1"], {"target": "that", "gain": "1"}),
                        (["--target", "else"], {"target": "else"})):  # fmt: skip
        main(decide, flags, models={"rule": Rule})
        told = json.loads(capsys.readouterr().out)
        assert {name: told[name] for name in ("target", "gain") if name in told} == rule


def test_a_later_step_may_have_a_model_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    class Plain(Toppings):
        cheese: str = Field("none", description="No cheese.")

    steps = {"fancy": pizza, "plain": Later(__name__, "pizza", "Plain.", {"toppings": Plain})}
    for models in ({"toppings": Toppings}, None):
        if models:
            assert "No cheese. (none)" not in _help(steps, models, "fancy")
        assert "No cheese. (none)" in _help(steps, models, "plain")
        main(steps, ["plain", "--flour", "a", "--olives", "5"], models=models)
        assert output(capsys)["toppings"] == {"olives": "5"}


def _help(steps: Any, models: Any, command: str) -> str:
    """The help on a subcommand."""
    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        said: list[str] = []
        patch.setattr("argparse.ArgumentParser._print_message", lambda parser, text, file=None: said.append(text))
        parser_of(steps, models, command).parse_args([command, "--help"])
    return "".join(said)


def test_help_says_what_the_model_says(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as raised:
        main(pizza, ["--help"], MODELS)
    assert raised.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "toppings: What goes on it." in text
    assert "--cheese CHEESE Kind of cheese, 100 % of it. (mozzarella)" in text
    assert "--hot, --no-hot Put chilli on it. (False)" in text
    assert "--where WHERE WHERE Place of the first olive. ((0.0, 1.0))" in text
    assert "--toppings" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--flour", "a", "--onions", "1"], 2, "unrecognized arguments: --onions"),
        (["--flour", "a", "--where", "1"], 2, "argument --where: expected 2 arguments"),
        (["--flour", "a", "--olives", "-1"], 1, "error: olives is -1: give some"),
    ],
)
def test_wrong_entries(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(pizza, arguments, MODELS)
    assert raised.value.code == code
    assert said in capsys.readouterr().err


def test_of_several_processes_the_first_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, lines in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        main(eat, ["--bread", "rye"])
        assert bool(capsys.readouterr().out) == lines


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in MALLOC_SETTINGS} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


STEP = '''
import os
from kubeface.step_cli import main
from kubeface.runtime.processors import MALLOC_SETTINGS

def look(word: str) -> dict:
    """Looks around.

    Args:
        word: Any word.
    """
    names = [*MALLOC_SETTINGS, "OMP_NUM_THREADS"]
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
