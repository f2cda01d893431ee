"""The recipes of attributes and classes: they are for their task, and their numbers of layers are what they say."""

from typing import Any

import pytest

from kubeface.finetune.options import read_finetune_options
from kubeface.finetune.strategies import layers, trained_parts
from kubeface.models.backbones import backbone_named
from kubeface.runtime.errors import KubefaceError


@pytest.mark.parametrize("task", ["attributes", "classes"])
def test_a_recipe_is_for_its_task(task: str) -> None:
    found = read_finetune_options({"recipe": task, "task": task})
    assert found.stages() == [1, 2] and found.head_patience > 0
    assert found.lr * found.head_factor < found.head_lr
    with pytest.raises(KubefaceError, match="task recognition has no use for it"):
        read_finetune_options({"recipe": task})


def test_from_scratch_the_start_is_what_differs() -> None:
    ours, theirs = (read_finetune_options({"recipe": name, "task": "classes"}) for name in ("scratch", "classes"))
    assert ours.stages() == [2]
    alike = ("head", "balance", "label_smoothing", "monitor", "degrade", "flip", "jitter", "warp", "crop")
    assert [getattr(ours, name) for name in alike] == [getattr(theirs, name) for name in alike]


@pytest.mark.parametrize(
    ("task", "backbone", "changes", "begins"),
    [
        ("attributes", "resnet50", {}, "layer2.0.conv1"),
        ("classes", "resnet50", {}, "layer4.0.conv1"),
        ("classes", "vgg16", {"num_layers": 3}, "features.24"),  # the convolutions of the last block: 24, 26 and 28
    ],
)
def test_the_layers_that_are_trained_are_whole_blocks(
    task: str, backbone: str, changes: dict[str, Any], begins: str
) -> None:
    network = backbone_named(backbone).build()
    options = read_finetune_options({"recipe": task, "task": task} | changes)
    trained = {id(m) for part in trained_parts(network, options) for m in part.modules}
    weighted = [name for name, module in network.named_modules() if module in [layer[0] for layer in layers(network)]]
    chosen = [name for name in weighted if id(network.get_submodule(name)) in trained]
    assert chosen[0] == begins and chosen == weighted[weighted.index(begins) :]
