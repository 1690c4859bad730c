"""Compiled circuits at the edge: attention blurred as far as what is said of them by construction stays true (`upheld.py`).

Soft attention brings a little of everything, and what one head takes off again another must have written in full. Heads that
set their own sharpness keep it: where soft weights are what a head is about, less would be another circuit.
"""

from dataclasses import replace

from stackheads.labelling.thresholds import Thresholds
from stackheads.validation.specimens import Circuit, Guise
from stackheads.validation.upheld import ANSWERED, answering, loudest

SHARPNESSES = (4.0, 5.0, 6.0, 8.0, 10.0)


def blurred(name: str, circuit: Circuit, guise: Guise) -> Guise:
    """The guise with the least sharp attention of which all that is still so; the same guise where there is none.

    Cost: a forward pass for each sharpness, and one for each head and destination that carries nothing.
    """
    _, wanted = answering(name, circuit, guise)
    for sharpness in SHARPNESSES:
        less = replace(guise, sharpness=sharpness)
        measured, accuracy = answering(name, circuit, less)
        if bool((accuracy >= ANSWERED * wanted).all()) and loudest(*measured) < Thresholds().min_effect:
            return less
    return guise
