"""What keeps a fine-tuned model from forgetting once it is trained: interpolation with its start, and the guard."""

from collections.abc import Callable, Mapping

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from kubeface.models.quality_routing import QualityRouted, fine_structure
from kubeface.runtime.errors import require

ALPHAS = tuple(number / 10 for number in range(11))
# Crops that the gate learns from; it has five numbers to learn, which hardly need regularisation. With scikit-learn's
# own, C = 1, it took few pixels whose crop ends in the photograph's sharp border for many.
GATE_CROPS = 2000
GATE_C = 100.0


def interpolated(start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 − α)·start + α·tuned for every floating-point tensor (WiSE-FT, Wortsman et al., arXiv 2109.01903)."""
    return {
        name: torch.lerp(start[name], value, alpha) if value.dtype.is_floating_point and alpha < 1 else value
        for name, value in tuned.items()
    }


def choose_alpha(
    start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], score: Callable[[dict[str, Tensor]], float]
) -> tuple[float, dict[str, float]]:
    """The α of the highest score, the least of several equals, and every score by α."""
    scores = {f"{alpha:g}": score(interpolated(start, tuned, alpha)) for alpha in ALPHAS}
    return max(ALPHAS, key=lambda alpha: (scores[f"{alpha:g}"], -alpha)), scores


def fit_guard(
    start: nn.Module, tuned: nn.Module, clean: Tensor, degraded: Tensor, val_clean: Tensor, val_degraded: Tensor
) -> tuple[QualityRouted, dict[str, float | None]]:
    """A guarded model whose gate tells degraded from clean crops by logistic regression.

    Args:
        start, tuned: the networks.
        clean, degraded: fine structure (N×4) of training crops.
        val_clean, val_degraded: the same of validation crops, to measure the gate.

    Returns:
        the model, and the shares of validation crops that go the wrong way, None where there are none.
    """
    require(len(clean) > 0 and len(degraded) > 0, "guard needs clean and degraded crops: set degradation")
    rows = torch.cat([clean, degraded]).double().cpu()
    truth = torch.cat([torch.zeros(len(clean)), torch.ones(len(degraded))])
    mean, spread = rows.mean(0), rows.std(0).clamp(min=1e-6)
    fitted = LogisticRegression(C=GATE_C, class_weight="balanced").fit(((rows - mean) / spread).numpy(), truth.numpy())
    weight = torch.from_numpy(fitted.coef_[0]) / spread
    model = QualityRouted(start, tuned).to(clean.device)
    with torch.no_grad():
        model.weight.copy_(weight)
        model.bias.fill_(float(fitted.intercept_[0]) - float(weight @ mean))
    wrong = {
        name: float(((found @ model.weight + model.bias > 0) != is_degraded).double().mean()) if len(found) else None
        for name, found, is_degraded in (("clean", val_clean, False), ("degraded", val_degraded, True))
    }
    return model, {f"wrong_{name}": share for name, share in wrong.items()}


def fine_structure_of(batches: list[Tensor]) -> Tensor:
    """Fine structure of prepared crops batch by batch, N×4."""
    return torch.cat([fine_structure(batch) for batch in batches]) if batches else torch.zeros(0, 4)
