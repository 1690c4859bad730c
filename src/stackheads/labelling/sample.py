"""A sample of examples, and all that is known of it whatever the model: drawn once for all models that are labelled on it."""

from dataclasses import dataclass

import torch

from stackheads.interventions import destination_rows
from stackheads.labelling.maps import RoleMaps, role_maps
from stackheads.labelling.readouts import Scorer, make_scorer
from stackheads.labelling.statistics import Resampling, resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.seeds import Stream, stream
from stackheads.tasks import Batch, Task, labelling_batch
from stackheads.types import Destination


@dataclass(frozen=True)
class Sample:
    """Examples of a task, how answers are scored, what the roles say, how examples are resampled, and the destinations that
    there are; `seed` is what the sample was drawn with.
    """

    task: Task
    seed: int
    batch: Batch
    scorer: Scorer
    roles: RoleMaps
    draws: Resampling
    destinations: tuple[Destination, ...]


def draw_sample(task: Task, examples: int, seed: int, thresholds: Thresholds, device: torch.device) -> Sample:
    """The sample that `measure` draws with this seed. No forward pass."""
    batch = labelling_batch(task, examples, seed).to(device)
    numbers = stream(seed, Stream.BOOTSTRAP)
    draws = resampling(examples, thresholds.resampling_draws, thresholds.confidence, numbers)
    destinations = tuple(place for place in Destination if bool(destination_rows(batch, place).any()))
    return Sample(task, seed, batch, make_scorer(task, batch), role_maps(task, batch), draws, destinations)
