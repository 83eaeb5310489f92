"""Support chatbot: 100 users, conversations of one to six turns, under 2 s a message.

Run ``locust -f locustfiles/chatbot.py --host http://127.0.0.1:8000`` for the web UI on a server
that is there, or with ``--headless --stack NAME`` for one of the catalog's.
"""

from harness.loadgen import ScenarioUser, install


class ChatbotUser(ScenarioUser):
    """One user of the scenario ``chatbot``."""


install("chatbot")
