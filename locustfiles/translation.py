"""Real-time translation: 1,000 users, one sentence each, under 500 ms.

    locust -f locustfiles/translation.py --host http://127.0.0.1:8000
    locust -f locustfiles/translation.py --headless --stack NAME
"""

from harness.loadgen import ScenarioUser, install


class TranslationUser(ScenarioUser):
    """One user of the scenario ``translation``."""


install("translation")
