"""A slow, plain-Python reading of an example of templates, from the definitions alone: dictionaries and loops."""


class TemplatesExample:
    """`functions[t][x]` is what template t says of symbol x, `held[t][x]` whether that is held out.

    Pairs are read off tokens one by one, at the position where each is complete.
    """

    def __init__(self, tokens, functions, held, values, layout):
        self.tokens, self.functions, self.held = tokens, functions, held
        self.symbols = len(functions[0])
        self.pairs, self.key_slots, self.value_slots = [], [], []
        position = 1
        while position < len(tokens) - 2:
            if layout == "statements":
                self.key_slots.append(position)
                self.pairs.append((tokens[position], tokens[position + 1] - self.symbols))
                position += 1
            else:
                self.pairs.append(divmod(tokens[position] - self.symbols, values))
            self.value_slots.append(position)
            position += 1

    def agreeing(self, position):
        """The templates that say of each pair that is complete up to a position what the pair says."""
        told = [pair for pair, slot in zip(self.pairs, self.value_slots, strict=True) if slot <= position]
        return [number for number, says in enumerate(self.functions) if all(says[x] == y for x, y in told)]

    def answer(self, position, asks_held=False):
        """What they say of the symbol at a key slot or the query; None where they differ, or that is not to be asked about."""
        symbol, left = self.tokens[position], self.agreeing(position)
        said = {self.functions[number][symbol] for number in left}
        if len(said) != 1 or any(self.held[number][symbol] != asks_held for number in left):
            return None
        return said.pop()

    def template(self, position):
        """The one that is left, from 1; 0 where there are several or none."""
        left = self.agreeing(position)
        return left[0] + 1 if len(left) == 1 else 0

    def before(self, position, slots):
        """Those of these slots that belong to pairs that are complete before a position."""
        return {slot for slot, end in zip(slots, self.value_slots, strict=True) if end < position}
