"""The numbers of selectors mean what the table says, by looking scores up in it."""

from dataclasses import replace

import pytest
import torch
from subjects import subject

from stackheads.explanation.examples import Examples
from stackheads.explanation.selected import LEVELS, offered
from stackheads.explanation.weights import weights_table
from stackheads.labelling.bench import make_bench
from stackheads.labelling.thresholds import Thresholds
from stackheads.tables import records


@pytest.mark.parametrize("fewer", [0, 1])
@pytest.mark.parametrize("name", ["cycle-d4-l3", "khop-k2-l3"])
def test_scores_are_what_the_table_says(name, fewer):
    """Also of a gate whose largest value the examples fitted on did not have: it has no row, and nothing is added there."""
    model, task = subject(name)
    examples = Examples(make_bench(model, task, 64, 0, Thresholds()))
    chosen = examples.everything().offering(offered(examples, *LEVELS["content"]), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    chosen = replace(
        chosen,
        weights={
            taken: torch.randn(*weight.shape[:2], max(1, weight.shape[2] - fewer), generator=generator)
            for taken, weight in chosen.weights.items()
        },
    )
    table: dict = {}
    for row in records(weights_table(chosen, examples)):
        of_selector = table.setdefault((row["head"], row["destination"], row["what"]), {})
        of_selector[row["value"], row["at"]] = row["weight"]
    several = [cell for cell in chosen.taken() if chosen.weights[cell[0], cell[2]][cell[1]].numel() > 1]
    seen = [cell for cell in several if bool(examples.rows[cell[0]].names(cell[2]).any())]
    assert set(table) == {(str(examples.head(head)), str(place), str(selector)) for place, head, selector in seen}
    for place, head, selector in seen[::7]:
        rows, numbers = examples.rows[place], table[str(examples.head(head)), str(place), str(selector)]
        score = rows.score(selector, chosen.weights[place, selector])[head].expand(len(rows), rows.n_pos)
        for row in range(0, len(rows), 1 + len(rows) // 5):
            value = None if selector.gate is None else int(rows.gates[selector.gate][row])
            for source in (rows.hidden[row] == 0).nonzero().flatten().tolist():
                if selector.kind == "role":
                    at, there = None, bool(rows.sources(selector.what)[row, source])
                elif selector.kind == "content":
                    at, there = int(rows.tokens[row, source]), int(rows.slots[row, source]) == selector.what
                elif selector.kind == "slot":
                    at, there = None, int(rows.slots[row, source]) == selector.what
                else:
                    at, there = (source if selector.what == "place" else int(rows.at[row, 1]) - source), True
                known = value is None or value < chosen.weights[place, selector].shape[2]
                assert float(score[row, source]) == pytest.approx(numbers[value, at] if there and known else 0.0, abs=1e-6)
