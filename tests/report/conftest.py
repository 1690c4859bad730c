"""One analysis that the report's tests look at."""

import pytest

from stackheads import analyze


@pytest.fixture(scope="session")
def analysis(checkpoints):
    return analyze(checkpoints / "cycle-d4-l3", examples=64, progress=False)
