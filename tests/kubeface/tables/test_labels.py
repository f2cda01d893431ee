"""Tasks and binary labels of tables."""

import json
from pathlib import Path

import pytest

from kubeface.records.tasks import TASKS, require_task, task_of
from kubeface.runtime.errors import KubefaceError
from kubeface.tables.labels import choose_labels, known_labels, read_labels, read_people
from kubeface.tables.table import Table
from tests.kubeface.tables.test_table import face
from tests.support.tables import write_rows

GROUPS: list[dict[str, str]] = [
    {"Smiling": "1", "Male": "0", "Double Chin": "yes", "camera": "door", "person": "1", "young": "1.0"},
    {"Smiling": "-1", "Male": "", "Double Chin": "No", "camera": "1", "person": "0"},
    {},
    {"Smiling": "True", "Double Chin": "FALSE", "empty": "", "young": "-1.0"},
]


def labelled(out: Path, groups: list[dict[str, str]]) -> Table:
    rows = [face(number) | {"groups": json.dumps(known) if known else None} for number, known in enumerate(groups)]
    return Table(write_rows(out, "faces", rows), "faces")


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return labelled(tmp_path / "faces", GROUPS)


def test_labels_are_columns_with_binary_values_alone(table: Table) -> None:
    assert known_labels(table) == ["Double Chin", "Male", "Smiling", "young"]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("", ["Double Chin", "Male", "Smiling", "young"]),
        (" , ", ["Double Chin", "Male", "Smiling", "young"]),
        ("Smiling Male", ["Smiling", "Male"]),
        ("Smiling,Male, Smiling", ["Smiling", "Male"]),
        ("young, Double Chin,Male Smiling", ["young", "Double Chin", "Male", "Smiling"]),
    ],
)
def test_labels_are_chosen_by_name(table: Table, wanted: str, names: list[str]) -> None:
    assert choose_labels(table, wanted) == names


def test_unknown_label_is_refused(table: Table) -> None:
    with pytest.raises(KubefaceError, match=r"label 'camera' is no binary column of .*: it has Double Chin, Male, "):
        choose_labels(table, "Smiling camera")


def test_table_without_labels_is_refused(tmp_path: Path) -> None:
    cases: list[list[dict[str, str]]] = [[{}], [{"camera": "door"}, {"camera": "1"}]]
    for number, groups in enumerate(cases):
        with pytest.raises(KubefaceError, match=r"no column of binary labels .*listing"):
            choose_labels(labelled(tmp_path / str(number), groups), "")


def test_labels_are_read_in_stored_order(table: Table) -> None:
    ids, values = read_labels(table, ["Male", "Smiling", "nowhere"])
    assert ids == table.columns(["image_id"])["image_id"].to_pylist()
    assert values.dtype == "int8"
    assert values.tolist() == [[0, 1, -1], [-1, 0, -1], [-1, -1, -1], [-1, 1, -1]]


def test_person_of_an_image(table: Table) -> None:
    assert read_people(table) == ["1", "0", None, None]


def test_non_binary_value_is_refused(table: Table) -> None:
    with pytest.raises(KubefaceError, match=f"image {0:016x} of .* has camera 'door': a label is 1/0"):
        read_labels(table, ["camera"])


def test_tasks() -> None:
    assert TASKS == ("recognition", "attributes", "classes")
    assert (task_of({}), task_of({"task": "classes"})) == ("recognition", "classes")
    require_task("attributes")
    for refuse in (lambda: require_task("landmarks"), lambda: task_of({"task": "landmarks"})):
        with pytest.raises(KubefaceError, match="task is 'landmarks': use recognition, attributes or classes"):
            refuse()
