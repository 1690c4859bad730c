"""What depth allows: closed forms, the exact flow of information, and answers reachable without following the chain.

Beside it what strings allow: the smallest machine of a regular language, and one found by asking (`machines.py`)."""

from stackheads.theory.bounds import layers_around, layers_needed, log2_bound, log3_bound, paper_bound, radius
from stackheads.theory.depth import Depth, depth
from stackheads.theory.flow import Least, knowledge, least_layers, readable
from stackheads.theory.machines import Extracted, extract, minimal, same
from stackheads.theory.shortcuts import Guess, guesses, shortcuts, structure

__all__ = [
    "Depth",
    "Extracted",
    "Guess",
    "Least",
    "depth",
    "extract",
    "guesses",
    "knowledge",
    "layers_around",
    "layers_needed",
    "least_layers",
    "log2_bound",
    "log3_bound",
    "minimal",
    "paper_bound",
    "radius",
    "readable",
    "same",
    "shortcuts",
    "structure",
]
