"""Attribution patching: the first-order guess of what patching each head at each position would do. An approximation, always.

For a metric m of the logits and every head output z at every position, m(patched) - m(clean) ≈ ∂m/∂z · (z' - z), with z' from
another run (Nanda 2023; Syed et al. 2023, arXiv 2310.10348). Two forward passes and one backward give all cells at once. With
`steps` > 1 the gradient is averaged along the straight line between the two runs' embeddings (integrated gradients:
Sundararajan et al. 2017, arXiv 1703.01365; Hanna et al. 2024, arXiv 2403.17806): a forward and a backward pass each step.

How good the guess is depends on the model, so it is never given alone: `attribution` also computes the exact values with the
engine (`interventions/engine.py`) and says how well the two correlate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.interventions.activations import Recorded
from stackheads.interventions.engine import Read
from stackheads.interventions.metric import Metric, gradient_of, measured
from stackheads.interventions.patching import patch_heads_by_position
from stackheads.limits import check_number
from stackheads.models.hooks import Pads, evaluating, hook_name, logits_of, precise
from stackheads.models.kinds import check_model
from stackheads.models.protocol import Model


@dataclass(frozen=True)
class Attribution:
    """Change of the metric when a head at a position is patched: guessed, exact, and how well they go together.

    `correlation` is Pearson's over all cells; 0 where one of the two is constant.
    """

    guess: Float[Tensor, "layer pos head"]
    exact: Float[Tensor, "layer pos head"]
    correlation: float


@precise()
def attribution(
    model: Model, into: Recorded, source: Recorded, metric: Metric, steps: int = 1, read: Read = None
) -> Attribution:
    """Guess and exact effect of patching each head at each position of `into` with its output on `source`.

    `metric` is a differentiable scalar of the logits; `read` as in `patch_heads_by_position`. Raises `InterventionError` if
    steps < 1, the batches differ in shape, or the metric is none.
    Cost: `steps` forward and backward passes, and the engine's sweep.
    """
    guess = guess_by_gradient(model, into, source, metric, steps)
    exact = patch_heads_by_position(model, into, source, metric, read) - measured(metric, into.run.logits)
    both = torch.stack([guess.flatten(), exact.flatten()]).double()
    spread = both.std(dim=1).min()
    correlation = torch.corrcoef(both)[0, 1].item() if spread > 0 else 0.0
    return Attribution(guess, exact, correlation)


@precise()
def guess_by_gradient(
    model: Model, into: Recorded, source: Recorded, metric: Metric, steps: int = 1
) -> Float[Tensor, "layer pos head"]:
    """∂m/∂z · (z' - z), summed over examples and d_head; the gradient at `into`, or averaged over `steps` points on the way."""
    steps = check_number("attribution's steps", steps, 1, cure="use 1, or more to integrate")
    if into.run.z.shape != source.run.z.shape:
        raise InterventionError(
            f"attribution needs two batches of one shape, got {tuple(into.batch.tokens.shape)} and "
            f"{tuple(source.batch.tokens.shape)}: take the counterfactual of the same batch"
        )
    shares = [0.0] if steps == 1 else [(step + 0.5) / steps for step in range(steps)]
    gradient = sum(_gradient(model, into, source, metric, share) for share in shares)
    assert isinstance(gradient, Tensor)
    return torch.einsum("lbphd,lbphd->lph", gradient / steps, source.run.z - into.run.z)


def _gradient(
    model: Model, into: Recorded, source: Recorded, metric: Metric, share: float
) -> Float[Tensor, "layer batch pos head d_head"]:
    """∂m/∂z of all layers where the embedding is `share` of the way to the source's."""

    def move(value: Tensor, hook: Any) -> Tensor:
        assert source.run.residual is not None
        return value + share * (source.run.residual[0] - value)

    moving = [(hook_name(0, "resid_pre"), move)] if share and source.run.residual is not None else []
    return gradients(model, into.batch.tokens, metric, moving, into.batch.pads)


def gradients(
    model: Model, tokens: Int[Tensor, "batch pos"], metric: Metric, hooks: Sequence[Any] = (), pads: Pads = None
) -> Float[Tensor, "layer batch pos head d_head"]:
    """∂m/∂z of all layers' heads on these tokens, with further hooks in place. Cost: a forward and a backward pass.

    Raises `InterventionError` if the metric gives no scalar tensor or has no gradient.
    """
    check_model(model)
    shape = (*tokens.shape, model.cfg.n_heads, model.cfg.d_head)
    like = next(model.parameters())
    deltas = [torch.zeros(shape, dtype=like.dtype, device=like.device, requires_grad=True) for _ in range(model.cfg.n_layers)]

    def add(value: Tensor, hook: Any) -> Tensor:
        return value + deltas[hook.layer()]

    every = [(hook_name(layer, "z"), add) for layer in range(len(deltas))]
    with evaluating(model), precise(), torch.enable_grad(), model.hooks(fwd_hooks=[*every, *hooks]):
        return torch.stack(gradient_of(metric, logits_of(model, tokens, pads), deltas))
