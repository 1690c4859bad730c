"""A slow, plain-Python reading of a prompt of pairs, from the definitions alone: loops, and walking the ring step by step."""


class NearestExample:
    """`pairs` pairs of a key out of `symbols` codes and one of `values`; token ids as `tasks/nearest.py` says them."""

    def __init__(self, tokens: list[int], symbols: int, values: int, layout: str):
        self.symbols, self.keys, self.values, self.slots = symbols, [], [], []
        self.query = tokens[-1]
        if layout == "pairs":
            self.query -= symbols * values
            for place, token in enumerate(tokens[:-1]):
                self._add(*divmod(token, values), place)
        else:
            for place in range(1, len(tokens) - 1, 2):
                self._add(tokens[place - 1], tokens[place] - symbols, place)

    def _add(self, key, value, slot):
        self.keys.append(key)
        self.values.append(value)
        self.slots.append(slot)

    def steps(self, code):
        """How often one has to step to a neighbour, in the better direction, to come from the query to a code."""
        ahead = back = self.query
        number = 0
        while code not in (ahead, back):
            ahead, back = (ahead + 1) % self.symbols, (back - 1) % self.symbols
            number += 1
        return number

    def by_rank(self):
        """The numbers of the pairs that lie equally far, the nearest first."""
        distances = [self.steps(key) for key in self.keys]
        return [[pair for pair, far in enumerate(distances) if far == each] for each in sorted(set(distances))]

    def find(self):
        """The value slot of the nearest key; there must be one alone."""
        (nearest,) = self.by_rank()[0]
        return self.slots[nearest]

    def answer(self):
        """What it holds."""
        return self.values[self.by_rank()[0][0]]

    def second(self):
        """The value slots of the keys that lie second nearest."""
        return {self.slots[pair] for pair in self.by_rank()[1]}
