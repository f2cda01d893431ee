"""EdgeFace (George et al., IEEE T-BIOM 2024, arXiv 2307.01838): timm's EdgeNeXt with an embedding as its classifier.

Names as in the checkpoints of otroshi/edgeface. The models with γ have every linear layer in two factors (its LoRaLin).
"""

from torch import Tensor, nn

EMBEDDING_SIZE = 512


class LowRankLinear(nn.Module):
    """A linear layer in two factors of rank max(2, ⌊γ · min(inputs, outputs)⌋), the first without bias."""

    def __init__(self, linear: nn.Linear, gamma: float) -> None:
        super().__init__()
        rank = max(2, int(min(linear.in_features, linear.out_features) * gamma))
        self.linear1 = nn.Linear(linear.in_features, rank, bias=False)
        self.linear2 = nn.Linear(rank, linear.out_features, bias=linear.bias is not None)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear2(self.linear1(features))  # type: ignore[no-any-return]


class EdgeFace(nn.Module):
    """Normalised images, N×3×112×112 float, to embeddings, N×512 float (not of unit length).

    `name` is timm's of the EdgeNeXt, gamma the share of the rank that the linear layers keep; 0 leaves them whole.
    """

    def __init__(self, name: str, gamma: float = 0.0) -> None:
        from timm import create_model

        super().__init__()
        self.model = create_model(name, num_classes=EMBEDDING_SIZE)
        if gamma:
            for path, module in list(self.model.named_modules()):
                if isinstance(module, nn.Linear):
                    self.model.set_submodule(path, LowRankLinear(module, gamma))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)  # type: ignore[no-any-return]
