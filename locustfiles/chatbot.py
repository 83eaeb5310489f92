"""Support chatbot: 100 users, conversations of one to six turns, under 2 s a message.

    locust -f locustfiles/chatbot.py --host http://127.0.0.1:8000
    locust -f locustfiles/chatbot.py --headless --stack NAME
"""

from harness.loadgen import ScenarioUser, install


class ChatbotUser(ScenarioUser):
    """One user of the scenario ``chatbot``."""


install("chatbot")
