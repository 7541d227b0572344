"""What the service says of itself while it is under load: Ray's exporter, looked at once a second."""

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import requests
from prometheus_client.parser import text_string_to_metric_families

_PREFIX = "ray_chatterbox_"
_LABELS = ("outcome", "le", "kind", "stage")
_PERIOD_S = 1.0
_TIMEOUT_S = 5.0
_LAG_S = 12.0
"""Ray's processes tell their node's exporter what they count every ten seconds."""


@dataclass(frozen=True, slots=True)
class Look:
    """All replicas' figures at one moment, summed: by name, and `name/label's value` where there are labels."""

    at: float
    """time.time()."""
    values: dict[str, float]


def look(urls: Sequence[str]) -> Look:
    """Raises requests.RequestException."""
    values: defaultdict[str, float] = defaultdict(float)
    for url in urls:
        page = requests.get(url, timeout=_TIMEOUT_S)
        page.raise_for_status()
        for family in text_string_to_metric_families(page.text):
            for sample in family.samples:
                if sample.name.startswith(_PREFIX):
                    labels = [sample.labels[name] for name in _LABELS if name in sample.labels]
                    values["/".join((sample.name.removeprefix(_PREFIX), *labels))] += sample.value
    return Look(time.time(), dict(values))


class Watch:
    """Looks in the background until it is stopped. A look that fails is left out.

    Before the first and the last look it waits for what has been counted by then to be exported.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self.looks: list[Look] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        time.sleep(_LAG_S)
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        time.sleep(_LAG_S)
        self._look()

    def grown(self, name: str) -> float:
        """What a counter has grown by from the first look to the last."""
        if not self.looks:
            return 0.0
        return self.looks[-1].values.get(name, 0.0) - self.looks[0].values.get(name, 0.0)

    def _run(self) -> None:
        while not self._over.wait(_PERIOD_S):
            self._look()

    def _look(self) -> None:
        try:
            self.looks.append(look(self._urls))
        except requests.RequestException:
            return
