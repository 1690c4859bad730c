"""A slow, plain-Python reading of a prompt of pairs, from the definitions alone: loops, and walking the ring step by step."""


class NearestExample:
    """A prompt of keys out of `symbols` codes and `values` values; token ids as `tasks/nearest.py` says them."""

    def __init__(self, tokens: list[int], symbols: int, values: int, layout: str):
        self.symbols, self.keys, self.values, self.slots, self.asking = symbols, [], [], [], {}
        if layout == "pairs":
            for place, token in enumerate(tokens[:-1]):
                self._add(*divmod(token, values), place)
            self.query = tokens[-1] - symbols * values
        else:
            for place in range(1, len(tokens) - 1, 2):
                self.asking[place - 1] = tokens[place - 1]
                self._add(tokens[place - 1], tokens[place] - symbols, place)
            self.query = tokens[-1]
        self.asking[len(tokens) - 1] = self.query

    def _add(self, key, value, slot):
        self.keys.append(key)
        self.values.append(value)
        self.slots.append(slot)

    def steps(self, code, other):
        """How often one has to step to a neighbour, in the better direction, to come from one code to another."""
        ahead = back = code
        number = 0
        while other not in (ahead, back):
            ahead, back = (ahead + 1) % self.symbols, (back - 1) % self.symbols
            number += 1
        return number

    def by_rank(self, place):
        """The pairs before a place that asks that lie equally far, the nearest first; nothing from other places."""
        if place not in self.asking:
            return []
        far = {
            pair: self.steps(self.asking[place], key)
            for pair, (key, slot) in enumerate(zip(self.keys, self.slots, strict=True))
            if slot < place
        }
        return [[pair for pair in far if far[pair] == each] for each in sorted(set(far.values()))]

    def nearest(self, place):
        """The nearest pair; None if there is none, or if two are."""
        ranks = self.by_rank(place)
        return ranks[0][0] if ranks and len(ranks[0]) == 1 else None

    def find(self, place):
        """Its value slot."""
        pair = self.nearest(place)
        return -1 if pair is None else self.slots[pair]

    def answer(self, place):
        """Its value."""
        pair = self.nearest(place)
        return None if pair is None else self.values[pair]

    def second(self, place):
        """The value slots of the pairs that are second nearest."""
        if self.nearest(place) is None or len(self.by_rank(place)) < 2:
            return set()
        return {self.slots[pair] for pair in self.by_rank(place)[1]}
