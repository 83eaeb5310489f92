"""The Locust user every scenario's locustfile derives from."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from locust import User, task
from locust.exception import StopUser

if TYPE_CHECKING:
    from harness.loadgen.session import Session


class ScenarioUser(User):
    """One simulated user: asks, waits for the whole answer, thinks, asks again.

    The loop is ours (:meth:`harness.loadgen.session.Session.drive`): Locust's own task loop records
    neither when a request was due nor what was in flight when it was stopped.
    """

    abstract = True
    session: ClassVar[Session | None] = None

    @task
    def use(self) -> None:
        session = ScenarioUser.session
        if session is None:  # the run could not begin; the leader has said why
            raise StopUser
        session.drive()
