"""A slow, plain-Python reading of a program, written from the definitions alone: dictionaries and loops."""

from dataclasses import dataclass

from .resolver import Example


@dataclass
class Program(Example):
    variables: int

    def constant(self, symbol):
        return symbol >= self.variables

    def way(self, symbol):
        """The symbols from one to its constant, both of them included."""
        way = [symbol]
        while not self.constant(way[-1]):
            way.append(self.f[way[-1]])
        return way

    def depth(self, symbol):
        return len(self.way(symbol)) - 1

    def root(self, symbol):
        return self.way(symbol)[-1]

    def line_of(self, variable):
        return next(number for number, (_, key, _) in enumerate(self.statements) if key == variable)

    def defined_before_use(self):
        return all(self.constant(value) or self.line_of(value) < number for number, (_, _, value) in enumerate(self.statements))
