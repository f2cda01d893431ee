"""The networks by name: the published names and shapes, the published function, and what the registry says of them."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from kubeface.models.backbones import BACKBONES, backbone_named
from kubeface.models.backbones.edgeface import LowRankLinear
from kubeface.records.model import Preprocessing
from kubeface.runtime.errors import KubefaceError
from kubeface.storage.downloads import WheelFile

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference" / "backbones.json"
REFERENCED = (
    "iresnet18",
    pytest.param("iresnet50", marks=pytest.mark.slow),
    pytest.param("iresnet100", marks=pytest.mark.slow),
    "edgeface_xxs",
    "edgeface_xs_gamma_06",
    "edgeface_s_gamma_05",
    "edgeface_base",
)
# More of the same layers as a smaller one has.
LARGER = {"iresnet50", "iresnet100", "edgeface_s_gamma_05", "edgeface_base"}
EXPORTED = sorted(set(BACKBONES) - LARGER - {"sface"})  # which has a test of its own
PARAMETERS = {
    "sface": 9_642_880,
    "iresnet18": 24_025_600,
    "iresnet50": 43_590_848,
    "iresnet100": 65_156_160,
    "mobilefacenet": 2_059_520,
    "edgeface_xxs": 1_244_744,
    "edgeface_xs_gamma_06": 1_770_492,
    "edgeface_s_gamma_05": 3_652_520,
    "edgeface_base": 18_225_812,
    "inception_resnet_v1": 23_482_624,
    "resnet50": 23_508_032,
    "vgg16": 14_714_688,
    "resnet50_keras": 23_508_032,
    "small_cnn": 97_680,
}


def fixed_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of shared/reference: by the place of a name in sorted order."""
    weights = {}
    for index, (name, value) in enumerate(sorted(state.items())):
        if name.endswith("running_var"):
            weights[name] = torch.ones_like(value)
        elif value.ndim >= 2:
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(index))
            weights[name] = noise / math.sqrt(value[0].numel())
        else:
            scale = value.is_floating_point() and name.endswith(("weight", "gamma"))
            weights[name] = torch.full_like(value, 0.25 if scale else 0)
    return weights


def images_for(name: str, count: int, seed: int = 0) -> Tensor:
    side = backbone_named(name).preprocessing.size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def distances(one: Tensor, other: Tensor) -> Tensor:
    """Between embeddings of unit length; in double precision, as with the fixed weights some have a length of 1e-9."""
    difference = normalize(one.double(), eps=1e-30) - normalize(other.double(), eps=1e-30)
    return difference.square().sum(1).sqrt()


def network_of(name: str) -> nn.Module:
    """A network with the fixed weights, in evaluation mode."""
    network = backbone_named(name).build()
    network.load_state_dict(fixed_weights(network.state_dict()))
    return network.eval()


def shortened(network: nn.Module) -> nn.Module:
    """The network without the layers that are like the one before: to export them as well would tell nothing new."""
    for around in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        before = ""
        for name, layer in list(around.named_children()):
            if layer.state_dict() and repr(layer) == before:
                delattr(around, name)
            before = repr(layer)
    return network


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    if not REFERENCE.is_file():
        pytest.skip(f"{REFERENCE} is not there: the published names and embeddings are not part of the repository")
    return dict(json.loads(REFERENCE.read_text()))


@pytest.mark.parametrize("name", REFERENCED)
def test_published_names_shapes_and_embeddings(name: str, reference: dict[str, Any]) -> None:
    published, network = reference[name], network_of(name)
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == published["state_dict"]
    assert list(images_for(name, 2).shape) == published["input"]
    images = images_for(name, 2, seed=1234)
    expected = torch.tensor(published["embedding"])
    with torch.inference_mode():
        found = network(images)
        assert cosine_similarity(found, expected).min() >= 0.9999
        assert cosine_similarity(found, expected.flip(0)).max() < 0.99  # the comparison would notice another image
        fast = network.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    assert cosine_similarity(fast, expected).min() >= 0.9999


def test_mobilefacenet_has_the_published_names() -> None:
    """SHA-256 of the names and shapes, in order, of `get_mbf()` in insightface's recognition/arcface_torch."""
    with torch.device("meta"):
        state = backbone_named("mobilefacenet").build().state_dict()
    listed = "".join(f"{name} {list(value.shape)}\n" for name, value in state.items())
    assert hashlib.sha256(listed.encode()).hexdigest() == (
        "b204fad7f875f1135ae824a1f8934693a178f7fe5e7630bc217923f136070f49"
    )


def test_mobilefacenet_adds_the_input_where_it_is_published_so() -> None:
    network = network_of("mobilefacenet")
    around = [name for name, module in network.named_modules() if getattr(module, "residual", False)]
    assert around == [f"layers.{stage}.layers.{i}" for stage, count in ((3, 4), (5, 6), (7, 2)) for i in range(count)]
    block: Any = network.get_submodule("layers.3.layers.0")
    maps = torch.randn(1, 128, 28, 28)
    with torch.inference_mode():
        assert torch.equal(block(maps), maps + block.layers(maps))


def test_vgg16_is_torchvisions_and_gives_the_mean_of_its_maps() -> None:
    import torchvision

    with torch.device("meta"):
        published = torchvision.models.get_model("vgg16").state_dict()
    expected = {key: value.shape for key, value in published.items() if not key.startswith("classifier.")}
    assert 0 < len(expected) < len(published)
    network: Any = network_of("vgg16")
    assert {key: value.shape for key, value in network.state_dict().items()} == expected
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), network.features(images).flatten(2).mean(2))
        assert network(images).std() > 0


@pytest.mark.parametrize("name", BACKBONES)
def test_embeddings_of_the_size_that_is_said(name: str) -> None:
    """Counted and shaped without a number computed; the tests around this one look at the numbers."""
    known = backbone_named(name)
    with torch.device("meta"), torch.no_grad():
        network = known.build().eval()
        assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
        assert network(images_for(name, 2).to("meta")).shape == (2, known.embedding_size)
    if known.build_for:
        assert getattr(network, "embedding_size") == known.embedding_size  # noqa: B009 - of whichever module it is


def test_small_cnn_halves_its_maps_four_times() -> None:
    """Any input of at least 16 pixels goes; what comes out is the mean of the last maps."""
    network = network_of("small_cnn")
    with torch.inference_mode():
        for side in (16, 64, 112):
            maps = network.blocks(torch.randn(2, 3, side, side))  # type: ignore[operator]
            assert maps.shape == (2, 128, side // 16, side // 16)
        images = images_for("small_cnn", 2)
        torch.testing.assert_close(network(images), network.blocks(images).flatten(2).mean(2))  # type: ignore[operator]


@pytest.mark.parametrize("name", ["sface", "iresnet18", "mobilefacenet", "edgeface_xs_gamma_06", "small_cnn"])
def test_every_parameter_can_be_trained(name: str) -> None:
    network = backbone_named(name).build().train()
    network(images_for(name, 2)).square().sum().backward()
    still = [key for key, value in network.named_parameters() if value.grad is None]
    # arcface_torch keeps the last batch norm's weights at 1.
    assert still == (["features.weight"] if name.startswith("iresnet") else [])
    if still:
        assert (network.get_parameter("features.weight") == 1).all()


def test_rank_of_the_factors() -> None:
    """max(2, ⌊γ·min⌋), the first without bias."""
    for inputs, outputs, gamma, rank in ((100, 40, 0.6, 24), (32, 3, 0.5, 2), (192, 512, 0.6, 115)):
        layer = LowRankLinear(nn.Linear(inputs, outputs), gamma)
        assert (layer.linear1.weight.shape, layer.linear2.weight.shape) == ((rank, inputs), (outputs, rank))
        assert layer.linear1.bias is None and layer.linear2.bias is not None
        assert LowRankLinear(nn.Linear(inputs, outputs, bias=False), gamma).linear2.bias is None


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_exported_to_onnx(name: str) -> None:
    """onnxruntime gives the same embeddings, for another number of images than the one exported with."""
    import onnxruntime

    network, images = shortened(network_of(name)), images_for(name, 3)
    with torch.inference_mode():
        expected = network(images)
        program = torch.onnx.export(
            network, (images[:2],), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
        )
    assert program is not None
    model = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        (found,) = session.run(None, {session.get_inputs()[0].name: images[:count].numpy()})
        assert found.shape == (count, expected.shape[1])
        assert distances(torch.from_numpy(found), expected[:count]).max() < 1e-3  # a cosine above 0.9999995
    assert distances(expected[:1], expected[1:]).min() > 1e-2  # the comparison would notice another image


# --- what the registry says -----------------------------------------------------------------------------------------


def test_each_source_is_pinned_or_known_not_to_be() -> None:
    unpinned = set()
    for name, backbone in BACKBONES.items():
        assert backbone.name == name
        for source in backbone.sources:
            if isinstance(source, WheelFile):
                assert re.fullmatch("[0-9a-f]{64}", source.sha256 or "")
            elif "#" not in source:
                unpinned.add(name)
            else:
                assert re.fullmatch(r"https://[^#\s]+\.(pt|pth)#sha256=[0-9a-f]{64}", source)
        files = {str(source).rpartition("/")[2] for source in backbone.sources}
        assert len(files) <= 1, "the sources of a backbone are copies of one file"
        assert backbone.license or not backbone.sources
    assert unpinned == {"iresnet18", "iresnet50"}
    without = {name for name, backbone in BACKBONES.items() if not backbone.sources}
    assert without == {"mobilefacenet", "resnet50_keras", "small_cnn"}


def test_torchvisions_and_keras_preprocessing() -> None:
    from torchvision.models import ResNet50_Weights, VGG16_Weights
    from torchvision.transforms.functional import normalize as as_published

    pixels = torch.arange(3 * 4 * 4).reshape(3, 4, 4) * 5.0
    for name, weights in (("resnet50", ResNet50_Weights.IMAGENET1K_V1), ("vgg16", VGG16_Weights.IMAGENET1K_V1)):
        known, transforms = backbone_named(name).preprocessing, weights.transforms()
        assert (known.size, known.color_order) == (transforms.crop_size[0], "rgb")
        mean, std = torch.tensor(known.mean)[:, None, None], torch.tensor(known.std)[:, None, None]
        expected = as_published(pixels / 255, transforms.mean, transforms.std)
        torch.testing.assert_close((pixels - mean) / std, expected, rtol=1e-4, atol=1e-4)
    keras = backbone_named("resnet50_keras")
    assert keras.preprocessing == Preprocessing(size=224, color_order="bgr", mean=(103.939, 116.779, 123.68), std=1.0)
    assert not keras.fixed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 0}, "size is 0: input should be greater than 0"),
        ({"size": "112"}, "size is '112'"),
        ({"color_order": "gbr"}, "color_order is 'gbr': input should be 'rgb' or 'bgr'"),
        ({"mean": [1.0, 2.0]}, "mean"),
        ({"mean": None}, "mean"),
        ({"std": 0.0}, "std.* is 0.0: input should be greater than 0"),
        ({"std": [1.0, -1.0, 1.0]}, "std.* is -1.0: input should be greater than 0"),
        ({"extra": 1}, "extra"),
    ],
)
def test_wrong_preprocessing_is_refused(change: dict[str, Any], said: str) -> None:
    settings = {"size": 112, "color_order": "rgb", "mean": 127.5, "std": [1.0, 2.5, 3.0]}
    assert Preprocessing.parse(settings, "here").model_dump(mode="json") == settings
    with pytest.raises(KubefaceError, match=f"^here .*{said}"):
        Preprocessing.parse(settings | change, "here")
