"""The constant pattern of a head is the mean of its own rows, also where a gate divides them."""

import torch
from subjects import subject

from stackheads.labelling.bench import Label, make_bench
from stackheads.labelling.thresholds import Thresholds
from stackheads.tasks import gates
from stackheads.trial.fixed import constant_edit
from stackheads.types import Destination, Gate, HeadId


def test_a_part_of_a_destination_has_the_mean_of_that_part():
    model, task = subject("khop-k2-l3")
    bench = make_bench(model, task, 64, 0, Thresholds())
    head, known = HeadId(1, 0), gates(bench.clean.batch)["asked"]
    value = int(known[0, 0])
    label = Label(head, Destination.QUERY, None, "confirmed", Gate("asked", (value,)))
    edit = constant_edit(bench, label)
    pattern = bench.clean.run.of(head)[0]
    example, position = edit.rows.nonzero().unbind(dim=1)
    assert set(known[example, position].tolist()) == {value}
    assert 0 < len(set(example.tolist())) < len(known)
    for at in position.unique().tolist():
        mine = edit.rows[:, at]
        assert torch.allclose(edit.pattern[mine, at], pattern[mine, at].mean(dim=0).expand(int(mine.sum()), -1), atol=1e-6)
        assert not torch.allclose(pattern[mine, at].mean(dim=0), pattern[:, at].mean(dim=0), atol=1e-3)
