"""Random architectures, runs and edits that property tests draw from."""

import torch
from hypothesis import strategies as st

from stackheads.interventions import recorded
from stackheads.models import ModelConfig, build, named_weights
from stackheads.models.hooks import CarryEdit, HeadEdit, PatternEdit
from stackheads.tasks import Cycle
from stackheads.types import HeadId

DIRECTIONS = st.sampled_from(["causal", "bidirectional"])
SEEDS = st.integers(0, 1000)
READS = st.sampled_from(["all", "last", "odd", "none"])
ROWS = ("query", "value", "everywhere", "first", "one", "none")


@st.composite
def configs(draw, positions=("standard",), dtypes=("float32", "float64")):
    return ModelConfig(
        layers=draw(st.integers(1, 4)),
        heads=draw(st.integers(1, 8)),
        d_model=draw(st.sampled_from([8, 24])),
        d_head=draw(st.sampled_from([4, 8, 48])),
        attn_only=draw(st.booleans()),
        normalization=draw(st.sampled_from(["LN", None])),
        positions=draw(st.sampled_from(positions)),
        dtype=draw(st.sampled_from(dtypes)),
    )


@st.composite
def places(draw, config, at_most=3):
    """Where edits are made: (layer, head, of its output, its pattern or what it carries, which rows)."""
    layer, head = st.integers(0, config.layers - 1), st.integers(0, config.heads - 1)
    kind = st.sampled_from(["z", "pattern", "carried"])
    return draw(st.lists(st.tuples(layer, head, kind, st.sampled_from(ROWS)), max_size=at_most))


def random_run(config, direction, seed, symbols=5, examples=3, sharp=False):
    """A task, an untrained model, and a run of it; `sharp`: attention is all on few sources."""
    task = Cycle(symbols=symbols, max_hops=2, attention_dir=direction)
    model = build(config, task, seed=seed).eval()
    if sharp:
        with torch.no_grad():
            for name, weight in named_weights(model).items():
                if name.endswith("W_Q"):
                    weight *= 300
    return task, model, recorded(model, task.sample(examples, torch.Generator().manual_seed(seed)))


def make_edit(batch, config, place, generator):
    layer, index, kind, where = place
    n, p = batch.tokens.shape
    position = torch.arange(p).expand(n, p)
    rows = {
        "query": batch.slots == 2,
        "value": batch.slots == 1,
        "everywhere": position >= 0,
        "first": position == 0,
        "one": position == 2,
        "none": position < 0,
    }[where]
    dtype = getattr(torch, config.dtype)
    output = torch.randn(n, p, config.d_head, generator=generator).to(dtype)
    if kind == "z":
        return HeadEdit(HeadId(layer, index), rows, output)
    if kind == "carried":
        return CarryEdit(HeadId(layer, index), rows, output, output)
    pattern = torch.rand(n, p, p, generator=generator).tril().to(dtype)
    return PatternEdit(HeadId(layer, index), rows, pattern / pattern.sum(dim=-1, keepdim=True))


def marks(read, n_pos):
    position = torch.arange(n_pos)
    return {"all": None, "last": position == n_pos - 1, "odd": position % 2 == 1, "none": position < 0}[read]


def assert_same_logits(found, expected, config, rows=slice(None)):
    """Equal to 1e-5 (float32) or 1e-10 (float64), of the size of the logits."""
    tolerance = 1e-10 if config.dtype == "float64" else 1e-5
    bound = tolerance * max(1, expected.abs().max().item())
    torch.testing.assert_close(found[:, rows], expected[:, rows], atol=bound, rtol=tolerance)
