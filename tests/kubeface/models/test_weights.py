"""Weights files of other programs, published weights, their mirror, and model folders out of .keras archives."""

import argparse
import functools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from kubeface import cli
from kubeface.models import weights_mirror
from kubeface.models.backbones import BACKBONES, Backbone, backbone_named
from kubeface.models.model import FaceModel, load_model, load_pretrained, save_model
from kubeface.models.weights import backbone_state, fetch_published, load_network, read_weights
from kubeface.models.weights_mirror import mirror_weights
from kubeface.records.model import Preprocessing, TrainingRecord
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.downloads import MIRROR_VARIABLE, Source
from kubeface.storage.folders import sha256_file
from pipelines.local.store import local_store
from tests.support.commands import refusal
from tests.support.faulty_store import in_force
from tests.support.json_files import edit

State = dict[str, Tensor]
PREPROCESSING = Preprocessing(size=8, color_order="rgb", mean=127.5, std=128.0)


def network() -> nn.Module:
    """A small network whose names look like those of the large ones."""
    layers = OrderedDict(conv1=nn.Conv2d(3, 4, 3), bn1=nn.BatchNorm2d(4), pool=nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(layers | OrderedDict(flat=nn.Flatten(), features=nn.Linear(4, 2)))


def with_model_names() -> nn.Module:
    """The same below `model.`, as EdgeFace has it."""
    return nn.Sequential(OrderedDict(model=network()))


SMALL = Backbone("small", network, PREPROCESSING, 2, (), "none")


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    monkeypatch.setitem(BACKBONES, "small", SMALL)


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(1)
    return {name: torch.randn_like(value) if value.ndim else value for name, value in network().state_dict().items()}


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def optimiser(state: State) -> dict[str, Any]:
    return {"state": {index: {"exp_avg": value, "step": 3} for index, value in enumerate(state.values())}, "groups": []}


# --- what programs save ---------------------------------------------------------------------------------------------

HEAD = {"weight": torch.ones(7, 2)}
WRAPPED: dict[str, Callable[[State], dict[str, Any]]] = {
    "plain": dict,
    "ordered": OrderedDict,
    "insightface's checkpoint_gpu_0.pt": lambda s: {
        "epoch": 3,
        "state_dict_backbone": s,
        "state_dict_softmax_fc": HEAD,
        "state_optimizer": optimiser(s),
        "state_lr_scheduler": {"base_lrs": [0.1]},
    },
    "Lightning": lambda s: {"epoch": 1, "state_dict": under("model.", s) | under("loss.", HEAD), "loops": {"n": 1}},
    "Lightning, deep": lambda s: {"state_dict": under("model.net.", s)},
    "DistributedDataParallel": lambda s: under("module.", s),
    "torch.compile in it": lambda s: {"model": under("module._orig_mod.", s)},
    "ours": lambda s: {"model": under("backbone.", s) | under("head.", HEAD), "optimizer": optimiser(s)},
    "ours, flat": lambda s: under("backbone.", s) | under("head.", HEAD),
    "facenet-pytorch's classifier": lambda s: s | under("logits.", HEAD),
    "torchvision's classifiers": lambda s: s | under("fc.", HEAD) | under("classifier.0.", HEAD),
    "before torch 0.4.1": lambda s: {n: v for n, v in s.items() if not n.endswith("num_batches_tracked")},
    **{key: functools.partial(lambda k, s: {k: s, "epoch": 2}, key) for key in ("model_state_dict", "net", "backbone")},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_checkpoints_load_as_they_are(wrap: Callable[[State], dict[str, Any]], state: State, tmp_path: Path) -> None:
    torch.save(wrap(state), tmp_path / "weights.pt")
    loaded = load_pretrained("small", str(tmp_path / "weights.pt")).network
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_names_that_begin_like_a_prefix_stay(prefix: str, state: State) -> None:
    """EdgeFace's own names begin with `model.`."""
    theirs = under(prefix, under("model.", state))
    assert backbone_state(theirs, with_model_names(), "here").keys() == under("model.", state).keys()


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "edgeface_xxs", "iresnet18"])
def test_classifiers_of_the_published_files(name: str) -> None:
    """What belongs to the backbone stays, though iresnet18 has an `fc.` and EdgeFace a `head.` of its own."""
    network = backbone_named(name).build()
    published = dict(network.state_dict())
    if name == "resnet50":
        published |= {"fc.weight": torch.ones(1000, 2048), "fc.bias": torch.ones(1000)}
    elif name == "vgg16":
        published |= {f"classifier.{index}.{kind}": torch.ones(1) for index in (0, 3, 6) for kind in ("weight", "bias")}
    assert backbone_state(published, network, "here").keys() == network.state_dict().keys()


def test_a_prefix_is_stripped_only_where_most_names_fit_then(state: State) -> None:
    few = {"other.conv1.weight": state["conv1.weight"], "x.bias": state["features.bias"]}
    found = backbone_state(few, network(), "here")
    assert found.keys() == few.keys() | {"bn1.num_batches_tracked"}


def test_what_does_not_fit_is_named_without_its_prefix(state: State, tmp_path: Path) -> None:
    wrong = {name: value for name, value in state.items() if name != "conv1.bias"}
    wrong |= {"features.weight": torch.ones(3, 4), "conv2.weight": torch.ones(1), "bn1.extra": torch.ones(1)}
    torch.save({"state_dict": under("model.", wrong), "ema": 0.9}, tmp_path / "weights.ckpt")
    with pytest.raises(KubefaceError) as raised:
        load_pretrained("small", str(tmp_path / "weights.ckpt"))
    assert str(raised.value) == (
        f"{tmp_path}/weights.ckpt does not fit the backbone: 1 missing (conv1.bias); "
        "2 unexpected (bn1.extra, conv2.weight); 1 of another shape (features.weight)"
    )


def test_two_copies_are_not_chosen_between(state: State, tmp_path: Path) -> None:
    torch.save({"model": state, "model_ema": state}, tmp_path / "weights.pt")
    with pytest.raises(KubefaceError, match=r"weights\.pt holds the backbone more than once \(model\., model_ema\.\)"):
        load_pretrained("small", str(tmp_path / "weights.pt"))
    torch.save(state | under("ema.", {"conv1.weight": state["conv1.weight"]}), tmp_path / "weights.pt")
    with pytest.raises(KubefaceError, match=r"1 unexpected \(ema\.conv1\.weight\)"):
        load_pretrained("small", str(tmp_path / "weights.pt"))


@pytest.mark.parametrize(
    ("value", "named"),
    [(np.float64(0.5), "numpy"), (argparse.Namespace(lr=1), "argparse.Namespace"), (np.ones(2), "numpy")],
)
def test_values_that_are_refused_are_named(value: object, named: str, state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": state, "best": value}, tmp_path / "weights.pt")
    with pytest.raises(KubefaceError, match=rf"^\S+/weights\.pt holds other things than tensors \({named}") as raised:
        load_pretrained("small", str(tmp_path / "weights.pt"))
    assert str(raised.value).endswith("save its state dict as .safetensors")


def test_a_dictionary_that_holds_itself(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    found["state_dict"] = found
    torch.save(found, tmp_path / "weights.pt")
    with pytest.raises(KubefaceError, match=r"weights\.pt is not a readable weights file: RecursionError"):
        read_weights(tmp_path / "weights.pt", "small")


@pytest.mark.parametrize(("suffix", "only"), [(".onnx", "sface"), (".keras", "resnet50_keras")])
def test_files_of_one_backbone_only(suffix: str, only: str, tmp_path: Path) -> None:
    (tmp_path / f"face{suffix}").write_bytes(b"")
    with pytest.raises(KubefaceError, match=rf"face{suffix}: {suffix} files are read for '{only}' only"):
        load_pretrained("iresnet50", str(tmp_path / f"face{suffix}"))
    with pytest.raises(KubefaceError, match=rf"face{suffix} is not "):
        load_pretrained(only, str(tmp_path / f"face{suffix}"))


def test_half_precision_becomes_float32(state: State, tmp_path: Path) -> None:
    torch.save({name: value.half() if value.ndim else value for name, value in state.items()}, tmp_path / "weights.pt")
    loaded = load_pretrained("small", str(tmp_path / "weights.pt")).network
    weight = loaded.get_parameter("features.weight")
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["features.weight"].half().float())


# --- layers that depend on the weights --------------------------------------------------------------------------------


class Sized(nn.Module):
    """An embedding whose size is that of the weights."""

    def __init__(self, size: int = 0) -> None:
        super().__init__()
        self.trunk = nn.Linear(3, 4)
        self.embedding = nn.Linear(4, size) if size else nn.Identity()
        self.embedding_size = size or 4

    def forward(self, images: Tensor) -> Tensor:
        return self.embedding(self.trunk(images.mean((2, 3))))  # type: ignore[no-any-return]


SIZED = Backbone(
    "sized",
    Sized,
    PREPROCESSING,
    4,
    (),
    "none",
    build_for=lambda state: Sized(len(state.get("embedding.weight", ()))),
    fixed=False,
)


@pytest.mark.parametrize(("size", "prefix"), [(0, ""), (5, ""), (5, "module.")])
def test_network_for_the_weights(size: int, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "sized", SIZED)
    theirs = Sized(size)
    torch.save(under(prefix, theirs.state_dict()), tmp_path / "weights.pt")
    model = load_pretrained("sized", str(tmp_path / "weights.pt"))
    assert model.embedding_size == (size or 4)
    crops = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), np.uint8)
    expected = FaceModel("sized", theirs, PREPROCESSING, size, "", "").embed(crops)
    np.testing.assert_array_equal(model.embed(crops), expected)


def test_a_folder_settles_what_the_name_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "sized", SIZED)
    own = Preprocessing(size=16, color_order="bgr", mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    save_model(FaceModel("sized", Sized(5), own, 5, "somewhere", "MIT"), tmp_path, TrainingRecord(epochs=1))
    for loaded in (load_model(tmp_path), load_pretrained("sized", str(tmp_path))):
        assert (loaded.preprocessing, loaded.embedding_size, loaded.start) == (own, 5, "somewhere")
    edit(tmp_path / "model.json", lambda config: config["preprocessing"].update(std=[4.0, 0.0, 6.0]))
    with pytest.raises(
        KubefaceError, match=r"model\.json is not .*preprocessing\.std.* is 0\.0: input should be greater than 0"
    ):
        load_model(tmp_path)


# --- published weights ------------------------------------------------------------------------------------------------


def published(name: str, *sources: Source) -> Backbone:
    return Backbone(name, network, PREPROCESSING, 2, sources, "none", page="https://example.org/models")


@pytest.fixture
def file(state: State, tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    safetensors.torch.save_file(state, path)
    return path


def test_the_next_address_is_tried(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = f"#sha256={sha256_file(file)}"
    sources = (f"http://127.0.0.1:1/small.safetensors{pinned}", f"{file}{pinned}")
    monkeypatch.setitem(BACKBONES, "small", published("small", *sources))
    assert load_pretrained("small").start == sources[1]
    file.unlink()
    assert load_pretrained("small").start == sources[0]  # out of the cache, the same file by its checksum


def test_every_address_is_named_with_its_reason(tmp_path: Path) -> None:
    sources = (f"http://127.0.0.1:1/a.pt#sha256={'0' * 64}", f"{tmp_path}/b.pt", "https://example.org/c.pt")
    with pytest.raises(KubefaceError) as raised:
        fetch_published(published("small", *sources))
    said = str(raised.value)
    assert said.startswith(
        "the published weights of 'small' cannot be had: http://127.0.0.1:1/a.pt cannot be downloaded"
    )
    assert f"; {tmp_path}/b.pt does not exist; https://example.org/c.pt has no checksum: write it as " in said
    assert said.endswith("(see https://example.org/models)") and "; or give pretrained=" in said


@pytest.mark.parametrize("name", ["mobilefacenet", "resnet50_keras", "small_cnn"])
def test_weights_that_have_to_be_given(name: str) -> None:
    said = rf"^no weights of '{name}' are published at .*: give pretrained=<model fol.* with strategy scratch$"
    with pytest.raises(KubefaceError, match=said):
        load_pretrained(name)


@pytest.mark.parametrize("name", ["iresnet18", "iresnet50"])
def test_a_checksum_that_nobody_publishes_is_asked_for(name: str) -> None:
    with pytest.raises(
        KubefaceError, match=rf"_{name[1:2]}\d+_fp16\.pth has no checksum: .*its https:// address with #"
    ):
        load_pretrained(name)


def test_mirror(file: Path, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """What one machine copies there another one, which reaches nothing else, loads."""
    mirror, checksum = tmp_path / "mirror", sha256_file(file)
    there = f"{mirror}/{checksum}/small.safetensors"
    monkeypatch.setitem(BACKBONES, "small", published("small", f"{file}#sha256={checksum}"))
    mirror_weights(str(mirror), backbone=["small"])
    assert capsys.readouterr().out == f"small: copied to {there}\n"
    file.unlink()
    mirror_weights(str(mirror), backbone=["small"])  # nothing is fetched for it
    assert capsys.readouterr().out == f"small: there already, {there}\n"

    monkeypatch.setenv("KUBEFACE_CACHE", str(tmp_path / "another cache"))
    address = f"http://127.0.0.1:1/small.safetensors#sha256={checksum}"
    monkeypatch.setitem(BACKBONES, "small", published("small", address))
    with pytest.raises(KubefaceError, match="cannot be downloaded"):
        load_pretrained("small")
    monkeypatch.setenv(MIRROR_VARIABLE, str(mirror))
    model = load_pretrained("small")
    assert model.start == address  # the mirror is a copy, not an origin
    assert torch.equal(model.network.get_parameter("features.weight"), state["features.weight"])


@pytest.mark.slow
def test_mirror_in_a_bucket(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    there = f"s3://weights/copies/{sha256_file(file)}/small.safetensors"
    with local_store("weights") as environment, in_force(environment, "weights"):
        source = f"{file}#sha256={sha256_file(file)}"
        monkeypatch.setitem(BACKBONES, "small", published("small", source))
        for said in ("copied to ", "there already, "):
            mirror_weights("s3://weights/copies/", backbone=["small"])
            assert capsys.readouterr().out == f"small: {said}{there}\n"
        file.unlink()
        monkeypatch.setenv("KUBEFACE_CACHE", str(tmp_path / "another cache"))
        monkeypatch.setenv(MIRROR_VARIABLE, "s3://weights/copies")
        assert load_pretrained("small").start == source
        with pytest.raises(KubefaceError, match="s3://other/copies lacks the weights of small: see"):
            mirror_weights("s3://other/copies", backbone=["small"])
        assert capsys.readouterr().out.startswith("small: failed: bucket 'other' does not exist")


def test_mirror_of_what_can_be_had(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pinned = f"#sha256={sha256_file(file)}"
    registry = {
        "good": published("good", f"{file}{pinned}"),
        "none": published("none"),
        "unpinned": published("unpinned", "https://example.org/a.pt"),
        "gone": published("gone", f"{tmp_path}/gone.pt{pinned}"),
    }
    monkeypatch.setattr(weights_mirror, "BACKBONES", registry)
    with pytest.raises(KubefaceError, match="mirror lacks the weights of gone: see"):
        mirror_weights(str(tmp_path / "mirror"))
    lines = capsys.readouterr().out.splitlines()
    said = ["good: copied to ", "none: left out: no weights of 'none'", "unpinned: left out: ", "gone: failed: "]
    assert len(lines) == 4 and all(line.startswith(start) for line, start in zip(lines, said, strict=True))
    del registry["gone"]
    mirror_weights(str(tmp_path / "mirror"))


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ((), "no weights of 'small'"),
        (("https://example.org/a.pt",), "has no checksum"),
        (None, "has no checksum, which"),
    ],
)
def test_a_backbone_that_is_named_is_not_left_out(
    sources: tuple[str, ...] | None, said: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(BACKBONES, "small", published("small", *(sources if sources is not None else (str(file),))))
    with pytest.raises(KubefaceError, match="mirror lacks the weights of small: see"):
        mirror_weights(str(tmp_path / "mirror"), backbone=["small"])
    out = capsys.readouterr().out
    assert out.startswith("small: failed: ") and said in out and out.count("\n") == 1


# --- the command line -------------------------------------------------------------------------------------------------


def test_command_line_mirrors(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(BACKBONES, "small", published("small", f"{file}#sha256={sha256_file(file)}"))
    mirror = str(tmp_path / "mirror")
    cli.main(["mirror-weights", mirror, "--backbone", "small"])
    assert capsys.readouterr().out.startswith("small: copied to ")
    with pytest.raises(SystemExit) as ended:
        cli.main(["mirror-weights", mirror, "--backbone", "small", "mobilefacenet"])
    said = capsys.readouterr()
    assert ended.value.code == 1 and "lacks the weights of mobilefacenet" in said.err
    assert [line.split(":")[0] for line in said.out.splitlines()] == ["small", "mobilefacenet"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["mirror-weights", mirror, "--backbone", "unheard-of"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: backbone 'unheard-of' is unknown")


def test_wrong_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "face.keras"
    assert "mirror-weights: " in refusal(capsys, "mirror-weights", code=2)
    assert "import-keras: " in refusal(capsys, "import-keras", archive, code=2)
    said = refusal(capsys, "import-keras", archive, "--out", tmp_path / "out")
    assert said == f"error: {archive} does not exist" and not (tmp_path / "out").exists()


def test_embedding_size_of_the_registry_where_the_weights_do_not_tell(file: Path) -> None:
    loaded, size = load_network(SMALL, file, "here")
    assert (size, loaded.training) == (2, False)
