"""The trained k-hop checkpoint: an induction circuit, checked by hand, whose labels explain its answers."""

import pytest
import torch

from stackheads import analyze, load
from stackheads.labelling.bench import make_bench, read_labels
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.hooks import analysing
from stackheads.tables import records
from stackheads.trial.sufficiency import sufficiency


@pytest.fixture(scope="module")
def analysis(checkpoints):
    return analyze(checkpoints / "khop-k2-l3", examples=128, progress=False, explain=False)


def test_two_induction_heads_on_a_previous_token_head(analysis):
    """Layer 0: what stood before, and how many hops are asked; layer 1 one hop; layer 2 one more, over what layer 1 found."""
    assert analysis.accuracy == {1: 1.0, 2: 1.0}
    assert analysis.hops == {1: ["L1H0", "L2H1"]}
    assert analysis.confirmed("previous") == ["L0H0"]
    assert analysis.confirmed("start") == ["L0H1"]


@pytest.mark.parametrize(("layer", "head"), [(1, 0), (2, 1)])
def test_they_look_behind_the_last_earlier_occurrence(checkpoints, layer, head):
    """Counted out in a loop over the tokens, whatever the number of hops asked."""
    checkpoint = load(checkpoints / "khop-k2-l3")
    tokens = checkpoint.task.sample(32, torch.Generator().manual_seed(3)).tokens
    looked_at = checkpoint.model.run_with_cache(tokens)[1][f"blocks.{layer}.attn.hook_pattern"][:, head].argmax(dim=-1)
    hits = []
    for example, string in enumerate(tokens.tolist()):
        for place in range(2, len(string)):
            earlier = [before for before in range(1, place) if string[before] == string[place]]
            if earlier:
                hits.append(int(looked_at[example, place]) == earlier[-1] + 1)
    assert sum(hits) / len(hits) > 0.98


def test_the_labels_explain_the_answers(analysis):
    model, task = analysis.subject
    bench = make_bench(model, task, 128, 0, Thresholds())
    with analysing(model):
        table = sufficiency(bench, read_labels(analysis.labels))
    shares = {(row["variant"], row["hop"]): row["recovered"] for row in records(table) if row["destination"] == "query"}
    assert {hop for _, hop in shares} == {1, 2}
    for variant in ("ideal", "resample", "own"):
        for hop in (1, 2):
            assert shares[variant, hop] == pytest.approx(1, abs=0.1)
