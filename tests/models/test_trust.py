"""Whether a model is the one that it was, as a device tells it."""

import pytest
import torch

from stackheads.models import ModelConfig, build
from stackheads.models.trust import _sums, fingerprint
from stackheads.tasks import Cycle


def test_on_a_device_every_tensor_of_a_model_is_itself_and_no_other():
    """Also those that are not finite, as the mask's -inf that every attention of TransformerLens holds."""
    task = Cycle(symbols=4, max_hops=1)
    model, other = (build(ModelConfig(layers=1, heads=2, d_model=8, d_head=4), task, seed) for seed in (0, 1))
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    tensors |= {"none is finite": torch.tensor([-torch.inf, torch.inf, torch.nan])}
    assert any(not bool(each.isfinite().all()) for each in tensors.values())
    for each in tensors.values():
        assert torch.equal(_sums(each), _sums(each.clone()))
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(_sums(one), _sums(two)) == torch.equal(one, two)
    assert fingerprint(model) != fingerprint(other)


@pytest.mark.parametrize("change", [lambda x: x.flip(0), lambda x: -x, lambda x: x.index_fill(0, torch.tensor([1]), torch.inf)])
def test_what_has_changed_is_seen(change):
    numbers = torch.linspace(-1, 2, 7)
    assert not torch.equal(_sums(numbers), _sums(change(numbers)))
