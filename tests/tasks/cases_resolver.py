"""A slow, plain-Python reading of the case studies of depth, from the definitions alone: lists, dictionaries and loops."""


class CasesExample:
    """`labels[string]` are the labels of memorised strings; None where templates, or a context, tell."""

    def __init__(self, tokens, symbols, length, by_template, labels=None):
        self.tokens, self.symbols, self.length = tokens, symbols, length
        self.by_template, self.labels = by_template, labels
        self.starts = list(range(0, len(tokens), length + 1))
        self.strings = [tuple(tokens[start : start + length]) for start in self.starts]

    def class_of(self, string):
        """Letters in the order in which they come, or the one symbol."""
        if not self.by_template:
            return string[0]
        letters = {}
        return "".join(letters.setdefault(symbol, "abcdefgh"[len(letters)]) for symbol in string)

    def place(self, position):
        return position % (self.length + 1)

    def cases(self, position):
        """From the last position the labels of strings that are of the last one's class."""
        if position < len(self.tokens) - 1:
            return []
        *before, last = map(self.class_of, self.strings)
        return [start + self.length for start, each in zip(self.starts, before, strict=False) if each == last]

    def find(self, position):
        return max(self.cases(position), default=-1)

    def answer(self, position):
        """What is right at the last position, None elsewhere."""
        if position < len(self.tokens) - 1:
            return None
        if len(self.strings) > 1:
            return self.tokens[self.find(position)] - self.symbols
        return self.number(0) if self.labels is None else self.labels.get(self.strings[0])

    def number(self, position):
        """The class of the string that is here, as a number."""
        found = self.class_of(self.strings[position // (self.length + 1)])
        return sorted_templates(self.length).index(found) if self.by_template else found

    def ends(self, position):
        """Whether this is the last symbol of a string, or its label."""
        return self.place(position) >= self.length - 1

    def key(self, position, j):
        """Where the j-th symbol of the own string stands, if that is behind and neither just before nor at the start."""
        at = self.starts[position // (self.length + 1)] + j - 1
        return at if 0 < at < position - 1 else -1


def sorted_templates(length):
    """All words of which each letter is old, or the next of the alphabet."""
    words = [""]
    for _ in range(length):
        words = [word + letter for word in words for letter in "abcdefgh" if letter <= chr(ord(max(word, default="`")) + 1)]
    return sorted(words)
