"""A slow, plain-Python reading of a sequence with a latent graph, from the definitions alone: dictionaries and loops."""

from collections import Counter


class CausalExample:
    """`parents[i]` are the positions that the symbol at i follows from, () for a root."""

    def __init__(self, tokens: list[int], parents: tuple[tuple[int, ...], ...]):
        self.tokens, self.parents = tokens, parents
        self.in_degree = max(map(len, parents))

    def cases(self, position):
        """The positions before this one whose parents hold what it and those just before hold."""
        if position < self.in_degree - 1:
            return []
        asked = self.tokens[position - self.in_degree + 1 : position + 1]
        return [
            child
            for child in range(position)
            if self.parents[child] and [self.tokens[at] for at in self.parents[child]] == asked
        ]

    def answer(self, position):
        """What most cases hold, None if there is none or several are as common."""
        counts = Counter(self.tokens[case] for case in self.cases(position)).most_common()
        if not counts or (len(counts) > 1 and counts[0][1] == counts[1][1]):
            return None
        return counts[0][0]

    def find(self, position):
        """The last case that holds the answer."""
        answer = self.answer(position)
        found = [case for case in self.cases(position) if self.tokens[case] == answer]
        return found[-1] if found else -1

    def rule(self):
        """What followed each combination of parents' symbols."""
        found: dict[tuple[int, ...], set[int]] = {}
        for child, mine in enumerate(self.parents):
            if mine:
                found.setdefault(tuple(self.tokens[at] for at in mine), set()).add(self.tokens[child])
        return found
