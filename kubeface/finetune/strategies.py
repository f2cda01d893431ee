"""Which parts of a backbone are trained, and how fast: the strategies of a fine-tuning."""

import copy
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kubeface.finetune.options import FinetuneOptions
from kubeface.runtime.errors import require

WEIGHTED = (nn.Conv2d, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)


@dataclass
class Part:
    """Modules that are trained together, with the factor on the learning rate."""

    modules: list[nn.Module]
    factor: float = 1.0

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the modules own themselves."""
        return [p for module in self.modules for p in module.parameters(recurse=False)]


def layers(network: nn.Module) -> list[list[nn.Module]]:
    """The layers of a network from input to output.

    A layer is a convolution or linear layer with what follows it (norm, activation, a block's scale …) up to
    the next one; what comes before the first belongs to that. Every backbone here registers its modules in
    the order in which they are used, but for the convolution beside a block (`downsample`), which comes last.
    """
    found: list[list[nn.Module]] = [[]]
    begun = False
    for module in _inside_out(network):
        if isinstance(module, WEIGHTED):
            if begun:
                found.append([])
            begun = True
        found[-1].append(module)
    return found


def _inside_out(module: nn.Module) -> Iterator[nn.Module]:
    """The modules of a network, each after those that it holds, as its own parameters are used after theirs."""
    for child in module.children():
        yield from _inside_out(child)
    yield module


def trained_parts(network: nn.Module, options: FinetuneOptions) -> list[Part]:
    """The parts of the backbone that the strategy trains, as they are before any adapter is put in.

    Raises:
        KubefaceError: partial training of more layers than there are, or none that is not frozen.
    """
    found = layers(network)
    if options.strategy == "head_only":
        return []
    if options.strategy == "partial":
        count = options.num_layers
        require(
            abs(count) <= len(found),
            f"num_layers is {count}: the backbone has {len(found)} convolutions and linear layers",
        )
        chosen = range(len(found) - count, len(found)) if count > 0 else range(options.frozen_layers, -count)
        return [Part([module for layer in chosen for module in found[layer]])]
    if options.strategy == "differential":
        # Layer-wise learning-rate decay (Howard and Ruder, ULMFiT, arXiv 1801.06146; Clark et al., arXiv 2003.10555).
        return [Part(layer, options.layer_decay**depth) for depth, layer in enumerate(reversed(found))]
    require(
        options.frozen_layers < len(found),
        f"frozen_layers is {options.frozen_layers}: the backbone has {len(found)} convolutions and linear layers",
    )
    return [Part([module for layer in found[options.frozen_layers :] for module in layer])]


def add_adapters(network: nn.Module, options: FinetuneOptions) -> nn.Module:
    """LoRA (Hu et al., arXiv 2106.09685) around the layers that the options name; all else is frozen.

    Raises:
        KubefaceError: no layer has such a name.
    """
    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]
    if options.lora_targets:
        names = [name for name in names if re.fullmatch(options.lora_targets, name)]
    require(bool(names), f"lora_targets is '{options.lora_targets}': no linear layer or plain convolution is named so")
    import peft  # slow to import

    exactly = "|".join(map(re.escape, names))  # in a list, peft takes a name for the end of others too
    config = peft.LoraConfig(r=options.lora_rank, lora_alpha=options.lora_alpha, target_modules=exactly)
    adapted: nn.Module = peft.get_peft_model(network, config)
    return adapted


def is_adapted(network: nn.Module) -> bool:
    """Whether adapters are in the network."""
    return hasattr(network, "merge_and_unload")


def merged(network: nn.Module) -> nn.Module:
    """The network with its adapters, if there are any, made part of its weights."""
    return network.merge_and_unload() if is_adapted(network) else network  # type: ignore[operator]


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The weights of a network under its own names, adapters merged into them; copies on the CPU."""
    network = merged(copy.deepcopy(network)) if is_adapted(network) else network
    return {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}


def set_modes(network: nn.Module, trained: list[Part], options: FinetuneOptions) -> None:
    """Training mode for what is trained, evaluation mode for the rest.

    So the statistics of frozen batch norms stay as they are, byte for byte; those of trained ones too with
    `freeze_batch_norm`. From scratch there are no statistics to keep.
    """
    network.eval()
    frozen: tuple[type[nn.Module], ...] = () if options.dropout else DROPOUTS
    if options.freeze_batch_norm and options.strategy != "scratch":
        frozen += BATCH_NORMS
    for part in trained:
        for module in part.modules:
            module.training = not isinstance(module, frozen)


def make_optimizer(
    parts: list[Part],
    adapters: list[nn.Parameter],
    head: nn.Module,
    rate: float,
    head_rate: float,
    options: FinetuneOptions,
) -> torch.optim.Optimizer:
    """The optimizer of a stage; every group knows its full rate as `base`.

    Weight decay falls on matrices and kernels, not on biases, norms and PReLU slopes (He et al., "Bag of
    tricks", arXiv 1812.01187).
    """
    rated = [(part.parameters(), rate * part.factor) for part in parts]
    rated += [(adapters, rate), (list(head.parameters()), head_rate)]
    groups: list[dict[str, Any]] = []
    for parameters, base in rated:
        for decay, chosen in (
            (options.weight_decay, [p for p in parameters if p.requires_grad and p.dim() > 1]),
            (0.0, [p for p in parameters if p.requires_grad and p.dim() <= 1]),
        ):
            if chosen:
                groups.append({"params": chosen, "lr": base, "base": base, "weight_decay": decay})
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=options.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def rate_factor(options: FinetuneOptions, step: int, steps_per_epoch: int, epochs: int) -> float:
    """What the full rates are multiplied by in a step (from 0) of a stage, 0 to 1."""
    warmup = round(options.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if options.schedule == "constant":
        return 1.0
    if options.schedule == "step":
        return float(options.step_factor ** (step // (options.step_epochs * steps_per_epoch)))
    share = (step - warmup) / max(1, epochs * steps_per_epoch - warmup)
    return 0.5 * (1 + math.cos(math.pi * share))
