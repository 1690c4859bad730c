"""Path patching against TransformerLens' own hooks on a receiver's query, key and value inputs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import InterventionError
from stackheads.interventions import INPUTS, Sender, ablate, destination_rows, direct_logits, receiver_outputs, recorded, rerun
from stackheads.models import ModelConfig, build
from stackheads.models.hooks import HeadEdit
from stackheads.models.native import has_hooked_transformer
from stackheads.tasks import Cycle
from stackheads.types import Destination, HeadId


def make(seed=0, direction="causal", normalization="LN", mlp=False, layers=3, heads=2):
    task = Cycle(symbols=5, max_hops=2, attention_dir=direction)
    config = ModelConfig(
        layers=layers, heads=heads, d_model=16, d_head=8, normalization=normalization, attn_only=not mlp, dtype="float64"
    )
    model = build(config, task, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    clean = recorded(model.eval(), task.sample(5, generator))
    return model, clean


def resampled(clean, head, destination):
    return Sender(head, destination_rows(clean.batch, destination), clean.matched.of(clean.run.of(head)[2]))


def with_transformer_lens(model, clean, receiver, sender, part):
    """Add the sender's change to one split input of the receiver only, and read the receiver's z."""
    change = (sender.z - clean.run.of(sender.head)[2]) * sender.rows[..., None]
    written = change @ model.blocks[sender.head.layer].attn.W_O[sender.head.index]
    kept = {}

    def add(value, hook):
        value = value.clone()
        value[:, :, receiver.index] += written
        return value

    def keep(value, hook):
        kept["z"] = value[:, :, receiver.index]

    prefix = f"blocks.{receiver.layer}"
    model.set_use_split_qkv_input(True)
    try:
        with torch.no_grad():
            model.run_with_hooks(
                clean.batch.tokens, fwd_hooks=[(f"{prefix}.hook_{part}_input", add), (f"{prefix}.attn.hook_z", keep)]
            )
    finally:
        model.set_use_split_qkv_input(False)
    return kept["z"]


@pytest.mark.skipif(not has_hooked_transformer(), reason="a bridge around TransformerLens' own model has no split inputs")
@settings(max_examples=20)
@given(
    seed=st.integers(0, 50),
    direction=st.sampled_from(["causal", "bidirectional"]),
    normalization=st.sampled_from(["LN", None]),
    mlp=st.booleans(),
    part=st.sampled_from(INPUTS),
    destination=st.sampled_from([Destination.QUERY, Destination.VALUE, Destination.KEY]),
    gap=st.integers(1, 2),
)
def test_a_receiver_sees_what_transformer_lens_shows_it(seed, direction, normalization, mlp, part, destination, gap):
    model, clean = make(seed, direction, normalization, mlp)
    receiver = HeadId(2, seed % 2)
    senders = [resampled(clean, HeadId(2 - gap, index), destination) for index in range(2)]
    outputs = receiver_outputs(model, clean, receiver, senders, part)
    for sender, output in zip(senders, outputs, strict=True):
        expected = with_transformer_lens(model, clean, receiver, sender, part)
        torch.testing.assert_close(output, expected, atol=1e-9, rtol=1e-9)


def test_a_sender_that_changes_nothing_leaves_the_run_as_it_is():
    model, clean = make()
    head, receiver = HeadId(0, 0), HeadId(1, 1)
    rows = destination_rows(clean.batch, "value")
    same = Sender(head, rows, clean.run.of(head)[2])
    for part in INPUTS:
        (output,) = receiver_outputs(model, clean, receiver, [same], part)
        torch.testing.assert_close(
            rerun(model, clean, [HeadEdit(receiver, rows, output)]), clean.run.logits, atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(direct_logits(model, clean, same), clean.run.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mlp", [False, True])
def test_the_direct_path_of_a_head_in_the_last_layer_is_all_it_does_without_mlps(mlp):
    model, clean = make(mlp=mlp)
    head = HeadId(2, 1)
    direct = direct_logits(model, clean, resampled(clean, head, "query"))
    total = ablate(model, clean, [head], "query")
    assert torch.allclose(direct, total, atol=1e-4) != mlp


def test_query_paths_stay_at_their_row_and_key_paths_do_not():
    """A change at value slots can't reach a query made at the last token, but its keys."""
    model, clean = make(direction="bidirectional")
    receiver, sender = HeadId(1, 0), resampled(clean, HeadId(0, 0), "value")
    at_query = destination_rows(clean.batch, "query")
    clean_z = clean.run.of(receiver)[2]
    outputs = {part: receiver_outputs(model, clean, receiver, [sender], part)[0] for part in INPUTS}
    torch.testing.assert_close(outputs["q"][at_query], clean_z[at_query], atol=1e-5, rtol=1e-5)
    for part in ("k", "v"):
        assert not torch.allclose(outputs[part][at_query], clean_z[at_query], atol=1e-3)


def test_paths_run_forward_only():
    model, clean = make()
    with pytest.raises(InterventionError, match="later layer, got L1H0 to L1H1: swap"):
        receiver_outputs(model, clean, HeadId(1, 1), [resampled(clean, HeadId(1, 0), "value")], "q")
