"""Shared by all tests: one thread unless OMP_NUM_THREADS says otherwise (tests run in parallel), the shipped checkpoints, and
small random models.
"""

import os
import sys
from pathlib import Path

import pytest
import torch
import typechecking  # before stackheads, whose functions it checks
from hypothesis import HealthCheck, settings

from stackheads.models import ModelConfig, build
from stackheads.tasks import Cycle, Retrieval

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the processes that tests start
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile(
    "deterministic", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("deterministic")


@pytest.fixture(autouse=True, scope="module")
def modules_do_not_change_each_other():
    """Shared models stay as they are, or a later test would fail for what another did, in some orders of them; and calls are
    checked anew.
    """
    typechecking.look_again()
    yield
    if shared := sys.modules.get("subjects"):
        assert shared.changed() == []


@pytest.fixture(scope="session")
def checkpoints() -> Path:
    return Path(__file__).parent.parent / "checkpoints"


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def cycle() -> Cycle:
    return Cycle(symbols=6, max_hops=2)


@pytest.fixture
def chain() -> Retrieval:
    return Retrieval(chains=2, max_hops=3, attention_dir="causal")


@pytest.fixture(params=["cycle", "chain"])
def random_model(request):
    """A task with an untrained model for it, large enough weights to make every path matter."""
    task = request.getfixturevalue(request.param)
    model = build(ModelConfig(layers=2, heads=2, d_model=16, d_head=8), task, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return task, model.eval()
