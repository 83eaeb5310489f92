"""Content generation: 20 users, one long text each, under 10 s.

Run ``locust -f locustfiles/content.py --host http://127.0.0.1:8000`` for the web UI on a server
that is there, or with ``--headless --stack NAME`` for one of the catalog's.
"""

from harness.loadgen import ScenarioUser, install


class ContentUser(ScenarioUser):
    """One user of the scenario ``content``."""


install("content")
