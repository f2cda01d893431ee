"""The loop over shards as kfp.local runs it: only what changed is done again, and a shard that fails is named."""

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
from kubeface.records.data import DataRecord
from tests.support.images import write_files

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

    def data_file(self, folder: Path) -> Path:
        (found,) = folder.glob("*/gather/gathered/data.json")
        return found

    def data(self, folder: Path) -> DataRecord:
        return DataRecord.read(self.data_file(folder))

    def worked_on(self, folder: Path, step: str) -> int:
        """For how many shards a step ran; what comes from the cache leaves no folder."""
        return len(list(folder.glob(f"**/{step}/metrics")))


def numbers(*people: str) -> set[int]:
    return {shard_number(person, COUNT) for person in people}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_only_what_failed_or_changed_is_done_again(
    orl: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    runs, source, words = Runs(tmp_path), tmp_path / "source", tmp_path / "last words"
    people = [f"s{person}" for person in range(1, 9)]
    write_files(source, {f"{person}/{n}.pgm": orl[f"{person}/{n}.pgm"] for person in people for n in (1, 2)})
    everybody, steps = len(numbers(*people)), ("ingest", "align", "filter-faces")

    # A shard fails twice: it is named, and the others are kept.
    monkeypatch.setenv("TERMINATION_LOG", str(words))
    shutil.copytree(source / "s2", source / "more" / "s2")  # two people of one name, or one in two places
    failing = f"{shard_number('s2', COUNT)}/{COUNT}"
    with pytest.raises(RuntimeError, match="ingest"):
        runs(source)
    assert words.read_text().startswith(f"shard {failing} failed twice: identity 's2' stands in two folders")
    told = capfd.readouterr()
    assert f"shard {failing}: identity 's2' stands in two folders" in told.out + told.err
    shutil.rmtree(source / "more")
    done = [runs.worked_on(tmp_path / "run1", step) for step in steps]
    first = runs(source)
    assert [runs.worked_on(first, step) + before for step, before in zip(steps, done, strict=True)] == [everybody] * 3
    assert runs.data(first).images == 16

    # A new month: another photograph of s3, and a new person.
    write_files(source, {name: orl[name] for name in ("s3/9.pgm", "s40/1.pgm")})
    second = runs(source, previous=str(runs.data_file(first)))
    changed = numbers("s3", "s40")
    assert 0 < len(changed) < everybody
    assert [runs.worked_on(second, step) for step in steps] == [len(changed)] * 3
    data = runs.data(second)
    assert data.changed_shards == [f"{number}/{COUNT}" for number in sorted(changed)]
    assert (data.images, data.identities) == (18, 9)

    # Somebody asks to be forgotten.
    (tmp_path / "forget.txt").write_text("s5\n")
    third = runs(source, forget=str(tmp_path / "forget.txt"), previous=str(runs.data_file(second)))
    assert [runs.worked_on(third, step) for step in steps] == [1] * 3
    data = runs.data(third)
    assert data.changed_shards == [f"{shard_number('s5', COUNT)}/{COUNT}"]
    assert (data.images, data.identities) == (16, 8)
