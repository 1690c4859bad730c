"""The flow of information and the best guesses in plain Python, written from the definitions: sets, dictionaries, loops."""

from collections import defaultdict
from functools import cache
from itertools import permutations, product


@cache
def knowledge(tokens, causal):
    """What each position knows after 0, 1, 2, … layers, as a list of lists of sets; the last layer changes nothing more."""
    places = range(len(tokens))
    edge = {(p, q) for p, q in product(places, places) if tokens[p] == tokens[q] or p // 2 == q // 2}
    layers = [[{p} for p in places]]
    while True:
        knows = layers[-1]
        learnt = [
            set().union(
                *(
                    knows[k]
                    for k in places
                    if (k <= i or not causal) and any((p, q) in edge for p in knows[i] for q in knows[k])
                )
            )
            for i in places
        ]
        if learnt == knows:
            return layers
        layers.append(learnt)


def pattern(tokens):
    """The tokens with their symbols named in order of appearance: equal for examples that differ in names only."""
    names = {}
    return tuple(names.setdefault(token, len(names)) for token in tokens)


def chain(tokens, place, hop):
    """Positions of the statements on the way to the answer of `hop`, key and value slots in turn; None if the chain ends."""
    symbol, way = tokens[place], []
    for _ in range(hop):
        starts = [start for start in range(0, len(tokens) - 1, 2) if tokens[start] == symbol]
        if not starts:
            return None
        way += [starts[0], starts[0] + 1]
        symbol = tokens[starts[0] + 1]
    return way


def places_of(destination, n_pos):
    return {"query": [n_pos - 1], "value": range(1, n_pos, 2), "key": range(0, n_pos - 1, 2)}.get(destination, ())


def readable(examples, causal, destination, hop):
    """(rows, shares per layer) for one destination and hop; layers may end earlier than the batch's."""
    known, rows = [], 0
    for tokens in examples:
        layers = knowledge(pattern(tokens), causal)
        for place in places_of(destination, len(tokens)):
            way = chain(tokens, place, hop)
            if way is not None:
                rows += 1
                known.append([set(way) <= knows[place] for knows in layers])
    depth = max((len(row) for row in known), default=0)
    return rows, [sum(row[min(t, len(row) - 1)] for row in known) / rows for t in range(depth)]


def guesses(weighted, causal, destination, hop, layer):
    """(open, seen, named, looked) over all weighted examples: dictionaries from views to weights."""
    asked = opened = 0
    named, looked = defaultdict(lambda: defaultdict(float)), defaultdict(lambda: defaultdict(float))
    for tokens, weight in weighted:
        layers = knowledge(pattern(tokens), causal)
        for place in places_of(destination, len(tokens)):
            way = chain(tokens, place, hop)
            if way is None or (causal and max(way) > place):
                continue
            asked += weight
            knows, before = (layers[min(max(t, 0), len(layers) - 1)][place] for t in (layer, layer - 1))
            if set(way) <= knows:
                continue
            opened += weight
            view, earlier = (
                (place, *(token if p in known else None for p, token in enumerate(tokens))) for known in (knows, before)
            )
            named[view][tokens[way[-1]]] += weight
            looked[earlier][way[-1]] += weight
    if not opened:
        return None
    in_view = sum(max((w for answer, w in counts.items() if answer in view[1:]), default=0) for view, counts in named.items())
    best = sum(max(counts.values()) for counts in named.values())
    look = sum(max(counts.values()) for counts in looked.values()) if layer else 0
    return opened / asked, in_view / opened, best / opened, look / opened


def cycles(symbols):
    """Every example of the shuffled cycle, equally likely."""
    for ring in permutations(range(1, symbols)):
        links = list(zip((0, *ring), (*ring, 0), strict=True))
        for order in permutations(links):
            for query in range(symbols):
                yield (*(token for link in order for token in link), query), 1.0


def retrievals(chains, hops, symbols):
    """Every example of definition-first retrieval with its weight, from the docstring of `tasks/retrieval.py`."""
    for layout in set(permutations([chain for chain in range(chains) for _ in range(hops)])):
        levels = [layout[:s].count(chain) for s, chain in enumerate(layout)]
        asked = [
            mine
            for mine in range(chains)
            if all(
                level == 0 or any(layout[e] != mine and levels[e] == level - 1 for e in range(s))
                for s, (chain, level) in enumerate(zip(layout, levels, strict=True))
                if chain == mine
            )
        ]
        for mine, names in product(asked, permutations(range(symbols), chains * (hops + 1))):
            symbol = [names[chain * (hops + 1) : (chain + 1) * (hops + 1)] for chain in range(chains)]
            statements = [(symbol[c][level + 1], symbol[c][level]) for c, level in zip(layout, levels, strict=True)]
            yield (*(token for pair in statements for token in pair), symbol[mine][hops]), 1 / len(asked)
