"""The gate: places are given back once, however a stream ends, and each leaves one line in the log."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatterbox_engine.errors import Overloaded
from deployments import admission
from deployments.admission import Gate, Ticket
from deployments.caller import Caller
from deployments.faults import ServiceEnding
from deployments.metrics import IngressMetrics
from deployments.tracing import Tracer


@given(st.lists(st.sampled_from(["enter", "end", "end twice", "forget", "close"]), max_size=40))
def test_places_and_tickets_agree(actions: list[str]) -> None:
    gate = Gate(3, IngressMetrics(), Tracer("ingress", None))
    held: list[Ticket] = []
    for action in actions:
        if action == "close":
            gate.closed = True
        elif action == "enter":
            if gate.closed or len(held) == 3:
                with pytest.raises(ServiceEnding if gate.closed else Overloaded):
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


def test_a_line_in_the_log_has_the_figures_as_fields(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "logger", logging.getLogger("heard"))  # Ray's own does not propagate
    caplog.set_level(logging.INFO, "heard")
    ticket = Gate(1, IngressMetrics(), Tracer("ingress", None)).enter(Caller("anna"))
    ticket.about = {"characters": 12}
    for samples in (0, 24_000, 12_000):
        ticket.heard(samples)
    ticket.end("ok")
    ticket.end("failed")
    (line,) = caplog.records
    told = vars(line)
    assert (told["outcome"], told["key"], told["audio_s"], told["characters"]) == ("ok", "anna", 1.5, 12)
    assert 0 <= told["first_audio_s"] <= told["took_s"]
    assert line.getMessage().startswith("speech ok: 1.50 s of audio, the first after 0.")
