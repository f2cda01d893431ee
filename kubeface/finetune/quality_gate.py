"""The gate of a quality-routed model, learnt from clean and degraded crops."""

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from kubeface.models.quality_routing import QualityRouted, fine_structure
from kubeface.records.model import GateErrors
from kubeface.runtime.errors import require

# Crops that the gate learns from; it has five numbers to learn, which hardly need regularisation. With scikit-learn's
# own, C = 1, it took low-resolution crops that hold the photograph's sharp border for clean ones.
GATE_CROPS = 2000
GATE_C = 100.0


def fit_quality_routing(
    start: nn.Module, tuned: nn.Module, clean: Tensor, degraded: Tensor, val_clean: Tensor, val_degraded: Tensor
) -> tuple[QualityRouted, GateErrors]:
    """A quality-routed model whose gate tells degraded from clean crops by logistic regression.

    Args:
        start, tuned: the networks.
        clean, degraded: fine structure (N×4) of training crops.
        val_clean, val_degraded: the same of validation crops, to measure the gate.

    Returns:
        The model, and the shares of validation crops that it sends to the wrong network.
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
    return model, GateErrors(wrong_clean=wrong["clean"], wrong_degraded=wrong["degraded"])


def fine_structure_of(batches: list[Tensor]) -> Tensor:
    """Fine structure of prepared crops batch by batch, N×4."""
    return torch.cat([fine_structure(batch) for batch in batches]) if batches else torch.zeros(0, 4)
