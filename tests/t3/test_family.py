"""The other T3s against chatterbox-tts: turbo (GPT-2) and multilingual (with the analyzer), token for token."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chatterbox_engine.config import T3Switches
from chatterbox_engine.mailbox import Mailbox
from chatterbox_engine.spec import T3Spec
from chatterbox_engine.t3.engine import T3Engine
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.types import SamplingParams, T3Voice
from chatterbox_engine.weights import StateDictWeights

TOKENS = 24
TEXT = [255, 300, 20, 31, 42, 17, 99, 55, 1200, 7, 0]
TURBO = T3Spec(
    backbone="gpt2", layers=2, text_vocab=50276, start_text=None, stop_text=None, speech_vocab=6563, prompt_tokens=375,
    learned_positions=False, perceiver_queries=0, emotion=False, start_tokens=1, cfg=False, penalty_last=True,
    stop_at_first=False,
)  # fmt: skip
MULTILINGUAL = T3Spec(layers=2, text_vocab=2454, aligned_heads=((0, 15), (1, 11), (1, 2)), alignment_guard=True)


@pytest.fixture(scope="module")
def turbo() -> Any:
    """chatterbox-tts's turbo T3 at two layers and full width."""
    from chatterbox.models.t3 import T3
    from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
    from chatterbox.models.t3.modules.t3_config import T3Config

    LLAMA_CONFIGS["two_gpt2_layers"] = {**LLAMA_CONFIGS["GPT2_medium"], "n_layer": 2}
    torch.manual_seed(3)
    settings = T3Config(text_tokens_dict_size=50276)
    settings.llama_config_name = "two_gpt2_layers"
    settings.speech_tokens_dict_size = 6563
    settings.input_pos_emb = None
    settings.speech_cond_prompt_len = 375
    settings.use_perceiver_resampler = settings.emotion_adv = False
    t3 = T3(settings).eval()
    t3.speech_head.weight.data *= 12  # so that its filters have something to choose between
    t3.speech_head.bias.data.uniform_(-1, 1)
    return t3


@pytest.fixture(scope="module")
def multilingual() -> Any:
    """chatterbox-tts's multilingual T3 at two layers and full width; the layers' heads that are watched are others."""
    from chatterbox.models.t3 import T3
    from chatterbox.models.t3.inference import alignment_stream_analyzer
    from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
    from chatterbox.models.t3.modules.t3_config import T3Config

    LLAMA_CONFIGS["two_layers"] = {**LLAMA_CONFIGS["Llama_520M"], "num_hidden_layers": 2}
    torch.manual_seed(4)
    settings = T3Config.multilingual()
    settings.llama_config_name = "two_layers"
    watched = alignment_stream_analyzer.LLAMA_ALIGNED_HEADS
    alignment_stream_analyzer.LLAMA_ALIGNED_HEADS = list(MULTILINGUAL.aligned_heads)
    t3 = T3(settings).eval()
    t3.speech_head.weight.data[settings.stop_speech_token] *= 10  # so that it would stop where the guard holds it
    yield t3
    alignment_stream_analyzer.LLAMA_ALIGNED_HEADS = watched


def condition(voice: T3Voice, exaggeration: float) -> Any:
    from chatterbox.models.t3.modules.cond_enc import T3Cond

    return T3Cond(voice.speaker, None, voice.prompt.clone(), None, exaggeration * torch.ones(1, 1, 1))


def drain(stream: Mailbox[int]) -> list[int]:
    tokens, _ = stream.read(10_000, timeout=120)
    return tokens


def exact_tokens(
    reference: Any, spec: T3Spec, voice: T3Voice, cases: list[SamplingParams], spoken: tuple[tuple[int, ...], ...] = ()
) -> list[list[int]]:
    """Of the engine with the reference's weights, all cases at once, after what was spoken of each."""
    weights = StateDictWeights(reference.state_dict(), "the reference")
    model = T3Model.from_weights(spec, weights, 700, torch.float32, torch.device("cpu"))
    engine = T3Engine(model, T3Switches(max_positions=700, exact=True))
    engine.start()
    try:
        begun = spoken or ((),) * len(cases)
        streams = [engine.submit(TEXT, voice, params, spoken=own) for params, own in zip(cases, begun, strict=True)]
        return [drain(stream) for stream in streams]
    finally:
        engine.stop()


def test_turbo_tokens_equal_the_reference(turbo: Any, reference_voice: SimpleNamespace) -> None:
    """Its loop yields one token more than it is asked for; its filters and its penalty are in another order."""
    prompt = torch.randint(0, 6561, (1, 375), generator=torch.Generator().manual_seed(5))
    voice = T3Voice("v", reference_voice.speaker, prompt)
    cases = [
        SamplingParams(
            seed=seed, cfg_weight=0.0, exaggeration=0.0, min_p=0.0, top_k=(1000, 50, 0)[seed % 3],
            top_p=0.95 if seed % 2 else 1.0, repetition_penalty=1.2, max_new_tokens=TOKENS + 1,
        )
        for seed in range(6)
    ]  # fmt: skip
    expected = []
    for params in cases:
        torch.manual_seed(params.seed)
        tokens = turbo.inference_turbo(
            condition(voice, 0.0), torch.tensor([TEXT]), params.temperature, params.top_k, params.top_p,
            params.repetition_penalty, max_gen_len=TOKENS,
        )[0].tolist()  # fmt: skip
        expected.append([token for token in tokens if token < 6561])
    assert exact_tokens(turbo, TURBO, voice, cases) == expected
    begun = tuple(tuple(tokens[:9]) for tokens in expected)
    assert [len(tokens) for tokens in expected] == [TOKENS + 1] * len(cases)  # each drawn one is among them
    assert exact_tokens(turbo, TURBO, voice, cases, begun) == [tokens[9:] for tokens in expected]
    assert len({tuple(tokens) for tokens in expected}) == len(cases)


def test_multilingual_tokens_equal_the_reference_with_its_analyzer(
    multilingual: Any, reference_voice: SimpleNamespace
) -> None:
    voice = T3Voice("v", reference_voice.speaker, reference_voice.prompt)
    cases = [
        SamplingParams(seed=seed, repetition_penalty=2.0, max_new_tokens=TOKENS, cfg_weight=(0.5, 0.3)[seed % 2])
        for seed in range(4)
    ]
    expected = []
    for params in cases:
        torch.manual_seed(params.seed)
        tokens = multilingual.inference(
            t3_cond=condition(voice, 0.5), text_tokens=torch.tensor([TEXT, TEXT]), max_new_tokens=TOKENS,
            temperature=0.8, cfg_weight=params.cfg_weight, repetition_penalty=2.0, min_p=0.05, top_p=1.0,
        )[0].tolist()  # fmt: skip
        expected.append([token for token in tokens if token < 6561])
    assert exact_tokens(multilingual, MULTILINGUAL, voice, cases) == expected
    unguarded = MULTILINGUAL.model_copy(update={"alignment_guard": False})
    assert exact_tokens(multilingual, unguarded, voice, cases) != expected  # it had something to say
