"""Each benchmark runs on a small model, and what it reports hangs together. No time is asserted."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.ceilings import prompt_positions
from benchmarks.measure import Measured
from benchmarks.prompts import of_positions
from benchmarks.subject import Subject, configured, voice_of
from benchmarks.t3 import Decoding, steps_a_round
from chatterbox_engine.checkpoint import Checkpoint, find
from chatterbox_engine.stages import T3Stage
from chatterbox_engine.text import normalise
from tests.benchmarks.conftest import Bench

TINY = ("--model", "dummy:tiny", "--device", "cpu", "--repeats", "1")


def test_t3(bench: Bench) -> None:
    told = bench("t3", *TINY, "--no-reference", "--streams", "1,3", "--tokens", "6", "--positions", "120",
                 "--first-repeats", "2")  # fmt: skip
    one, three = told["rows"]
    assert [row["variant"] for row in told["rows"]] == ["1 stream", "3 streams"]
    assert one["rtf"]["median"] == pytest.approx(25 * one["step_s"]["median"])
    assert three["tokens_a_second"]["median"] == pytest.approx(3 / three["step_s"]["median"], rel=0.05)
    kv = one["kv_bytes_a_stream"]
    assert one["step_bytes"] == told["conditions"]["weight_bytes"] + kv
    assert three["step_bytes"] == told["conditions"]["weight_bytes"] + 3 * kv
    assert one["share"] == pytest.approx(one["ceiling_step_s"] / one["step_s"]["median"])
    assert {name: len(rounds) for name, rounds in told["rounds"].items()} == {
        "1 stream": 1, "1 stream, first token": 2, "3 streams": 1, "3 streams, first token": 2,
    }  # fmt: skip


def test_each_round_of_t3_is_beside_one_of_the_reference(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import reference

    class Fake:
        calls = 0

        def __init__(self, *_: object) -> None: ...

        def measure(self, *_: object) -> Measured:
            Fake.calls += 1
            return {"step_s": 1.0, "tokens_a_second": float(Fake.calls), "first_token_s": 7.0}

    monkeypatch.setattr(reference, "ReferenceT3", Fake)
    told = bench("t3", *TINY[:4], "--repeats", "2", "--streams", "1,2", "--tokens", "6", "--positions", "120")
    one, two, theirs = told["rows"]
    rates = [measured["tokens_a_second"] for measured in told["rounds"]["2 streams"]]
    assert two["ratio"]["median"] == pytest.approx((rates[0] / 4 + rates[1] / 5) / 2)  # calls 1 to 3 came before
    assert one["ratio"]["min"] > 0
    assert (theirs["variant"], theirs["tokens_a_second"]["min"], theirs["tokens_a_second"]["max"]) == (
        "chatterbox-tts", 2, 5,
    )  # fmt: skip
    assert theirs["first_token_s"]["median"] == 7


@pytest.mark.parametrize("profile", ["balanced", "reference"])
def test_streams_pause_between_rounds_and_have_room_for_all(profile: str) -> None:
    streams, tokens, rounds, positions = 3, 6, 4, 120
    given = Subject("dummy:tiny", torch.device("cpu"), profile, (), configured(profile, ()))
    checkpoint = given.checkpoint()
    decoding = Decoding(given, checkpoint, positions, tokens, streams, rounds)
    engine = decoding.stage.engine
    try:
        with decoding.started(streams) as running:
            counts = []
            for _ in range(rounds):
                before = engine.tokens
                time.sleep(0.2)  # many steps of this model
                assert engine.tokens == before
                assert running.round()["step_s"] > 0
                counts.append(engine.tokens - before)
            assert min(counts) >= tokens * streams
            assert engine.running == streams
        assert engine.running + engine.waiting == 0
        ids = checkpoint.tokenizer().encode(normalise(decoding.texts[0], checkpoint.spec.family), "en")
        steps = steps_a_round(checkpoint, tokens)
        middle = prompt_positions(checkpoint.spec.t3, len(ids)) + steps + rounds * steps / 2
        assert positions - 8 < middle <= positions + 1  # a word more would be too many
    finally:
        engine.stop()


def test_s3gen(bench: Bench) -> None:
    told = bench("s3gen", *TINY, "--no-reference", "--seconds", "1,2", "--batch", "1,2")
    rows = {row["variant"]: row for row in told["rows"]}
    assert list(rows) == ["1 s, batch 1", "1 s, batch 2", "2 s, batch 1", "2 s, batch 2"]
    assert rows["1 s, batch 2"]["operations"] == 2 * rows["1 s, batch 1"]["operations"]
    assert rows["2 s, batch 1"]["rtf"]["median"] == pytest.approx(rows["2 s, batch 1"]["seconds"]["median"] / 2)


def test_vocoder(bench: Bench) -> None:
    told = bench("vocoder", *TINY, "--seconds", "1.5")
    rows = {row["variant"]: row for row in told["rows"]}
    cases = ("offline", "streamed", "whole S3Gen, offline")
    assert list(rows) == [f"{name}, {case}" for name in ("hift", "vocos") for case in cases]
    assert all(("ratio" in row) == name.startswith("vocos") for name, row in rows.items())
    assert rows["vocos, offline"]["operations"] < rows["hift, offline"]["operations"]
    assert all(row["ms"]["median"] > 0 for row in rows.values())


def test_listeners(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.listeners.device_readings", lambda device: {"gpu_busy": 0.75})
    told = bench(
        "listeners", *TINY, "--tokens", "25", "--switch", "watermark=false", "--listeners", "1,3", "--seconds", "2"
    )
    alone, three = told["rows"]
    assert (alone["listeners"], three["listeners"]) == (1, 3)
    for row in (alone, three):
        assert row["heard"] + row["refused"] >= row["listeners"]
        assert row["carried"] > 0
        assert 0 < row["s3gen_busy"] < 1
        assert row["gpu_busy"] == 0.75
    assert 0 < alone["first_p50_s"] <= alone["first_p95_s"] <= alone["first_p99_s"]


def test_e2e(bench: Bench) -> None:
    told = bench(
        "e2e", *TINY, "--tokens", "12", "--switch", "watermark=false", "--text", "Hello there.", "--streams", "2"
    )
    rows = {row["variant"]: row for row in told["rows"]}
    assert list(rows) == ["streamed", "in one pass", "2 at once, streamed", "2 at once, in one pass"]
    for row in rows.values():
        assert 0 < row["first_audio_s"]["median"] <= row["seconds"]["median"]
        assert row["rtf"]["median"] == pytest.approx(row["seconds"]["median"] / row["audio_s"]["median"], rel=0.2)
    for how in ("streamed", "in one pass"):
        assert rows[f"2 at once, {how}"]["audio_s"]["median"] == 2 * rows[how]["audio_s"]["median"]


def test_scheduler(bench: Bench) -> None:
    (row,) = bench("scheduler", "--streams", "20", "--steps", "50")["rows"]
    assert row["median_s"] <= row["p99_s"] <= row["max_s"]


def test_deadlines(bench: Bench) -> None:
    rows = bench("deadlines", "--streams", "30")["rows"]
    assert len(rows) == 4 * 5
    for row in rows:
        assert 0 < row["admitted"] <= 30
        assert row["stalled"] <= row["admitted"]
        assert row["first_p50_s"] <= row["first_p99_s"]


def test_streaming(bench: Bench) -> None:
    told = bench("streaming", "--model", "dummy:tiny", "--device", "cpu", "--repeats", "1", "--seconds", "2.5")
    distances = {row["variant"]: row["distance"]["median"] for row in told["rows"]}
    assert 0 < distances["[25, 25, 50, 100], all"] < distances["another seed"]


def test_syncs(bench: Bench) -> None:
    (row,) = bench("syncs", "--model", "dummy:tiny", "--device", "cpu", "--tokens", "6", "--positions", "120")["rows"]
    assert row["steps"] >= 6
    assert row["waits"] == 0


def test_what_cannot_be_measured_is_said_in_a_sentence() -> None:
    for arguments, words in (
        (["t3", "--model", "no/such/model"], "no/such/model"),
        (["t3", *TINY, "--no-reference", "--positions", "40"], "--positions"),
        (["t3", *TINY, "--no-reference", "--positions", "100", "--tokens", "90"], "--tokens"),
        (["t3", *TINY, "--no-reference", "--positions", "800", "--tokens", "20", "--repeats", "60"], "--repeats"),
        (["t3", *TINY, "--switch", "t3.nothing=1"], "nothing"),
        (["s3gen", *TINY], "--no-reference"),
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert words in str(end.value)


@pytest.mark.parametrize("model", ["dummy:tiny", "dummy:chatterbox-turbo", "dummy:chatterbox-multilingual"])
def test_prompts_fill_the_positions_asked_for(model: str) -> None:
    checkpoint = find(model, "cpu")
    spec, tokenizer = checkpoint.spec, checkpoint.tokenizer()
    for index in range(9):
        ids = tokenizer.encode(normalise(of_positions(checkpoint, 500, index), spec.family), spec.language)
        assert 470 < prompt_positions(spec.t3, len(ids)) <= 500
    texts = {of_positions(checkpoint, 500, index) for index in range(9)}
    assert len(texts) == 9


@pytest.fixture
def two_layers() -> Checkpoint:
    checkpoint = find("dummy:chatterbox", "cpu")
    t3 = checkpoint.spec.t3.model_copy(update={"layers": 2, "aligned_heads": ()})
    return replace(checkpoint, spec=checkpoint.spec.model_copy(update={"t3": t3}))


@pytest.fixture
def stage(two_layers: Checkpoint) -> Iterator[T3Stage]:
    switches = ("t3.max_positions=400", "t3.max_streams=1", "warmup=none")
    stage = T3Stage(two_layers, configured("reference", switches), torch.device("cpu"))
    yield stage
    stage.engine.stop()


def test_the_reference_has_the_checkpoints_tensors(two_layers: Checkpoint, stage: T3Stage) -> None:
    from benchmarks.reference import ReferenceT3

    text, voice, tokens = "These words are spoken twice.", voice_of(two_layers), 12
    reference = ReferenceT3(two_layers, torch.device("cpu"))
    theirs = reference.speak(text, voice, tokens, seed=4)[0]
    params = two_layers.spec.sampling.model_copy(update={"seed": 4, "max_new_tokens": tokens})
    own, _ = stage.speak(text, voice, params).read(tokens + 1, timeout=60)
    assert own == theirs[theirs < 6561].tolist()
    assert reference.measure(text, voice, 3).keys() == {"step_s", "tokens_a_second", "first_token_s"}
