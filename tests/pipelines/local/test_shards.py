"""The loop over shards as kfp.local runs it: only what changed is done again, and a shard that fails is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl, local

from components.align.component import align
from components.filter.component import filter_faces
from components.gather.component import gather
from components.ingest.component import ingest
from kubeface.ingest.catalogue import shard_number

COUNT = 4


@dsl.component(base_image="none")
def listed(source: str, num_shards: int, options: dict[str, Any]) -> list[str]:
    """The shards, as plan gives them."""
    from kubeface.ingest.options import IngestOptions
    from kubeface.ingest.step import plan_shards

    return list(plan_shards(source, num_shards, IngestOptions(**options)).shards)


@dsl.pipeline(name="shards")
def shards(source: str, num_shards: int, forget: str = "", previous: str = "") -> None:
    """What face_finetuning does up to gather."""
    planned = listed(source=source, num_shards=num_shards, options={"forget": forget})
    planned.set_caching_options(False)
    with dsl.ParallelFor(planned.output, parallelism=2) as shard:
        ingested = ingest(source=source, shard=shard, options={})
        aligned = align(faces=ingested.outputs["faces"], shard=shard, options={"detector": "retinaface"})
        filtered = filter_faces(
            faces=ingested.outputs["faces"], aligned=aligned.outputs["aligned"], shard=shard, options={}
        )
        for task in (ingested, aligned, filtered):
            task.set_caching_options(True)
    gathered = gather(
        ingested=dsl.Collected(ingested.outputs["Output"]),
        aligned=dsl.Collected(aligned.outputs["Output"]),
        filtered=dsl.Collected(filtered.outputs["Output"]),
        options={"forget": forget, "previous": previous},
    )
    gathered.set_caching_options(False)


class Runs:
    """Runs one after the other that share a cache."""

    def __init__(self, root: Path) -> None:
        self.root, self.number = root, 0

    def __call__(self, source: Path, **arguments: str) -> Path:
        """The folder of the run's outputs."""
        self.number += 1
        folder = self.root / f"run{self.number}"
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(folder),
            enable_caching=True,
            cache_root=str(self.root / "cache"),
        )
        shards(source=str(source), num_shards=COUNT, **arguments)
        return folder

    def data(self, folder: Path) -> dict[str, object]:
        (found,) = folder.glob("*/gather/gathered/data.json")
        return dict(json.loads(found.read_text("utf-8")))

    def worked_on(self, folder: Path, step: str) -> int:
        """For how many shards a step ran; what comes from the cache leaves no folder."""
        return len(list(folder.glob(f"**/{step}/metrics")))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture
def source(orl: dict[str, bytes], tmp_path: Path) -> Path:
    """Eight people with two photographs each."""
    root = tmp_path / "source"
    for person in range(1, 9):
        (root / f"s{person}").mkdir(parents=True)
        for number in (1, 2):
            (root / f"s{person}" / f"{number}.pgm").write_bytes(orl[f"s{person}/{number}.pgm"])
    return root


def numbers(*people: str) -> set[int]:
    return {shard_number(person, COUNT) for person in people}


@pytest.mark.slow
def test_only_what_changed_is_done_again(
    runs: Runs, source: Path, orl: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = len(numbers(*(f"s{person}" for person in range(1, 9))))
    first = runs(source)
    steps = ("ingest", "align", "filter-faces")
    assert [runs.worked_on(first, step) for step in steps] == [everybody] * 3
    # A new month: another photograph of s3, and a new person.
    (source / "s3" / "9.pgm").write_bytes(orl["s3/9.pgm"])
    (source / "s40").mkdir()
    (source / "s40" / "1.pgm").write_bytes(orl["s40/1.pgm"])
    (previous,) = first.glob("*/gather/gathered/data.json")
    second = runs(source, previous=str(previous))
    changed = numbers("s3", "s40")
    assert [runs.worked_on(second, step) for step in steps] == [len(changed)] * 3
    data = runs.data(second)
    assert data["changed_shards"] == [f"{number}/{COUNT}" for number in sorted(changed)]
    assert (data["images"], data["identities"]) == (18, 9)
    # Somebody asks to be forgotten.
    (tmp_path / "forget.txt").write_text("s5\n")
    (previous,) = second.glob("*/gather/gathered/data.json")
    third = runs(source, forget=str(tmp_path / "forget.txt"), previous=str(previous))
    assert [runs.worked_on(third, step) for step in steps] == [1] * 3
    data = runs.data(third)
    assert data["changed_shards"] == [f"{shard_number('s5', COUNT)}/{COUNT}"]
    assert (data["images"], data["identities"]) == (16, 8)


@pytest.mark.slow
def test_a_shard_that_fails_twice_is_named_and_the_others_are_kept(
    runs: Runs, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = tmp_path / "last words"
    monkeypatch.setenv("TERMINATION_LOG", str(words))
    shutil.copytree(source / "s2", source / "more" / "s2")  # two people of one name, or one in two places
    failing = f"{shard_number('s2', COUNT)}/{COUNT}"
    with pytest.raises(RuntimeError, match="ingest"):
        runs(source)
    assert words.read_text().startswith(f"shard {failing} failed twice: identity 's2' stands in two folders")
    told = capfd.readouterr()
    assert f"shard {failing}: identity 's2' stands in two folders" in told.out + told.err
    shutil.rmtree(source / "more")
    done = runs.worked_on(tmp_path / "run1", "filter-faces")
    everybody = len(numbers(*(f"s{person}" for person in range(1, 9))))
    retry = runs(source)
    assert runs.worked_on(retry, "filter-faces") == everybody - done
    assert runs.data(retry)["images"] == 16
