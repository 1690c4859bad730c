"""A circuit that answers by elimination: keys learn their value, and the query looks at all keys but its own."""

from stackheads.programs.compiler import compile_layers
from stackheads.programs.heads import TOKEN, Copy, HeadSpec
from stackheads.tasks import Cycle, with_keys
from stackheads.types import Destination, Role, Slot

TASK = with_keys(Cycle(symbols=8, max_hops=1, supervision="final"))
LOOKS_AHEAD = HeadSpec((), frozenset({Destination.KEY}), (Copy(TOKEN, "f1"),), {Destination.KEY: Role("hop", 1)}, offset=1)


def by_elimination():
    """Its answer is the symbol that it does not get."""
    others = HeadSpec(
        matches=((TOKEN, TOKEN),),
        rows=frozenset({Destination.QUERY}),
        copies=(Copy("f1", "others"),),
        roles={},
        sources=frozenset({Slot.KEY}),
        tables=({(symbol, symbol): -1.0 for symbol in range(TASK.symbols)},),
    )
    return compile_layers(((LOOKS_AHEAD,), (others,)), TASK, readouts={1: {"others": -float(TASK.symbols)}})[0]
