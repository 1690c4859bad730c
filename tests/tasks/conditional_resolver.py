"""A slow, plain-Python reading of a conditional example, written from the definitions alone: dictionaries and loops."""


class ConditionalExample:
    """`facts[0][p]` is where p's kind stands, `facts[1 + k][p]` where its candidate under kind k does."""

    def __init__(self, tokens: list[int], symbols: int, kinds: int, layout: str):
        self.tokens, self.symbols = tokens, symbols
        self.facts: list[dict[int, int]] = [{} for _ in range(1 + kinds)]
        self.key_of = {}
        width = 2 + kinds if layout == "records" else 2
        for key in range(0, len(tokens) - 1, width):
            for slot in range(key + 1, key + width):
                fact = slot - key - 1 if layout == "records" else key // (2 * symbols)
                assert tokens[key] not in self.facts[fact]
                self.facts[fact][tokens[key]] = slot
                self.key_of[slot] = key
        assert all(sorted(fact) == list(range(symbols)) for fact in self.facts)

    def kind(self, symbol):
        return self.tokens[self.facts[0][symbol]] - self.symbols

    def value_slot(self, symbol):
        """Where the candidate under the symbol's own kind stands."""
        return self.facts[1 + self.kind(symbol)][symbol]

    def next(self, symbol):
        return self.tokens[self.value_slot(symbol)]

    def after(self, symbol, steps):
        for _ in range(steps):
            symbol = self.next(symbol)
        return symbol

    def slot(self, position):
        """KEY 0, VALUE 1, QUERY 2, CONDITION 4."""
        if position == len(self.tokens) - 1:
            return 2
        if position not in self.key_of:
            return 0
        return 4 if position in self.facts[0].values() else 1

    def symbol(self, position):
        """The symbol held or, where a kind is held, the one that has it."""
        return self.tokens[self.key_of[position] if self.slot(position) == 4 else position]

    def own_kind(self, position):
        return self.kind(self.symbol(position))

    def place_of_kind(self, position):
        """How many kinds stand before that of the position's symbol."""
        own = self.facts[0][self.symbol(position)]
        return sum(slot < own for slot in self.facts[0].values())

    def before(self, symbol):
        """The one symbol whose next is this one, None if there is none or more than one."""
        found = [other for other in range(self.symbols) if self.next(other) == symbol]
        return found[0] if len(found) == 1 else None

    def find(self, position, j):
        symbol = self.symbol(position)
        if j > 0:
            return self.value_slot(self.after(symbol, j - 1))
        if j == 0 and self.slot(position) == 1:
            return position
        for _ in range(-j):
            symbol = None if symbol is None else self.before(symbol)
        known = None if symbol is None else self.before(symbol)
        return -1 if known is None else self.value_slot(known)

    def condition(self, position, j):
        if j == 0:
            return self.facts[0][self.tokens[self.key_of[position]]] if self.slot(position) == 1 else -1
        return self.facts[0][self.after(self.symbol(position), j - 1)]

    def unchosen(self, position, j):
        known = self.after(self.symbol(position), j - 1)
        return {fact[known] for fact in self.facts[1:]} - {self.value_slot(known)}

    def holders(self, position, j):
        """Value slots with the symbol j steps on (or back)."""
        symbol = self.after(self.symbol(position), max(j, 0))
        for _ in range(-j):
            symbol = None if symbol is None else self.before(symbol)
        return {slot for fact in self.facts[1:] for slot in fact.values() if self.tokens[slot] == symbol}

    def answer(self, position, hop, causal):
        """The symbol `hop` steps on, None where a causal position can't see all that decides it."""
        needed = [max(self.find(position, step), self.condition(position, step)) for step in range(1, hop + 1)]
        return None if causal and max(needed) > position else self.after(self.symbol(position), hop)
