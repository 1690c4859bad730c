"""What depth allows: closed forms, the exact flow of information, and answers reachable without following the chain."""

from stackheads.theory.bounds import layers_around, layers_needed, log2_bound, log3_bound, paper_bound, radius
from stackheads.theory.depth import Depth, depth
from stackheads.theory.flow import Least, knowledge, least_layers, readable
from stackheads.theory.shortcuts import Guess, guesses, shortcuts, structure

__all__ = [
    "Depth",
    "Guess",
    "Least",
    "depth",
    "guesses",
    "knowledge",
    "layers_around",
    "layers_needed",
    "least_layers",
    "log2_bound",
    "log3_bound",
    "paper_bound",
    "radius",
    "readable",
    "shortcuts",
    "structure",
]
