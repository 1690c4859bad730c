"""The same model written down differently: functions from a model to one that computes the same, for tests of invariance.

All of them work in double precision on a copy and leave the model given as it was. Models are `HookedTransformer`s with
LayerNorm or none, learned positions and ReLU MLPs or none, as everything in this project is.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from stackheads.models.config import hooked
from stackheads.tasks import Batch
from stackheads.types import IGNORE, HeadId


def copied(model, **changes):
    """A model with the same weights; `changes` to its settings, such as another dtype or kind of normalisation."""
    cfg = model.cfg
    names = "n_layers n_heads d_model d_head n_ctx d_vocab d_vocab_out attn_only d_mlp act_fn normalization_type attention_dir"
    settings = {name: getattr(cfg, name) for name in [*names.split(), "dtype"]} | changes
    with torch.random.fork_rng(devices=[]):
        other = hooked(**settings, positional_embedding_type="standard", device="cpu")
    held = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(held[name])
    return other.eval().requires_grad_(False)


def doubled(model):
    """In float64."""
    return copied(model, dtype=torch.float64)


def _like(rewritten, model):
    return copied(rewritten, dtype=model.cfg.dtype)


def folded(model, pre=False):
    """Weights and biases of every LayerNorm folded into the linear maps after it; what is left has w = 1 and b = 0.

    `pre`: as TransformerLens stores such models, with LayerNorms that have no weights ("LNPre").
    """
    other = doubled(model)
    if model.cfg.normalization_type != "LN":
        return copied(model)
    for block in other.blocks:
        attn = block.attn
        for part in "QKV":
            weight, bias = getattr(attn, f"W_{part}"), getattr(attn, f"b_{part}")
            _fold(block.ln1, weight, bias, "h m d, m -> h d")
        _reset(block.ln1)
        if not model.cfg.attn_only:
            _fold(block.ln2, block.mlp.W_in, block.mlp.b_in, "m f, m -> f")
            _reset(block.ln2)
    _fold(other.ln_final, other.unembed.W_U, other.unembed.b_U, "m v, m -> v")
    _reset(other.ln_final)
    return copied(other, dtype=model.cfg.dtype, **({"normalization_type": "LNPre"} if pre else {}))


def _fold(norm, weight, bias, equation):
    bias += torch.einsum(equation, weight, norm.b)
    weight *= norm.w[:, None]


def _reset(norm):
    norm.w.fill_(1)
    norm.b.zero_()


def orthogonal(size, generator):
    """A random orthogonal matrix."""
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.double, generator=generator))[0]


def rotation(d_model, generator, keep_mean):
    """A random orthogonal matrix; `keep_mean`: one that leaves the vector of ones where it is."""
    if not keep_mean:
        return orthogonal(d_model, generator)
    ones = torch.ones(d_model, 1, dtype=torch.double)
    basis = torch.linalg.qr(torch.cat([ones, torch.eye(d_model, dtype=torch.double)[:, 1:]], dim=1))[0]
    inside = torch.eye(d_model, dtype=torch.double)
    inside[1:, 1:] = orthogonal(d_model - 1, generator)
    return basis @ inside @ basis.T


def rotated(model, generator):
    """The basis of the residual stream rotated.

    LayerNorm subtracts the mean and divides by the length: rotations that leave the vector of ones where it is pass through
    it. Its weights single out directions, so they are folded away first.
    """
    norms = model.cfg.normalization_type is not None
    other, turn = doubled(folded(doubled(model))), rotation(model.cfg.d_model, generator, keep_mean=norms)
    writing = [other.embed.W_E, other.pos_embed.W_pos]
    reading = [other.unembed.W_U]
    for block in other.blocks:
        writing += [block.attn.W_O, block.attn.b_O]
        reading += [block.attn.W_Q, block.attn.W_K, block.attn.W_V]
        if not model.cfg.attn_only:
            writing += [block.mlp.W_out, block.mlp.b_out]
            reading += [block.mlp.W_in]
    for weight in writing:
        weight.copy_(weight @ turn)
    for weight in reading:
        weight.copy_(turn.T @ weight)
    return _like(other, model)


def well_conditioned(size, generator):
    """A random invertible matrix whose singular values are between 1/2 and 2."""
    values = 2 ** (2 * torch.rand(size, dtype=torch.double, generator=generator) - 1)
    return orthogonal(size, generator) @ torch.diag(values) @ orthogonal(size, generator)


def refactored(model, generator):
    """W_Q W_K and W_V W_O of every head factored otherwise: by A and A⁻¹ᵀ, and by B and B⁻¹."""
    other = doubled(model)
    for block in other.blocks:
        attn = block.attn
        for head in range(model.cfg.n_heads):
            scores, values = (well_conditioned(model.cfg.d_head, generator) for _ in range(2))
            changes = {"Q": scores, "K": torch.linalg.inv(scores).T, "V": values}
            for part, change in changes.items():
                for kind in ("W", "b"):
                    weight = getattr(attn, f"{kind}_{part}")[head]
                    weight.copy_(weight @ change)
            attn.W_O[head].copy_(torch.linalg.inv(values) @ attn.W_O[head])
    return _like(other, model)


def with_heads_permuted(model, generator):
    """The heads of each layer in another order, and the new name of every head."""
    other, names = copied(model), {}
    for layer, block in enumerate(other.blocks):
        order = torch.randperm(model.cfg.n_heads, generator=generator)
        names |= {HeadId(layer, old): HeadId(layer, new) for new, old in enumerate(order.tolist())}
        for name, weight in block.attn.named_parameters():
            if name != "b_O":
                weight.copy_(weight[order].clone())
    return other, names


def renamed(model, task, generator):
    """Tokens and answers under other numbers, and the task that asks so."""
    names = torch.arange(task.d_vocab)
    symbols = getattr(task, "d_answer", task.d_vocab)
    names[:symbols] = torch.randperm(symbols, generator=generator)
    if symbols < task.d_vocab:
        names[symbols:] = symbols + torch.randperm(task.d_vocab - symbols, generator=generator)
    other = copied(model)
    other.embed.W_E[names] = model.embed.W_E
    columns = torch.arange(task.d_vocab_out).unflatten(0, (-1, symbols))
    other.unembed.W_U[:, columns[:, names[:symbols]].flatten()] = model.unembed.W_U
    other.unembed.b_U[columns[:, names[:symbols]].flatten()] = model.unembed.b_U
    return other, Renamed(task, names)


class Wrapped:
    """A task that passes everything on to another; what every task has by name, so that it is seen to be one."""

    def __init__(self, task):
        self._task = task
        self.name, self.hops, self.attention_dir = task.name, task.hops, task.attention_dir
        self.n_ctx, self.d_vocab, self.d_vocab_out = task.n_ctx, task.d_vocab, task.d_vocab_out

    def __getattr__(self, name):
        return getattr(self._task, name)

    def sample(self, n, generator):
        return self._task.sample(n, generator)

    def readout(self, logits, batch):
        return self._task.readout(logits, batch)

    def counterfactual(self, batch, hop, generator, **operand):
        return self._task.counterfactual(batch, hop, generator, **operand)


class Renamed(Wrapped):
    """The same examples, token t written as `names[t]`."""

    def __init__(self, task, names):
        super().__init__(task)
        self.names, self._original = names, names.argsort()

    def _written(self, batch: Batch, names) -> Batch:
        targets = torch.where(batch.targets == IGNORE, IGNORE, names[batch.targets.clamp(min=0)])
        return replace(batch, tokens=names[batch.tokens], targets=targets)

    def sample(self, n, generator):
        return self._written(self._task.sample(n, generator), self.names)

    def counterfactual(self, batch, hop, generator, **operand):
        original = self._written(batch, self._original)
        return self._written(self._task.counterfactual(original, hop, generator, **operand), self.names)


class Shuffled(Wrapped):
    """The same examples in another order."""

    def __init__(self, task, seed):
        super().__init__(task)
        self._seed = seed

    def sample(self, n, generator):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self._seed))
        return self._task.sample(n, generator)[order]


class Padded(Wrapped):
    """The first `first` examples, then others."""

    def __init__(self, task, first):
        super().__init__(task)
        self._first = first

    def sample(self, n, generator):
        if n <= self._first:
            return self._task.sample(n, generator)
        return joined([self._task.sample(self._first, generator), self._task.sample(n - self._first, generator)])


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches one after the other."""
    parts = {name: [getattr(batch, name) for batch in batches] for name in vars(batches[0])}
    return Batch(**{name: _joined(some) for name, some in parts.items()})


def _joined(some):
    if some[0] is None:
        return None
    if isinstance(some[0], torch.Tensor):
        return torch.cat(some)
    return {name: torch.cat([one[name] for one in some]) for name in some[0]}
