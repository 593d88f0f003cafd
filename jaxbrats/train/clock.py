"""How long a run has trained, over all its starts, and how much of that it waited for data."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


class Clock:
    """Seconds of training over all the starts of a run, and how much of them the loop waited for data.

    Args:
        records: What earlier starts logged; their last 'seconds' is where this one begins.
    """

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        self._begun = time.monotonic() - max((record.get("seconds", 0.0) for record in records), default=0.0)
        self._since = time.monotonic()
        self._waited = 0.0

    def seconds(self) -> float:
        """Seconds of training so far."""
        return round(time.monotonic() - self._begun, 3)

    def timed(self, items: Iterable[Any]) -> Iterator[Any]:
        """Passes items on, counting the time until each came."""
        iterator = iter(items)
        while True:
            asked = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.monotonic() - asked
            yield item

    def share_waited(self) -> float:
        """Share of the time since the last call that the loop waited for the loader."""
        share = self._waited / max(time.monotonic() - self._since, 1e-9)
        self._since, self._waited = time.monotonic(), 0.0
        return round(share, 4)
