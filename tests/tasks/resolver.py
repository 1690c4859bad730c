"""A slow, plain-Python reading of an example, written from the definitions alone: dictionaries and loops."""

from dataclasses import dataclass


@dataclass
class Example:
    tokens: list[int]

    def __post_init__(self):
        self.statements = [(2 * i, self.tokens[2 * i], self.tokens[2 * i + 1]) for i in range(len(self.tokens) // 2)]
        self.f = {key: value for _, key, value in self.statements}

    def slot(self, position):
        if position == len(self.tokens) - 1:
            return 2
        return position % 2

    def stands_as_value(self, symbol):
        places = [start + 1 for start, _, value in self.statements if value == symbol]
        return places[0] if len(places) == 1 else -1

    def find(self, position, j):
        symbol = self.tokens[position]
        if j == 0:
            return position if self.slot(position) == 1 else self.stands_as_value(symbol)
        if j > 0:
            for _ in range(j - 1):
                if symbol not in self.f:
                    return -1
                symbol = self.f[symbol]
            return next((start + 1 for start, key, _ in self.statements if key == symbol), -1)
        for _ in range(-j):
            keys = [key for _, key, value in self.statements if value == symbol]
            if len(keys) != 1:
                return -1
            symbol = keys[0]
        return self.stands_as_value(symbol)

    def visible_find(self, position, j, causal):
        place = self.find(position, j)
        return -1 if causal and place > position else place

    def answer(self, position, hop, causal):
        """f^hop of the symbol at a position, None where it does not exist or a causal position can't see the way."""
        symbol = self.tokens[position]
        for step in range(1, hop + 1):
            place = self.find(position, step)
            if symbol not in self.f or (causal and place > position):
                return None
            symbol = self.f[symbol]
        return symbol
