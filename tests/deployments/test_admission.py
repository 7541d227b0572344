"""The gate: places are given back once, however a stream ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatterbox_engine.errors import Overloaded
from deployments.admission import Gate, Ticket
from deployments.metrics import IngressMetrics


@given(st.lists(st.sampled_from(["enter", "end", "end twice", "forget"]), max_size=40))
def test_places_and_tickets_agree(actions: list[str]) -> None:
    gate = Gate(3, IngressMetrics())
    held: list[Ticket] = []
    for action in actions:
        if action == "enter":
            if len(held) == 3:
                with pytest.raises(Overloaded):
                    gate.enter()
            else:
                held.append(gate.enter())
        elif held:
            ticket = held.pop(0)
            if action.startswith("end"):
                ticket.end("ok")
            if action == "end twice":
                ticket.end("failed")
            del ticket  # what was only forgotten is given back here
        assert gate.live == len(held)
