"""The super-resolution networks that can be trained here: ESPCN and EDSR for twice, four and eight times the size.

Both add to the bicubic enlargement what a network makes of the small image, which it works on until the last layer
spreads its channels over the pixels (Shi et al., arXiv 1609.05158). That layer begins at 0, so that a network that has
not learnt anything is the bicubic enlargement.

    ESPCN   Shi et al., CVPR 2016, arXiv 1609.05158: three convolutions, here with `blocks` in the middle
    EDSR    Lim et al., CVPR Workshops 2017, arXiv 1707.02921: residual blocks without batch norm, scaled by 0.1
"""

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle

from kubeface.records.superresolution import NetworkDesign
from kubeface.runtime.errors import KubefaceError, require
from kubeface.runtime.options import read_options

RESIDUAL_SCALE = 0.1  # EDSR, section 3.3
KEY = "kubeface_superresolution"  # in the header of a .safetensors file: what the network is, as JSON


class Block(nn.Module):
    """Two convolutions beside an identity, EDSR's; channels are kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """N×C×H×W to the same."""
        found: Tensor = self.second(torch.relu(self.first(maps)))
        return maps + RESIDUAL_SCALE * found


class Enlarging(nn.Module):
    """A network from small images (N×3×H×W, RGB 0…1) to large ones (N×3×sH×sW, about 0…1), see `NetworkDesign`.

    Raises:
        KubefaceError: an argument is out of its range.
    """

    def __init__(self, architecture: str, scale: int, channels: int = 48, blocks: int = 8) -> None:
        super().__init__()
        given = {"architecture": architecture, "scale": scale, "channels": channels, "blocks": blocks}
        self.design = read_options(NetworkDesign, given)
        side = 5 if architecture == "espcn" else 3
        self.head = nn.Conv2d(3, channels, side, padding=side // 2)
        if architecture == "espcn":
            middle: list[nn.Module] = [nn.Tanh()]
            for _ in range(blocks):
                middle += [nn.Conv2d(channels, channels, 3, padding=1), nn.Tanh()]
        else:
            middle = [Block(channels) for _ in range(blocks)]
            middle.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.middle = nn.Sequential(*middle)
        self.tail = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """N×3×H×W to N×3×sH×sW."""
        base = interpolate(images, scale_factor=float(self.design.scale), mode="bicubic", align_corners=False)
        maps = self.head(images)
        found = self.middle(maps)
        if self.design.architecture == "edsr":
            found = found + maps
        return base + pixel_shuffle(self.tail(found), self.design.scale)


def save_network(network: Enlarging, path: Path) -> None:
    """Writes the weights as .safetensors, what the network is made of in its header."""
    state = {name: value.detach().float().cpu().contiguous() for name, value in network.state_dict().items()}
    safetensors.torch.save_file(state, path, {KEY: json.dumps(network.design.model_dump(), sort_keys=True)})


def load_network(path: Path) -> Enlarging:
    """The network of a file that save_network wrote, on the CPU, in evaluation mode.

    Raises:
        KubefaceError: the file cannot be read, or holds something else.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            known = (file.metadata() or {}).get(KEY)
        require(
            known is not None,
            f"{path} says nothing of a super-resolution network: give a file of train_superresolution",
        )
        network = Enlarging(**json.loads(str(known)))
        network.load_state_dict(safetensors.torch.load_file(path))
    except KubefaceError:
        raise
    except Exception as error:  # safetensors' own error, OSError, ValueError, TypeError, torch's RuntimeError
        reason = (str(error).splitlines() or [""])[0]
        raise KubefaceError(f"{path} is no readable super-resolution network: {reason}") from error
    return network.eval()
