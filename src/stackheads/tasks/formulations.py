"""Five ways to put the retrieval problem (Musat, arXiv 2411.12118) into words.

    assignments   Let A = seven, B = A. What is the value of B?
    places        The coin is in the cup. The cup is in the kitchen. Where is the coin?
    code          a = 7, b = a, print(b), one statement a line
    share         Bob shares a house with Alice. The house of Alice is red. What color is the house of Bob?
    relatives     Harry is a wizard. Harry's mother is Alice. Harry's father is Bob. Wizards live with their mothers …

The wordings are this package's own. A template's fields in braces are words whose places are known afterwards
(`prompts.Mention`); a field is named by its role. Words are single tokens of SmolLM2 after a space, so that all questions of
one formulation and D have as many tokens there; nothing relies on it.
"""

from dataclasses import dataclass
from typing import Literal

FormulationName = Literal["assignments", "places", "code", "share", "relatives"]


@dataclass(frozen=True)
class Formulation:
    """How chains of references become a text.

    `link`, `end`    a statement whose value is another key, and one whose value ends the chain.
    `between`        what stands between two statements.
    `before`, `ask`  what opens and what closes the text; `ask` names the query.
    `lead`           how the answer begins: it is followed by a space and one word.
    `keys`, `values` words to choose from.
    `levels`         whether what is referred to is stated before: first all chain ends, in random order, then all that refer to
                     one of them, and so on; otherwise the order of all statements is random.
    `closed`         whether the answer is chosen among the ends of all chains; otherwise it is written freely.
    """

    link: str
    end: str
    between: str
    before: str
    ask: str
    lead: str
    keys: tuple[str, ...]
    values: tuple[str, ...]
    levels: bool = False
    closed: bool = True


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LETTERS = tuple("ABCDEFGHJKLMNPQRSTUVWXYZ")  # without I and O, which are words
WOMEN = _words("Alice Anna Mary Emma Sarah Laura Jane Kate Lucy Ruth Emily Helen Julia Maria Susan Karen Linda Nancy")
MEN = _words("Harry Tom Bob John James Peter Paul David Frank George Henry Jack Adam Simon Kevin Brian Oscar Daniel")
KINDS = ("wizard", "giant")

CHAINED: dict[FormulationName, Formulation] = {
    "assignments": Formulation(
        link="{key} = {value}",
        end="{key} = {value}",
        between=", ",
        before="Let ",
        ask=". What is the value of {query}?",
        lead="{query} =",
        keys=LETTERS,
        values=_words("one two three four five six seven eight nine ten eleven twelve"),
        levels=True,
    ),
    "places": Formulation(
        link="The {key} is in the {value}.",
        end="The {key} is in the {value}.",
        between=" ",
        before="",
        ask=" Where is the {query}?",
        lead="The {query} is in the",
        keys=_words(
            "box bag basket jar cup bowl bucket chest tin pot pan case tray barrel trunk purse pouch sack tank tube can "
            "wallet cart tub bin vase bottle envelope folder package parcel"
        ),
        values=_words("kitchen bedroom garage garden attic basement hall office library bathroom studio lobby"),
    ),
    "code": Formulation(
        link="{key} = {value}",
        end="{key} = {value}",
        between="\n",
        before="What does this Python program print?\n\n",
        ask="\nprint({query})",
        lead="{query} =",
        keys=tuple(letter.lower() for letter in LETTERS),
        values=tuple("0123456789"),
        levels=True,
        closed=False,
    ),
    "share": Formulation(
        link="{key} shares a house with {value}.",
        end="The house of {key} is {value}.",
        between=" ",
        before="Some people share a house. ",
        ask=" What color is the house of {query}?",
        lead="The house of {query} is",
        keys=WOMEN + MEN,
        values=_words("red blue green yellow white black brown purple pink orange gray"),
    ),
}


@dataclass(frozen=True)
class Relatives:
    """Two facts for each step: what somebody is, and who the parent is that it chooses. `rule` names the kinds' parents."""

    mother_chosen: str = "{key} is a {condition}. {key}'s mother is {value}. {key}'s father is {unchosen}."
    father_chosen: str = "{key} is a {condition}. {key}'s mother is {unchosen}. {key}'s father is {value}."
    rule: str = "Wizards live with their {wizards}. Giants live with their {giants}. The others own a house."
    between: str = " "
    ask: str = " In whose house does {query} live?"
    lead: str = "The owner of {query}'s house is"


RELATIVES = Relatives()
