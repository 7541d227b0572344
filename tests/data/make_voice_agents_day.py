"""How voice_agents_day.json was made: python tests/data/make_voice_agents_day.py. Synthetic: nobody's traffic.

A day in two hours: a quiet night, a steep morning, a plateau with a dip at noon, an evening that thins out, and a spike
of five times the rate for five minutes in the afternoon. Arrivals are Poisson at that rate; utterances last as a
log-normal distribution has it, 10 s in the middle, between 2 and 40 s.
"""

import json
import math
import random
from pathlib import Path

SEED = 20261128
LENGTH_S = 7200
SPIKE = (4500, 4800)
"""Seconds; times five."""
_HOURS = (0, 5, 6, 9, 11, 13, 14.5, 18, 21, 24)
_RATES = (1.0, 0.7, 1.2, 6.3, 7.8, 6.3, 7.8, 6.3, 3.0, 1.0)
"""Utterances a second at those hours, a line between."""


def rate(second: float) -> float:
    hour = 24 * second / LENGTH_S
    last = max(index for index, begin in enumerate(_HOURS[:-1]) if begin <= hour)
    share = (hour - _HOURS[last]) / (_HOURS[last + 1] - _HOURS[last])
    base = _RATES[last] + share * (_RATES[last + 1] - _RATES[last])
    return 5 * base if SPIKE[0] <= second < SPIKE[1] else base


def main() -> None:
    rng = random.Random(SEED)
    most = 5 * max(_RATES)
    come, lasts, now = [0] * LENGTH_S, [], 0.0
    while (now := now + rng.expovariate(most)) < LENGTH_S:
        if rng.random() * most < rate(now):
            come[int(now)] += 1
            lasts.append(round(min(40.0, max(2.0, rng.lognormvariate(math.log(10), 0.6)))))
    told = {"seed": SEED, "spike_s": SPIKE, "come_in_each_second": come, "lasts_s": lasts}
    Path(__file__).with_name("voice_agents_day.json").write_text(json.dumps(told, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
