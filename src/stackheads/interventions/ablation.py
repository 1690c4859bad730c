"""Ablate heads: replace their output z at a destination by one that carries nothing about this example.

`resample`  z of a matched example (another one of the same layout): in distribution, the one verdicts rest on.
`mean`      the mean of z over examples at the same position (positional mean).
`zero`      zeros.

Where layouts vary, what is matched and what means are over is said by `tasks/layout.py`.
"""

from collections.abc import Callable, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.interventions.activations import Recorded, acting_rows, the_heads
from stackheads.interventions.engine import Read, rerun, run_variants
from stackheads.interventions.metric import Metric, measured
from stackheads.models.forwards.patterned import mean_where
from stackheads.models.hooks import HeadEdit, all_heads
from stackheads.models.protocol import Model
from stackheads.types import HeadId, Where

Ablation = Callable[[Recorded, HeadId], Float[Tensor, "batch pos d_head"]]


def resample(clean: Recorded, head: HeadId) -> Float[Tensor, "batch pos d_head"]:
    """The head's output on each example's matched example. Raises `InterventionError` if no example has another one."""
    return clean.matched.of(clean.origin.run.output(head))


def positional_mean(clean: Recorded, head: HeadId) -> Float[Tensor, "batch pos d_head"]:
    """The head's mean output at each position. Raises `InterventionError` if all examples are one and the same."""
    origin, z = clean.origin, clean.run.output(head)
    if origin.places is None:
        return origin.means[head.layer, :, head.index].expand_as(z)
    mean = mean_where(origin.run.output(head), torch.ones_like(origin.places, dtype=torch.bool), origin.places)
    return mean if clean.part_of is None else mean[clean.part_of[1]]


def zero(clean: Recorded, head: HeadId) -> Float[Tensor, "batch pos d_head"]:
    """Nothing."""
    return clean.run.output(head).new_zeros(()).expand_as(clean.run.output(head))


ABLATIONS: MappingProxyType[str, Ablation] = MappingProxyType({"resample": resample, "mean": positional_mean, "zero": zero})


def ablation_edits(
    clean: Recorded, heads: Sequence[HeadId | str], destination: Where | str, method: str = "resample"
) -> list[HeadEdit]:
    """The edits that ablate these heads together at a destination.

    Raises `InterventionError` for an unknown method, head or destination, and where the edits could not act: no heads, a
    destination that the batch does not have, one example to take means or others' outputs from.
    """
    if method not in ABLATIONS:
        raise InterventionError(f"an ablation is one of {', '.join(ABLATIONS)}, got {method!r}: name one of these")
    rows = acting_rows(clean.batch, destination)
    return [HeadEdit(head, rows, ABLATIONS[method](clean, head)) for head in the_heads(heads)]


def ablate(
    model: Model,
    clean: Recorded,
    heads: Sequence[HeadId | str],
    destination: Where | str,
    method: str = "resample",
    read: Read = None,
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Logits with these heads ablated together at a destination; `read` as in `run_variants`. Raises `InterventionError` as
    `ablation_edits` does. Cost: one forward pass.
    """
    return rerun(model, clean, ablation_edits(clean, heads, destination, method), read=read)


def ablate_heads(
    model: Model,
    clean: Recorded,
    metric: Metric,
    destination: Where | str,
    method: str = "resample",
    read: Read = None,
) -> Float[Tensor, "layer head"]:
    """`metric(logits)`, a scalar, with each head in turn ablated at a destination; `read` as in `run_variants`.

    Raises `InterventionError` as `ablation_edits` does, and if the metric gives no scalar tensor.
    Cost: less than a forward pass for each head (`interventions/engine.py`).
    """
    variants = [ablation_edits(clean, [head], destination, method) for head in all_heads(model)]
    values = [measured(metric, logits) for logits in run_variants(model, clean, variants, read=read)]
    return torch.stack(values).unflatten(0, (model.cfg.n_layers, model.cfg.n_heads))
