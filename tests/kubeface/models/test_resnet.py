"""ResNet-50 against torchvision's, and the variant that Keras has."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from kubeface.models.backbones.resnet import ResNet50, resnet50, resnet50_keras
from kubeface.runtime.errors import KubefaceError


def randomised(network: ResNet50, seed: int = 1) -> ResNet50:
    """The network in eval mode with statistics and affine parameters that no shortcut survives."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=generator)
    network.eval()
    return network


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def embedding_state(*shapes: tuple[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {f"embedding.{name}": torch.rand(shape) for name, shape in shapes}


FULL = embedding_state(
    ("0.weight", (2048,)), ("0.running_mean", (2048,)),
    ("1.weight", (64, 2048)), ("1.bias", (64,)),
    ("2.weight", (64,)), ("2.running_mean", (64,)),
)  # fmt: skip


def test_it_is_torchvisions_without_the_classifier(images: Tensor) -> None:
    ours, theirs = randomised(resnet50()), torchvision.models.resnet50().eval()
    named = {name: value.shape for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    assert {name: value.shape for name, value in ours.state_dict().items()} == named
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)
    assert ours.embedding_size == 2048


def test_keras_variant_strides_in_the_first_convolution(images: Tensor) -> None:
    keras, ours = randomised(resnet50_keras()), randomised(resnet50())
    assert keras.state_dict().keys() == ours.state_dict().keys()
    seen: list[tuple[int, ...]] = []
    keras.layer2[0].conv2.register_forward_hook(lambda _, inputs, output: seen.append(tuple(inputs[0].shape)))
    keras.load_state_dict(ours.state_dict())
    with torch.no_grad():
        first, second = keras(images), ours(images)
    assert seen == [(2, 128, 8, 8)]  # 64 pixels, a quarter of that behind the stem, halved before the 3×3
    assert first.shape == (2, 2048)
    assert nn.functional.cosine_similarity(first, second).max() < 0.999
    norms = [module for module in keras.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1.001e-5, 0.01)}


def test_embedding_layers_are_those_of_the_state(images: Tensor) -> None:
    network = resnet50_keras(FULL)
    kinds = [type(layer) for layer in network.embedding]
    assert kinds == [nn.BatchNorm1d, nn.Linear, nn.BatchNorm1d]
    assert network.embedding[2].eps == 1e-3
    assert network.embedding_size == 64
    assert FULL.keys() < network.state_dict().keys()
    with torch.no_grad():
        assert network.eval()(images).shape == (2, 64)
    plain = resnet50_keras(embedding_state(("0.weight", (32, 2048))))
    assert plain.embedding[0].bias is None
    assert plain.embedding_size == 32


def test_embedding_comes_behind_the_pooling(images: Tensor) -> None:
    network = randomised(resnet50_keras(FULL))
    trunk = randomised(resnet50_keras())
    trunk.load_state_dict(network.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(network(images), network.embedding(trunk(images)))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (embedding_state(("1.weight", (64, 2048))), r"no embedding\.0\.weight of a linear layer"),
        (embedding_state(("0.bias", (64,))), r"no embedding\.0\.weight of a linear layer"),
        (embedding_state(("0.weight", (2048,))), r"no embedding\.0\.weight of a linear layer"),
        (
            embedding_state(("0.weight", (64, 2048)), ("0.running_mean", (64,))),
            r"no embedding\.0\.weight of a batch norm",
        ),
    ],
)
def test_embedding_that_makes_no_sense(state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(KubefaceError, match=message):
        resnet50_keras(state)
