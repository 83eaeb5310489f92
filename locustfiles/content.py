"""Content generation: 20 users, one long text each, under 10 s.

    locust -f locustfiles/content.py --host http://127.0.0.1:8000
    locust -f locustfiles/content.py --headless --stack NAME
"""

from harness.loadgen import ScenarioUser, install


class ContentUser(ScenarioUser):
    """One user of the scenario ``content``."""


install("content")
