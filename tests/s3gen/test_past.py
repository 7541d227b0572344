"""The flow chunk by chunk, from what it keeps, against one pass under the chunks' mask."""

import pytest
import torch
from torch import Tensor

from chatterbox_engine.s3gen.chunk_encoder import EncoderPast
from chatterbox_engine.s3gen.encoder import chunk_mask
from chatterbox_engine.s3gen.flow import Flow, FlowPast, flow_noise
from chatterbox_engine.s3gen.past import Past
from chatterbox_engine.s3gen.solver import EulerPast, EulerSolver
from chatterbox_engine.spec import SPECS, ModelSpec
from chatterbox_engine.weights import RandomWeights, load

SPEC = ModelSpec.load(SPECS / "tiny.json").s3gen.model_copy(update={"cfm_steps": 3})
MEANFLOW = SPEC.model_copy(update={"meanflow": True, "cfm_steps": 2})
BINS = SPEC.mel_bins
LOOKAHEAD = SPEC.encoder.lookahead
CHUNK = 5
PROMPT = CHUNK + LOOKAHEAD
"""Tokens of the prompt: a chunk, and what the first chunk spoken begins with."""
CLOSE = 2e-5


@pytest.fixture(scope="module", params=[SPEC, MEANFLOW], ids=["guided", "meanflow"])
def flow(request: pytest.FixtureRequest) -> Flow:
    with torch.device("meta"):
        flow = Flow(request.param)
    load(flow, RandomWeights(1))
    return flow


def inputs(seed: int, tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens with the prompt's, the prompt's mel, the speaker, and noise from the prompt's first frame on."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, SPEC.token_vocab, (1, PROMPT + tokens), generator=generator),
        torch.randn(1, 2 * PROMPT, BINS, generator=generator),
        torch.randn(1, SPEC.speaker_width, generator=generator),
        flow_noise(torch.tensor([0]), 2 * PROMPT, 0, 2 * tokens, BINS),
    )


def masked(flow: Flow, tokens: Tensor, feat: Tensor, speaker: Tensor, noise: Tensor) -> Tensor:
    """One pass over everything, in which no place attends beyond its chunk: the mel after the prompt."""
    frames = 2 * tokens.shape[1]
    hidden = flow.encoder(flow.input_embedding(tokens), chunk=CHUNK)
    mu = flow.encoder_proj(hidden).transpose(1, 2)
    voice = flow.spk_embed_affine_layer(torch.nn.functional.normalize(speaker, dim=1))
    cond = torch.zeros_like(mu)
    cond[:, :, : 2 * PROMPT] = feat.transpose(1, 2)
    mask = chunk_mask(frames, 2 * CHUNK)[0]
    assert isinstance(flow.solver, EulerSolver)
    return flow.solver.solve(noise, mask, mu, voice, cond, [None] * flow.spec.cfm_steps)[0, :, 2 * PROMPT :]


def chunks(flow: Flow, tokens: Tensor, feat: Tensor, speaker: Tensor, noise: Tensor) -> list[Tensor]:
    """The same, chunk by chunk, the prompt first."""
    past = flow.begin()
    made = []
    for begin in range(0, tokens.shape[1], CHUNK):
        final = begin + CHUNK + LOOKAHEAD > tokens.shape[1]
        end = tokens.shape[1] if final else begin + CHUNK
        own = tokens[:, begin : end if final else end + LOOKAHEAD]
        noises = noise[:, :, 2 * begin : 2 * end]
        (mel,) = flow.go_on([own[0]], [final], feat, speaker, noises, [past])
        assert past.frames == 2 * end
        made.append(mel)
        if final:
            break
    return made


def test_chunks_are_one_pass_under_their_mask(flow: Flow) -> None:
    given = inputs(1, 22)
    expected = masked(flow, *given)
    prompt, *made = chunks(flow, *given)
    assert prompt.shape[1] == 0
    assert [mel.shape[1] for mel in made] == [2 * (CHUNK - LOOKAHEAD), *[2 * CHUNK] * 4]
    assert expected.std() > 0.1
    torch.testing.assert_close(torch.cat(made, dim=1), expected, atol=CLOSE, rtol=0)


def test_a_voice_that_was_heard_is_a_stream_whose_prompt_went_before(flow: Flow) -> None:
    tokens, feat, speaker, noise = inputs(2, 20)
    heard = flow.hear(tokens[:, :PROMPT], feat, speaker)
    assert heard.frames == 2 * CHUNK
    _, first, *_ = chunks(flow, tokens, feat, speaker, noise)
    own, begin = tokens[:, CHUNK : 2 * CHUNK + LOOKAHEAD], 2 * CHUNK
    for _ in range(2):  # what was heard serves every stream anew
        noises = noise[:, :, begin : begin + 2 * CHUNK]
        (mel,) = flow.go_on([own[0]], [False], feat, speaker, noises, [heard.copy()])
        torch.testing.assert_close(mel, first, atol=CLOSE, rtol=0)
    assert heard.frames == 2 * CHUNK


def test_a_prompt_within_the_lookahead_leaves_nothing_to_hear(flow: Flow) -> None:
    tokens, feat, speaker, _ = inputs(3, 0)
    assert flow.hear(tokens[:, :LOOKAHEAD], feat[:, : 2 * LOOKAHEAD], speaker).frames == 0


@pytest.mark.parametrize("finals", [(True, True, True), (False, False, False), (True, False, True)])
def test_streams_at_different_places_go_on_together_as_alone(flow: Flow, finals: tuple[bool, ...]) -> None:
    """One at its first chunk, one in the middle, one with a shorter chunk."""
    alone, tokens, pasts, feats, speakers, noises = [], [], [], [], [], []
    for seed, (done, count, final) in enumerate(zip((0, 10, 5), (9, 9, 7), finals, strict=True)):
        row, feat, speaker, noise = inputs(seed, 40)
        past = flow.hear(row[:, :PROMPT], feat, speaker)
        begin = past.frames // 2
        if done:
            own = row[0, begin : PROMPT + done + LOOKAHEAD]
            spoken = noise[:, :, 2 * begin : 2 * (PROMPT + done)]
            flow.go_on([own], [False], feat, speaker, spoken, [past])
            begin = PROMPT + done
        own = row[0, begin : begin + count]
        spoken = noise[:, :, 2 * begin : 2 * (begin + count - (0 if final else LOOKAHEAD))]
        alone += flow.go_on([own], [final], feat, speaker, spoken, [past.copy()])
        pasts.append(past)
        tokens.append(own)
        feats.append(feat)
        speakers.append(speaker)
        noises.append(spoken[0].T)
    noise = torch.nn.utils.rnn.pad_sequence(noises, batch_first=True).transpose(1, 2)
    together = flow.go_on(tokens, finals, torch.cat(feats), torch.cat(speakers), noise, pasts)
    for ours, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, expected, atol=CLOSE, rtol=0)


def test_what_is_forgotten_lies_in_the_middle() -> None:
    keys = torch.arange(10.0).view(1, 1, 10, 1)
    own = EulerPast([Past([], [(keys, -keys)])])
    past = FlowPast(own, EncoderPast(Past(), Past()), frames=10)
    past.forget(2, 3)
    kept, values = own.steps[0].keys_values[0]
    assert kept.flatten().tolist() == [0, 1, 7, 8, 9]
    assert torch.equal(values, -kept)
    past.forget(2, 8)
    assert own.steps[0].keys_values[0][0].shape[2] == 5
    past.forget(2, 0)
    assert own.steps[0].keys_values[0][0].flatten().tolist() == [0, 1]
