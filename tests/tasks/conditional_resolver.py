"""A slow, plain-Python reading of a conditional example, written from the definitions alone: dictionaries and loops."""


class ConditionalExample:
    """Pages of statements, two tokens each: `pages[0]` who is what, `pages[1 + k]` the candidates under kind k."""

    def __init__(self, tokens: list[int], symbols: int, kinds: int):
        self.tokens, self.symbols = tokens, symbols
        self.pages = []
        for page in range(1 + kinds):
            start = 2 * symbols * page
            slots = range(start + 1, start + 2 * symbols, 2)
            self.pages.append({tokens[slot - 1]: slot for slot in slots})
            assert sorted(self.pages[-1]) == list(range(symbols))

    def kind(self, symbol):
        return self.tokens[self.pages[0][symbol]] - self.symbols

    def value_slot(self, symbol):
        """Where the candidate under the symbol's own kind stands."""
        return self.pages[1 + self.kind(symbol)][symbol]

    def next(self, symbol):
        return self.tokens[self.value_slot(symbol)]

    def after(self, symbol, steps):
        """The symbol so many steps on; None from a token that is no symbol."""
        if symbol >= self.symbols:
            return None
        for _ in range(steps):
            symbol = self.next(symbol)
        return symbol

    def slot(self, position):
        return 2 if position == len(self.tokens) - 1 else position % 2

    def before(self, symbol):
        """The one symbol whose next is this one, None if there is none or more than one."""
        found = [other for other in range(self.symbols) if self.next(other) == symbol]
        return found[0] if len(found) == 1 else None

    def find(self, position, j):
        symbol = self.tokens[position]
        if j > 0:
            known = self.after(symbol, j - 1)
            return -1 if known is None else self.value_slot(known)
        if j == 0 and self.slot(position) == 1:
            return position
        for _ in range(-j):
            symbol = None if symbol is None else self.before(symbol)
        known = None if symbol is None else self.before(symbol)
        return -1 if known is None else self.value_slot(known)

    def condition(self, position, j):
        if j == 0:
            if self.slot(position) != 1 or self.tokens[position] >= self.symbols:
                return -1
            return self.pages[0][self.tokens[position - 1]]
        known = self.after(self.tokens[position], j - 1)
        return -1 if known is None else self.pages[0][known]

    def unchosen(self, position, j):
        known = self.after(self.tokens[position], j - 1)
        if known is None:
            return set()
        return {page[known] for page in self.pages[1:]} - {self.value_slot(known)}

    def answer(self, position, hop, causal):
        """The symbol `hop` steps on, None where there is none or a causal position can't see all that decides it."""
        for step in range(1, hop + 1):
            needed = max(self.find(position, step), self.condition(position, step))
            if needed < 0 or (causal and needed > position):
                return None
        return self.after(self.tokens[position], hop)
