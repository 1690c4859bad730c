"""Reach: which hops can be read linearly at a destination after each layer, whatever heads did it.

For every offset j ≠ 0 of the task's find maps, a linear probe reads f^j of a position's symbol – the token at find^j – from the
residual stream after a layer, at all positions of a destination. Least squares on one half of fresh examples (features
standardised, ridge λ = 10⁻³ of the number of rows), accuracy on the other half. A hop is readable if that is at least 95 %.
All hops share one solve, since only the right-hand side differs. Cost: at most one forward pass on `examples` examples, without
hooks where that is seen to be the same (`models/trust.py`), and in the last layer only at the rows that are still needed.
"""

from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.models.forwards.fused import FusedForward
from stackheads.models.hooks import analysing, hook_name, logits_of
from stackheads.models.protocol import Model
from stackheads.models.trust import why_not_fused
from stackheads.seeds import Stream, stream
from stackheads.tasks import Batch, Task, draw
from stackheads.types import Destination

READABLE = 0.95
EXAMPLES = 4096
RIDGE = 1e-3
MAX_ROWS = 16384
"""Rows used at a destination; value slots have many in each example."""
CHUNK = 512
"""Examples drawn at once …"""
PART = 128
"""… and run at once."""


def reach(model: Model, task: Task, seed: int = 0, examples: int = EXAMPLES) -> pd.DataFrame:
    """One row per (layer, destination): `hops`, those that are readable, and `accuracy`, {hop: share} of all.

    Layer -1 is the embedding, before any head.
    """
    generator = stream(seed, Stream.REACH)
    drawn = [draw(task, min(CHUNK, examples - start), generator) for start in range(0, examples, CHUNK)]
    batches = [batch[start : start + PART] for batch in drawn for start in range(0, len(batch), PART)]
    fast = all(batch.pads is None for batch in drawn) and why_not_fused(model, _placed(model, batches[0]).tokens) is None
    kept: dict[tuple[int, Destination], list[Tensor]] = {}
    symbols: dict[Destination, list[Tensor]] = {}
    for batch in batches:
        wanted = [place for place in Destination if sum(map(len, symbols.get(place, []))) < MAX_ROWS]
        marks = {place: batch.slots == place.slot for place in wanted}
        marks = {place: at for place, at in marks.items() if bool(at.any())}
        if not marks:
            continue
        rows = torch.stack([*marks.values()]).any(dim=0).any(dim=0)
        for destination, at in marks.items():
            symbols.setdefault(destination, []).append(_symbols(batch).movedim(1, -1)[at])
        for layer, after in enumerate(_streams(model, batch, rows, fast), start=-1):
            for destination, at in marks.items():
                kept.setdefault((layer, destination), []).append(after[at[:, rows]])
    rows = []
    for (layer, destination), parts in sorted(kept.items(), key=lambda item: (item[0][0], list(Destination).index(item[0][1]))):
        accuracy = _probe(torch.cat(parts), torch.cat(symbols[destination]), task.d_vocab)
        shares = {hop: share for hop, share in zip(task.hops, accuracy, strict=True) if hop != 0 and share is not None}
        readable = tuple(hop for hop, share in shares.items() if share >= READABLE)
        rows.append({"layer": layer, "destination": str(destination), "hops": readable, "accuracy": shares})
    return pd.DataFrame(rows)


def reach_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `reach` as plain values."""
    return [
        {
            "layer": int(row["layer"]),
            "destination": row["destination"],
            "hops": list(row["hops"]),
            "accuracy": {str(hop): share for hop, share in row["accuracy"].items()},
        }
        for row in frame.to_dict(orient="records")
    ]


def reach_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """What `reach_records` gave, as a table."""
    return pd.DataFrame(
        {**row, "hops": tuple(row["hops"]), "accuracy": {int(hop): share for hop, share in row["accuracy"].items()}}
        for row in rows
    )


def _streams(model: Model, batch: Batch, rows: Bool[Tensor, "pos"], fast: bool) -> list[Float[Tensor, "batch row d_model"]]:
    """The residual stream before the first layer and after each, at these rows; `fast`: without hooks."""
    placed = _placed(model, batch)
    if fast:
        with analysing(model):
            streams = FusedForward(model, fixed=True).streams(placed.tokens, rows.nonzero().flatten().to(placed.tokens.device))
            return [each.cpu() for each in streams]
    kept: list[Tensor] = []
    names = [hook_name(0, "resid_pre"), *(hook_name(layer, "resid_post") for layer in range(model.cfg.n_layers))]

    def keep(value: Tensor, hook: Any) -> None:
        kept.append(value.cpu()[:, rows])

    with analysing(model), model.hooks(fwd_hooks=[(name, keep) for name in names]):
        logits_of(model, placed.tokens, placed.pads)
    return kept


def _placed(model: Model, batch: Batch) -> Batch:
    """On the model's device."""
    return batch.to(next(model.parameters()).device)


def _symbols(batch: Batch) -> Int[Tensor, "batch hop pos"]:
    """f^j of each position's symbol, -1 where its source does not exist or can't be attended to."""
    tokens = batch.tokens[:, None].expand(-1, batch.find.shape[1], -1)
    return tokens.gather(2, batch.find.clamp(min=0)).where(batch.find >= 0, -1)


def _probe(x: Float[Tensor, "row d_model"], symbols: Int[Tensor, "row hop"], n: int) -> list[float | None]:
    """Held-out accuracy for each hop; None where fewer than a hundred rows of a half have it."""
    x, symbols = x[:MAX_ROWS].double(), symbols[:MAX_ROWS]
    half = len(x) // 2
    mean, scale = x[:half].mean(dim=0), x[:half].std(dim=0).clamp(min=1e-6)
    features = torch.cat([(x - mean) / scale, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    known = symbols >= 0
    answers: list[float | None] = []
    weights: dict[bytes, Tensor] = {}
    for hop in range(symbols.shape[1]):
        train, test = known[:half, hop], known[half:, hop]
        if min(int(train.sum()), int(test.sum())) < 100:
            answers.append(None)
            continue
        key = train.numpy().tobytes()  # hops that exist at the same rows share a factorisation
        own = features[:half][train]
        if key not in weights:
            gram = own.T @ own
            gram += RIDGE * len(own) * torch.eye(len(gram), dtype=gram.dtype)
            weights[key] = torch.linalg.cholesky(gram)
        sums = own.new_zeros(n, own.shape[1]).index_add(0, symbols[:half, hop][train], own)  # over the rows of each symbol
        solved = torch.cholesky_solve(sums.T, weights[key])
        guess = (features[half:][test] @ solved).argmax(dim=-1)
        answers.append((guess == symbols[half:, hop][test]).double().mean().item())
    return answers
