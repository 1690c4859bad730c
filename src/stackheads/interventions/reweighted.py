"""Record a model that is one of many with the same parts and other weights, such as a snapshot of a run: without hooks.

That a forward without hooks is the model's, on its tokens and with edits, is proved in full for one of them (`is_fast`). All
others have the same parts and settings, and run the same sums; what other weights change is their size, and how far rounding
goes. So of each the logits are compared with the model's own on a few examples, and where they differ by more than rounding, it
is recorded and proved like any other model.
"""

from stackheads.interventions.activations import Recorded
from stackheads.interventions.proof import check_finite, is_large, recorded
from stackheads.models.forwards.fused import supported
from stackheads.models.forwards.recording import record_fused
from stackheads.models.hooks import analysing
from stackheads.models.protocol import Model
from stackheads.models.runs import Recording
from stackheads.models.trust import MATTERS, differs, state
from stackheads.tasks import Batch

FEW = 16
"""Examples of these comparisons: a forward that is not the model's is so on none."""


def is_fast(model: Model, batch: Batch) -> bool:
    """Whether models built like this one may be recorded without hooks. Cost: two forward passes and the proof, on `FEW`
    examples.
    """
    if batch.pads is not None or not supported(model):
        return False
    few = recorded(model, batch[:FEW])
    return few.hooked is None and _alike(record_fused(model, few.batch.tokens), few.run.whole())


def recorded_again(model: Model, batch: Batch, fast: bool) -> Recorded:
    """Run the model once on a batch and keep both; `fast` is what `is_fast` says of a model built like it.

    Raises as `recorded` does. Cost: a forward pass without hooks, and one on `FEW` examples; where not fast, or where a whole
    record takes much memory, that of `recorded`.
    """
    if not fast or is_large(model, batch):
        return recorded(model, batch)
    run, some = record_fused(model, batch.tokens), batch.tokens[:FEW]
    check_finite(model, run.logits)
    with analysing(model):
        reason = differs(model, some, run.logits[:FEW], model(some))
    return recorded(model, batch) if reason else Recorded(batch, run, None, state(model))


def _alike(one: Recording, other: Recording) -> bool:
    """Whether two records of the same run hold the same numbers, as far as these matter."""
    for name in ("pattern", "v", "z", "residual", "q", "k"):
        mine, its = getattr(one, name), getattr(other, name)
        if float((mine - its).abs().max()) > MATTERS * float(its.abs().max()):
            return False
    return True
