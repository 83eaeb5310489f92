"""The locustfile of ``harness run``: the scenario comes with ``--cell``."""

from harness.loadgen import ScenarioUser, install


class CellUser(ScenarioUser):
    """One user of whatever scenario the cell holds."""


install("cell")
