"""How the load-generating processes are doing, as they last said."""

from __future__ import annotations

from typing import Any

from harness.watch.channel import LoadNews


class Condition:
    def __init__(self) -> None:
        self._told: dict[int, dict[str, Any]] = {}

    def heard(self, data: dict[str, Any]) -> None:
        """Take in a message of :data:`harness.loadgen.messages.HEALTH`."""
        self._told[data["worker"]] = data

    def news(self, users: int) -> LoadNews:
        told = list(self._told.values())
        lags_s = [each["hub_lag_p99_s"] for each in told if each["hub_lag_p99_s"] is not None]
        return LoadNews(
            users=users,
            in_flight=sum(each["in_flight"] for each in told) if told else None,
            hub_lag_p99_s=max(lags_s, default=None),
            cpu_share_max=max((each["cpu_share"] for each in told), default=None),
        )
