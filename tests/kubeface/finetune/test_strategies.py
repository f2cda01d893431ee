"""Strategies: what is trained, how fast, and what stays as it was, byte for byte."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kubeface.finetune.gradients import Gradients
from kubeface.finetune.options import FinetuneOptions, read_finetune_options
from kubeface.finetune.strategies import (
    WEIGHTED,
    add_adapters,
    layers,
    make_optimizer,
    plain_state,
    rate_factor,
    set_modes,
    trained_parts,
)
from kubeface.models.backbones import BACKBONES, backbone_named

from .conftest import Tiny, Train, changed, same

# Tensors of `tiny` by layer, but for the statistics of batch norm.
LAYERS = [
    {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight"},
    {"3.weight", "4.weight", "4.bias"},
    {"8.weight", "8.bias", "9.weight", "9.bias"},
]
STATISTICS = [
    {f"{number}.running_mean", f"{number}.running_var", f"{number}.num_batches_tracked"} for number in (1, 4, 9)
]


def options_of(**chosen: Any) -> FinetuneOptions:
    return read_finetune_options(chosen)


# --- layers of every backbone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BACKBONES)
def test_layers_are_in_the_order_of_use(name: str) -> None:
    """But for the convolution beside a block, which stands behind it; all of them learn, each parameter in one."""
    known = backbone_named(name)
    with torch.device("meta"):  # without numbers, in a hundredth of the time
        network, images = known.build().train(), torch.empty(2, 3, *[known.preprocessing.size] * 2)
    used: list[nn.Module] = []
    for module in network.modules():
        module.register_forward_hook(lambda module, *_: used.append(module))
    network(images).square().sum().backward()
    assert not [key for key, p in network.named_parameters() if p.requires_grad and p.grad is None]
    by_layer = layers(network)
    own = [id(p) for layer in by_layer for module in layer for p in module.parameters(recurse=False)]
    assert sorted(own) == sorted(id(p) for p in network.parameters())
    assert [sum(isinstance(module, WEIGHTED) for module in layer) for layer in by_layer] == [1] * len(by_layer)
    names = {id(module): key for key, module in network.named_modules()}
    found = [names[id(m)] for layer in by_layer for m in layer if isinstance(m, WEIGHTED)]
    order = [names[id(m)] for m in used if isinstance(m, WEIGHTED)]
    assert sorted(found) == sorted(order)
    assert len(found) >= 4

    def straight(names: list[str]) -> list[str]:
        return [key for key in names if "downsample" not in key]

    assert straight(found) == straight(order)
    # A layer's norms and activations are used before the next layer.
    place = {id(module): number for number, module in enumerate(used)}
    for layer in by_layer[1:]:
        leaves = [m for m in layer if id(m) in place and not list(m.children())]
        first = next(m for m in leaves if isinstance(m, WEIGHTED))
        if "downsample" not in names[id(first)]:
            assert all(place[id(m)] >= place[id(first)] for m in leaves)


def test_a_scale_that_a_block_owns_goes_with_the_end_of_the_block() -> None:
    """As EdgeFace's gamma, which is multiplied to what the block's last linear layer gives."""
    with torch.device("meta"):
        network = backbone_named("edgeface_xxs").build()
    block = network.get_submodule("model.stages.0.blocks.0")
    assert [name for name, _ in block.named_parameters(recurse=False)] == ["gamma"]
    last = [module for module in block.modules() if isinstance(module, nn.Linear)][-1]
    (layer,) = [layer for layer in layers(network) if last in layer]
    assert block in layer


# --- what a training leaves as it was -------------------------------------------------------------------------------


def trained(**chosen: Any) -> dict[str, Any]:
    return {"head_epochs": 0, "epochs": 1, "lr": 1e-2} | chosen


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (trained(strategy="full"), {0, 1, 2}),
        (trained(strategy="two_stage", head_epochs=1), {0, 1, 2}),
        (trained(strategy="two_stage", head_epochs=1, epochs=0), set()),
        (trained(strategy="head_only", head_epochs=2, epochs=3), set()),
        (trained(strategy="full", frozen_layers=1), {1, 2}),
        (trained(strategy="two_stage", head_epochs=1, frozen_layers=2), {2}),
        (trained(strategy="partial", num_layers=2), {1, 2}),
        (trained(strategy="partial", num_layers=-2), {0, 1}),
        (trained(strategy="partial", num_layers=-2, frozen_layers=1), {1}),
        (trained(strategy="partial", num_layers=-3, frozen_layers=1), {1, 2}),
        (trained(strategy="differential", layer_decay=0.5), {0, 1, 2}),
    ],
    ids=lambda value: "-".join(f"{v}" for k, v in value.items() if k != "lr") if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("learning_statistics", [False, True], ids=["", "statistics"])
def test_what_is_trained_and_what_is_not(
    chosen: dict[str, Any], expected: set[int], learning_statistics: bool, train: Train, tiny: dict[str, Tensor]
) -> None:
    run = train(**chosen, freeze_batch_norm=not learning_statistics)
    wanted = set[str]().union(*(LAYERS[number] for number in expected))
    if learning_statistics:
        wanted |= set[str]().union(*(STATISTICS[number] for number in expected))
    assert changed(run.checkpoint("last"), tiny) == wanted
    first = chosen["head_epochs"] if chosen["strategy"] in ("two_stage", "head_only") else 0
    second = 0 if chosen["strategy"] == "head_only" else chosen["epochs"]
    assert [row["stage"] for row in run.history] == [1] * first + [2] * second


def test_the_first_stage_leaves_the_backbone_and_trains_the_head(train: Train, tiny: dict[str, Tensor]) -> None:
    run = train(head_epochs=2, epochs=1, keep_checkpoints=0, lr=1e-2, head_lr=1e-2)
    for epoch in (1, 2):
        assert same(run.checkpoint(f"epoch_0{epoch}"), tiny)
    assert not same(run.checkpoint("epoch_03"), tiny)
    heads = [run.checkpoint(f"epoch_0{epoch}", "head")["weight"] for epoch in (1, 2, 3)]
    assert not torch.equal(heads[0], heads[1]) and not torch.equal(heads[1], heads[2])
    assert [row["learning_rate"] for row in run.history[:2]] == [0, 0]
    assert run.history[0]["head_learning_rate"] == 1e-2


def test_head_only_trains_a_head(train: Train) -> None:
    one, two = (train(f"{rate}", strategy="head_only", head_lr=rate) for rate in (1e-12, 1e-2))
    heads = [run.checkpoint("last", "head")["weight"] for run in (one, two)]
    assert (heads[0] - heads[1]).abs().max() > 1e-3


def test_rates_of_differential_training_fall_from_layer_to_layer() -> None:
    network, head = Tiny(), nn.Linear(16, 3)
    options = options_of(strategy="differential", layer_decay=0.5, lr=1e-2)
    optimizer = make_optimizer(trained_parts(network, options), [], head, 1e-2, 3e-2, options)
    rates = {id(p): group["base"] for group in optimizer.param_groups for p in group["params"]}
    for depth, names in enumerate(reversed(LAYERS)):
        for name in names:
            assert rates[id(network.get_parameter(name))] == pytest.approx(1e-2 * 0.5**depth)
    assert {rates[id(p)] for p in head.parameters()} == {3e-2}


def test_a_differential_rate_of_one_is_full_training(train: Train) -> None:
    one = train("one", strategy="differential", layer_decay=1.0, epochs=1)
    other = train("other", strategy="full", epochs=1)
    assert same(one.weights, other.weights)


def test_differential_training_moves_the_first_layer_less(train: Train, tiny: dict[str, Tensor]) -> None:
    """AdamW's first step is as long as its rate: by 0.01 and more the layers part."""
    run = train(strategy="differential", layer_decay=0.1, epochs=1, lr=1e-2, batch_size=12, weight_decay=0)
    moved = [(run.weights[name] - tiny[name]).abs().max() for name in ("8.weight", "3.weight", "0.weight")]
    assert moved == pytest.approx([1e-2, 1e-3, 1e-4], rel=1e-2)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_weight_decay_falls_on_kernels_and_matrices_alone(optimizer: str) -> None:
    network, head = Tiny(), nn.Linear(16, 3)
    options = options_of(strategy="full", weight_decay=0.25, optimizer=optimizer)
    groups = make_optimizer(trained_parts(network, options), [], head, 1e-2, 1e-2, options).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in [*network.named_parameters(), *head.named_parameters()]:
        assert decays[id(parameter)] == (0.25 if parameter.dim() > 1 else 0), name
    assert len(decays) == len(list(network.parameters())) + 2


# --- adapters -------------------------------------------------------------------------------------------------------


def test_lora_becomes_plain_weights(train: Train, tiny: dict[str, Tensor]) -> None:
    run = train(strategy="lora", lora_rank=2, lora_alpha=8.0, lr=1e-2, epochs=1)
    assert changed(run.weights, tiny) == {"0.weight", "3.weight", "8.weight"}
    adapted = run.checkpoint("last", "network")
    for name in ("0", "3", "8"):
        low, high = (adapted[f"base_model.model.{name}.lora_{side}.default.weight"] for side in "AB")
        assert low.shape[0] == high.shape[1] == 2
        product = (high.flatten(1) @ low.flatten(1)).reshape(tiny[f"{name}.weight"].shape)
        torch.testing.assert_close(run.weights[f"{name}.weight"], tiny[f"{name}.weight"] + product * (8 / 2))
        assert torch.equal(adapted[f"base_model.model.{name}.base_layer.weight"], tiny[f"{name}.weight"])


@pytest.mark.parametrize(("targets", "expected"), [("8", {"8.weight"}), ("[03]", {"0.weight", "3.weight"})])
def test_lora_targets(targets: str, expected: set[str], train: Train, tiny: dict[str, Tensor]) -> None:
    run = train(strategy="lora", lora_rank=2, lora_targets=targets, lr=1e-2, epochs=1)
    assert changed(run.weights, tiny) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sface", "iresnet18", "mobilefacenet", "edgeface_xxs", "inception_resnet_v1", "resnet50", "vgg16"]
)
def test_lora_fits_every_family(name: str) -> None:
    """All linear layers and plain convolutions get an adapter, each learns, and the names come out as they were."""
    known, options = backbone_named(name), options_of(strategy="lora", lora_rank=1)
    network = known.build().eval()
    start = {key: value.clone() for key, value in network.state_dict().items()}
    wanted = {
        f"{key}.weight"
        for key, module in network.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }
    adapted = add_adapters(network, options)
    set_modes(adapted, [], options)
    size = known.preprocessing.size
    adapted(torch.randn(2, 3, size, size)).square().sum().backward()
    adapters = {key: p for key, p in adapted.named_parameters() if p.requires_grad}
    assert len(adapters) == 2 * len(wanted)
    assert not [key for key, p in adapters.items() if p.grad is None]
    with torch.no_grad():
        for p in adapters.values():
            p.fill_(1)
    assert changed(plain_state(adapted), start) == wanted
    assert len(wanted) > 10


# --- from scratch ---------------------------------------------------------------------------------------------------


def test_scratch_begins_with_weights_of_its_seed(train: Train, tiny: dict[str, Tensor]) -> None:
    """At a rate of next to nothing what comes out is what it began with."""
    still = {"strategy": "scratch", "epochs": 1, "lr": 1e-12, "weight_decay": 0.0}
    one, again, other = (train(name, **still, seed=seed).weights for name, seed in (("1", 1), ("again", 1), ("2", 2)))
    kernels = {"0.weight", "0.bias", "3.weight", "8.weight", "8.bias"}
    assert same(one, again)
    assert changed(one, tiny) >= kernels
    assert changed(one, other) >= kernels
    for name in kernels:
        assert (one[name] - other[name]).abs().max() > 1e-3
    # Statistics are learnt all the same.
    assert one["4.num_batches_tracked"] == 3 and (one["4.running_mean"] != 0).all()


# --- modes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("freeze", [False, True])
def test_modes(dropout: bool, freeze: bool) -> None:
    network = Tiny().train()
    options = options_of(strategy="partial", num_layers=2, dropout=dropout, freeze_batch_norm=freeze)
    set_modes(network, trained_parts(network, options), options)
    assert [name for name, module in network.named_children() if module.training] == [
        "3", *([] if freeze else ["4"]), "5", "6", *(["7"] if dropout else []), "8", *([] if freeze else ["9"]),
    ]  # fmt: skip


# --- rates ----------------------------------------------------------------------------------------------------------

SCHEDULES = st.builds(
    FinetuneOptions,
    schedule=st.sampled_from(["cosine", "step", "constant"]),
    warmup_epochs=st.floats(0, 5),
    step_epochs=st.integers(1, 4),
    step_factor=st.floats(0.01, 0.99),
)


@given(SCHEDULES, st.integers(1, 50), st.integers(1, 12))
def test_rates_rise_in_the_warm_up_and_fall_thereafter(options: FinetuneOptions, steps: int, epochs: int) -> None:
    factors = [rate_factor(options, step, steps, epochs) for step in range(steps * epochs)]
    warmup = round(options.warmup_epochs * steps)
    assert all(0 < factor <= 1 for factor in factors)
    rising, falling = factors[:warmup], factors[warmup:]
    assert all(a < b for a, b in pairwise(rising))
    assert all(a >= b for a, b in pairwise(falling))
    if options.schedule == "constant":
        assert set(falling) <= {1.0}
    elif options.schedule == "cosine" and falling:
        assert falling[0] == 1
        assert all(a > b for a, b in pairwise(falling))
        left = steps * epochs - warmup
        assert falling[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * (left - 1) / left)))


@given(st.integers(1, 30), st.integers(1, 4), st.floats(0.01, 0.99))
def test_steps_are_where_they_should_be(steps: int, every: int, factor: float) -> None:
    options = FinetuneOptions(schedule="step", step_epochs=every, step_factor=factor)
    for epoch in range(10):
        for step in (0, steps - 1):
            found = rate_factor(options, epoch * steps + step, steps, 10)
            assert found == pytest.approx(factor ** (epoch // every))


def test_the_optimizer_has_the_rates_of_the_schedule(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four epochs of three steps, one and a third of an epoch of it warm-up; stage 2 warms up once more."""
    seen: list[tuple[float, float]] = []
    original = Gradients.compute

    def spied(self: Gradients, *given: Any) -> Any:
        groups = self.optimizer.param_groups
        seen.append((groups[0]["lr"], groups[-1]["lr"]))
        return original(self, *given)

    monkeypatch.setattr(Gradients, "compute", spied)
    chosen = {"warmup_epochs": 1.34, "head_epochs": 1, "epochs": 4, "patience": 0, "head_factor": 10.0}
    run = train(**chosen, lr=1e-3, head_lr=1e-1)
    options = options_of(**chosen)
    assert [rate for rate, _ in seen[:3]] == pytest.approx([1e-1 * rate_factor(options, s, 3, 1) for s in range(3)])
    expected = [rate_factor(options, step, 3, 4) for step in range(12)]
    assert [rate for rate, _ in seen[3:]] == pytest.approx([1e-3 * factor for factor in expected])
    assert [rate for _, rate in seen[3:]] == pytest.approx([1e-2 * factor for factor in expected])
    assert expected[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    rows = run.history[1:]
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3 * expected[3 * epoch] for epoch in range(4)])
