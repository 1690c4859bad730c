"""What is measured of logits: any function of them that gives one number, as a tensor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stackheads.errors import InterventionError

Metric = Callable[[Tensor], Tensor]


def measured(metric: Metric, logits: Tensor) -> Tensor:
    """The metric of these logits. Raises `InterventionError` if it is no scalar tensor."""
    if not callable(metric):
        raise InterventionError(
            f"a metric is a function of the logits, got {_kind(metric)}: give one, such as margins(…).mean()"
        )
    value = metric(logits)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise InterventionError(f"a metric gives a tensor of one number, got {_kind(value)}: end it with .mean() or .sum()")
    return value.reshape(())


def gradient_of(metric: Metric, logits: Tensor, wanted: list[Tensor]) -> tuple[Tensor, ...]:
    """∂metric / ∂wanted. Raises `InterventionError` if the metric has none."""
    value = measured(metric, logits)
    if not value.requires_grad:
        raise InterventionError(
            f"attribution needs a metric with a gradient, got one that gives {_kind(value)} without: "
            "make it of the logits by differentiable steps (no argmax, detach or item)"
        )
    return torch.autograd.grad(value, wanted)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:60]
