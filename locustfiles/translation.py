"""Real-time translation: 1,000 users, one sentence each, under 500 ms.

Run ``locust -f locustfiles/translation.py --host http://127.0.0.1:8000`` for the web UI on a server
that is there, or with ``--headless --stack NAME`` for one of the catalog's.
"""

from harness.loadgen import ScenarioUser, install


class TranslationUser(ScenarioUser):
    """One user of the scenario ``translation``."""


install("translation")
