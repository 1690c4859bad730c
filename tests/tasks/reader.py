"""Reads questions in words without knowing how they were made: statements by regular expression, then the links."""

import re

LINKS = {
    "assignments": r"(\w+) = (\w+)",
    "places": r"The (\w+) is in the (\w+)\.",
    "code": r"(\w+) = (\w+)",
    "share": r"(?:The house of )?(\w+) (?:shares a house with|is) (\w+)\.",
}
ASKS = {
    "assignments": r"value of (\w+)\?",
    "places": r"Where is the (\w+)\?",
    "code": r"print\((\w+)\)",
    "share": r"house of (\w+)\?",
    "relatives": r"does (\w+) live\?",
}


def query(question):
    (found,) = re.findall(ASKS[question.formulation], question.text)
    return found


def links(question):
    """Whom or what each key leads to."""
    if question.formulation != "relatives":
        pairs = re.findall(LINKS[question.formulation], question.text)
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)
    rule = {kind.lower(): parent for kind, parent in re.findall(r"(\w+)s live with their (\w+)s\.", question.text)}
    kinds = dict(re.findall(r"(\w+) is a (\w+)\.", question.text))
    parents = {(child, parent): name for child, parent, name in re.findall(r"(\w+)'s (\w+) is (\w+)\.", question.text)}
    return {child: parents[child, rule[kind]] for child, kind in kinds.items()}


def solve(question):
    """The answer, and the number of steps to it."""
    found, steps, at = links(question), 0, query(question)
    while at in found:
        at, steps = found[at], steps + 1
    return at, steps


def statements(question):
    """The words of each statement, in the order of the text."""
    if question.formulation == "relatives":
        return [re.findall(r"\w+", record) for record in re.findall(r"\w+ is a [^.]+\.[^.]+\.[^.]+\.", question.text)]
    return [list(pair) for pair in re.findall(LINKS[question.formulation], question.text)]
