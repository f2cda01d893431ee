"""Champion and challenger: one wins, whole, and the way back."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeface.cli import main
from kubeface.promote.champion import Rollback, find_champion, list_versions, read_champion, rollback
from kubeface.promote.options import PromoteOptions
from kubeface.promote.passport import verify
from kubeface.promote.step import promote
from kubeface.records.champion import ChampionRecord, Change
from kubeface.runtime.errors import KubefaceError
from kubeface.storage import objects
from pipelines.local.store import local_store
from tests.support.commands import refusal
from tests.support.faulty_store import BUCKET, in_force
from tests.support.promoted_models import make


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket in a real store that the environment describes."""
    with local_store(BUCKET) as environment, in_force(environment) as bucket:
        yield f"s3://{bucket}"


def published(models: str) -> PromoteOptions:
    return PromoteOptions(name="face", destination=models)


def challenge(folder: Path, models: str, weights: str, champion: str = "") -> dict[str, Any]:
    """Promotes a model with these weights; returns promotion.json."""
    model, evaluation = make(folder / weights, better=True, weights=weights.encode())
    figures = promote(model, evaluation, folder / weights / "out", options=published(models), champion=champion)
    promotion = json.loads((folder / weights / "out" / "promotion.json").read_text("utf-8"))
    assert figures.promoted == promotion["promoted"]
    return dict(promotion)


def history(models: str) -> list[tuple[int, str, str]]:
    champion = read_champion(f"{models}/face").record
    assert champion.number == len(champion.history)
    return [(change.number, change.version, change.action) for change in champion.history]


def test_there_is_no_champion_in_the_beginning(tmp_path: Path) -> None:
    assert find_champion(str(tmp_path), "face") == ""
    with pytest.raises(KubefaceError, match="face has no champion: there is nothing to roll back"):
        rollback(str(tmp_path), "face")


def test_a_challenger_that_was_compared_with_the_champion_takes_its_place(tmp_path: Path) -> None:
    models = str(tmp_path / "models")
    first = challenge(tmp_path, models, "one")
    assert find_champion(f"{models}/", "face") == first["uri"]
    second = challenge(tmp_path, models, "two", champion=first["uri"])
    assert second["promoted"] and second["champion"] == first["uri"] and second["lost_to"] is None
    assert find_champion(models, "face") == second["uri"]
    assert history(models) == [(1, first["version"], "promoted"), (2, second["version"], "promoted")]
    two, again = tmp_path / "two", tmp_path / "two" / "again"  # the step is run again after its outcome got lost
    promote(two / "model", two / "evaluation", again, options=published(models), champion=first["uri"])
    assert (again / "promotion.json").read_bytes() == (tmp_path / "two/out/promotion.json").read_bytes()
    assert len(history(models)) == 2


@pytest.mark.parametrize("compared", ["", "one"])
def test_a_challenger_of_another_one_loses(tmp_path: Path, compared: str, capsys: pytest.CaptureFixture[str]) -> None:
    models = str(tmp_path / "models")
    uris = {"": "", "one": challenge(tmp_path, models, "one")["uri"]}
    winner = challenge(tmp_path, models, "two", champion=uris["one"])
    before = {path: path.read_bytes() for path in (tmp_path / "models").rglob("*") if path.is_file()}
    loser = challenge(tmp_path, models, "three", champion=uris[compared])
    assert loser["promoted"] is False and loser["uri"] is None and loser["version"] is None
    assert loser["lost_to"] == loser["champion"] == winner["uri"]
    assert loser["reason"].startswith(f"{winner['uri']} is the champion, which this model was not compared with")
    assert "not promoted: " + loser["reason"] in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "models").rglob("*") if path.is_file()} == before


def test_a_champion_that_was_removed_is_nobody_to_lose_to(tmp_path: Path) -> None:
    assert challenge(tmp_path, str(tmp_path / "models"), "one", champion="s3://bucket/models/face/gone")["promoted"]


def contend(folder: str, models: str, weights: str, start: Any) -> dict[str, Any]:
    """A challenger in a process of its own; all begin at the same moment."""
    start.wait()
    return challenge(Path(folder), models, weights)


@pytest.mark.parametrize("round_", range(4))
def test_of_processes_that_promote_at_the_same_time_one_wins(tmp_path: Path, round_: int) -> None:
    models, context = str(tmp_path / "models"), get_context("fork")
    with context.Manager() as manager, context.Pool(4) as pool:
        start = manager.Barrier(4)
        arguments = [(str(tmp_path), models, f"{round_}-{number}", start) for number in range(4)]
        promotions = pool.starmap(contend, arguments, chunksize=1)
    check_one_winner(models, promotions)


def test_of_several_that_promote_to_a_store_at_the_same_time_one_wins(tmp_path: Path, bucket: str) -> None:
    champion = ""
    for round_ in range(3):
        names = [f"{round_}-{number}" for number in range(4)]
        with ThreadPoolExecutor(4) as pool:
            tasks = [pool.submit(challenge, tmp_path, f"{bucket}/race", name, champion) for name in names]
        promotions = [task.result() for task in tasks]
        champion = check_one_winner(f"{bucket}/race", promotions)
        assert len(history(f"{bucket}/race")) == round_ + 1


def check_one_winner(models: str, promotions: list[dict[str, Any]]) -> str:
    (winner,) = (promotion for promotion in promotions if promotion["promoted"])
    assert find_champion(models, "face") == winner["uri"]
    assert verify(winner["uri"]).whole
    for promotion in promotions:
        if promotion is not winner:
            assert promotion["lost_to"] == winner["uri"] and promotion["uri"] is None
    return str(winner["uri"])


def test_rolling_back_goes_to_the_version_before_each_time(tmp_path: Path) -> None:
    models = str(tmp_path / "models")
    one = challenge(tmp_path, models, "one")
    two = challenge(tmp_path, models, "two", champion=one["uri"])
    three = challenge(tmp_path, models, "three", champion=two["uri"])
    back = Rollback(version=two["version"], uri=two["uri"], number=4, rolled_back=three["version"])
    assert rollback(models, "face") == back
    assert find_champion(models, "face") == two["uri"]
    assert rollback(models, "face").version == one["version"]
    with pytest.raises(KubefaceError, match=f"{one['version']} is the first champion .*--to"):
        rollback(models, "face")
    assert rollback(models, "face", to=three["version"]).version == three["version"]
    assert rollback(models, "face").version == one["version"]
    assert [action for _, _, action in history(models)] == ["promoted"] * 3 + ["rolled back"] * 4
    assert read_champion(f"{models}/face").record.history[3].reason == f"rolled back from {three['version']}"
    for promotion in (one, two, three):
        assert verify(promotion["uri"]).whole


def test_rolling_back_works_in_a_store(tmp_path: Path, bucket: str) -> None:
    one = challenge(tmp_path, f"{bucket}/back", "one")
    two = challenge(tmp_path, f"{bucket}/back", "two", champion=one["uri"])
    assert rollback(f"{bucket}/back", "face").rolled_back == two["version"]
    listed = list_versions(f"{bucket}/back", "face")
    assert listed.champion == find_champion(f"{bucket}/back", "face") == one["uri"]
    assert [entry.numbers for entry in listed.versions] == [[1, 3], [2]]


def test_rolling_back_to_what_is_not_whole_is_refused(tmp_path: Path) -> None:
    models = str(tmp_path / "models")
    one = challenge(tmp_path, models, "one")
    two = challenge(tmp_path, models, "two", champion=one["uri"])
    weights = Path(one["uri"], "model.safetensors")
    weights.write_bytes(b"other")
    with pytest.raises(KubefaceError, match=r"cannot be the champion: model\.safetensors has SHA-256 "):
        rollback(models, "face")
    weights.unlink()
    with pytest.raises(KubefaceError, match=r"cannot be the champion: model\.safetensors is missing"):
        rollback(models, "face", to=one["version"])
    for version, message in (
        ("nobody", r"cannot be the champion: passport\.json is missing"),
        ("../x", "is no version"),
        (two["version"], "is the champion of .* already"),
    ):
        with pytest.raises(KubefaceError, match=message):
            rollback(models, "face", to=version)
    assert find_champion(models, "face") == two["uri"] and len(history(models)) == 2


def test_a_rollback_that_somebody_else_came_before_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = str(tmp_path / "models")
    one = challenge(tmp_path, models, "one")
    challenge(tmp_path, models, "two", champion=one["uri"])
    monkeypatch.setattr(objects, "replace", lambda *_: False)
    with pytest.raises(KubefaceError, match="changed meanwhile: look at kubeface versions and start again"):
        rollback(models, "face")


def test_the_list_names_the_champion_and_the_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = str(tmp_path / "models")
    with pytest.raises(KubefaceError, match="not a folder"):
        list_versions(models, "face")
    one = challenge(tmp_path, models, "one")
    two = challenge(tmp_path, models, "two", champion=one["uri"])
    (tmp_path / "models/face/half").mkdir()
    (tmp_path / "models/face/half/model.safetensors").write_text("")
    capsys.readouterr()
    listed = list_versions(models, "face")
    assert listed.champion == two["uri"]
    assert [(e.version, e.champion, e.numbers) for e in listed.versions] == [
        (one["version"], False, [1]),
        (two["version"], True, [2]),
    ]
    assert capsys.readouterr().out.splitlines() == [
        f"  {one['version']}  better on 13 held-out people: AUC",
        f"* {two['version']}  better on 13 held-out people: AUC",
    ]


def test_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--destination", str(tmp_path / "models"), "--name", "face"]
    model, evaluation = make(tmp_path, better=True)
    main(["promote", "--model", str(model), "--evaluation", str(evaluation), "--out", str(tmp_path / "out"), *models])
    uri = find_champion(models[1], "face")
    assert f"promote: promoted to {uri}" in capsys.readouterr().out
    for command, said in ((["versions", *models], f'"champion": "{uri}"'), (["verify", uri], '"whole": true')):
        main(command)
        assert said in capsys.readouterr().out
    assert "is the first champion" in refusal(capsys, "rollback", *models)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", r"champion\.json: Invalid JSON"), ('{"number": "x"}', r"champion\.json: number: .*remove it")],
)
def test_a_broken_champion_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "face").mkdir()
    (tmp_path / "face" / "champion.json").write_text(text)
    with pytest.raises(KubefaceError, match=message):
        find_champion(str(tmp_path), "face")


@given(st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=12))
def test_before_is_what_a_stack_of_promotions_says(moves: list[int | None]) -> None:
    stack: list[str] = []
    changes: list[Change] = []
    for number, move in enumerate(moves):
        if move is not None:
            stack.append(f"v{number}")
            changes.append(Change(number=number, version=stack[-1], action="promoted", reason=""))
        elif len(stack) > 1:
            stack.pop()
            changes.append(Change(number=number, version=stack[-1], action="rolled back", reason=""))
    champion = ChampionRecord(history=tuple(changes))
    assert champion.before() == (stack[-2] if len(stack) > 1 else "")
