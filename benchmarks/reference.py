"""Unmodified chatterbox-tts in the same run: the other half of every ratio.

Importing it takes a quarter of a minute. Its classes are built at the checkpoint's dimensions; T3 gets the checkpoint's
own tensors, S3Gen keeps those that its constructor draws, since its speed does not depend on them.
"""

import contextlib
import io
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Measured, synchronize, timed_audio
from chatterbox_engine.checkpoint import T3_FILE, Checkpoint
from chatterbox_engine.errors import InvalidRequest
from chatterbox_engine.spec import EncoderSpec, EstimatorSpec, HiFTSpec, S3GenSpec, T3Spec
from chatterbox_engine.text import normalise
from chatterbox_engine.types import SAMPLE_RATE, VALID_TOKENS
from chatterbox_engine.voice import Voice

_PREFIX_TOKENS = 2
"""Tokens of the shorter of the two calls whose difference is the time of the others."""
_CONFIG = "benchmarks"
_ATTEMPTS = 20


class ReferenceT3:
    """chatterbox.models.t3.T3 with a checkpoint's tensors."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        """Raises InvalidRequest where chatterbox-tts has no such size."""
        self._checkpoint = checkpoint
        self._device = device
        self.model = _t3(checkpoint.spec.t3)
        weights = checkpoint.weights(T3_FILE)
        tensors = {name: weights.take(name, tuple(own.shape)) for name, own in self.model.state_dict().items()}
        self.model.load_state_dict(tensors)
        self.model.to(device).eval()

    def measure(self, text: str, voice: Voice, tokens: int) -> Measured:
        """Time two calls that differ by so many tokens; what they share is the prefill."""
        short, few = self._timed(text, voice, _PREFIX_TOKENS)
        long, many = self._timed(text, voice, _PREFIX_TOKENS + tokens)
        step = (long - short) / (many - few)
        return {"step_s": step, "tokens_a_second": 1 / step, "first_token_s": short - few * step}

    def speak(self, text: str, voice: Voice, tokens: int, seed: int = 0) -> Tensor:
        """Speech tokens (1, n), at most so many."""
        from chatterbox.models.t3.modules.cond_enc import T3Cond

        spec, device = self._checkpoint.spec, self._device
        own = voice.for_t3()
        condition = T3Cond(
            speaker_emb=own.speaker.to(device),
            cond_prompt_speech_tokens=own.prompt.to(device),
            emotion_adv=spec.sampling.exaggeration * torch.ones(1, 1, 1, device=device),
        )
        ids = self._checkpoint.tokenizer().encode(normalise(text, spec.family), spec.language)
        words = torch.tensor([ids])
        torch.manual_seed(seed)
        with _quiet():
            if spec.t3.backbone == "gpt2":
                return self.model.inference_turbo(condition, words.to(device), max_gen_len=tokens)
            both = torch.cat((words, words)).to(device)
            return self.model.inference(t3_cond=condition, text_tokens=both, max_new_tokens=tokens)

    def _timed(self, text: str, voice: Voice, tokens: int) -> tuple[float, int]:
        """Seconds, and the tokens made; a call that stopped early is made again with another seed."""
        for seed in range(_ATTEMPTS):
            synchronize(self._device)
            begin = time.perf_counter()
            made = self.speak(text, voice, tokens, seed).shape[1]
            synchronize(self._device)
            if made >= tokens:
                return time.perf_counter() - begin, made
        raise InvalidRequest(f"chatterbox-tts stopped before {tokens} tokens, {_ATTEMPTS} times.", "reference-tokens")


class ReferenceS3Gen:
    """chatterbox.models.s3gen.S3Gen with random weights."""

    def __init__(self, spec: S3GenSpec, device: torch.device) -> None:
        """Raises InvalidRequest where chatterbox-tts has no such size."""
        from chatterbox.models.s3gen import S3Gen

        if (spec.encoder, spec.estimator, spec.hift) != (EncoderSpec(), EstimatorSpec(), HiFTSpec()):
            raise InvalidRequest("chatterbox-tts has no S3Gen of this size: use --no-reference.", "model")
        torch.manual_seed(0)
        self.model = S3Gen(meanflow=spec.meanflow).to(device).eval()
        self._device = device

    def speak(self, tokens: Tensor, voice: Voice) -> Tensor:
        """Tokens (1, n) -> samples (1, 960 n)."""
        conditions = {name: value.to(self._device) if isinstance(value, Tensor) else value
                      for name, value in voice.to_conditionals().gen.items()}  # fmt: skip
        with _quiet():
            return self.model.inference(speech_tokens=tokens.to(self._device), ref_dict=conditions)[0]

    def measure(self, tokens: Tensor, voice: Voice) -> Measured:
        """Time one utterance."""
        return timed_audio(lambda: self.speak(tokens, voice), self._device)

    def measure_hift(self, mel: Tensor) -> Measured:
        """Time HiFT alone on mel (1, 80, F)."""
        nothing = torch.zeros(1, 1, 0, device=self._device)

        def vocode() -> Tensor:
            with torch.inference_mode():
                made: Tensor = self.model.mel2wav.inference(speech_feat=mel.to(self._device), cache_source=nothing)[0]
            return made

        return timed_audio(vocode, self._device)


class ReferenceTTS:
    """What ChatterboxTTS.generate does, with a stated number of tokens: random weights never sample the stop token."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        import perth

        self._t3 = ReferenceT3(checkpoint, device)
        self._s3gen = ReferenceS3Gen(checkpoint.spec.s3gen, device)
        with _quiet():
            self._watermarker = perth.PerthImplicitWatermarker()
        self._device = device

    def measure(self, text: str, voice: Voice, tokens: int) -> Measured:
        """Time one text; its first audio comes with its last."""

        def generate() -> Tensor:
            spoken = self._t3.speak(text, voice, tokens)
            wav = self._s3gen.speak(spoken[spoken < VALID_TOKENS][None], voice)
            return torch.from_numpy(self._watermarker.apply_watermark(wav[0].cpu().numpy(), sample_rate=SAMPLE_RATE))[
                None
            ]

        measured = timed_audio(generate, self._device)
        return {**measured, "first_audio_s": measured["seconds"]}


def _t3(spec: T3Spec) -> Any:
    """The reference's own class at a spec's dimensions, which it takes from a table by name."""
    from chatterbox.models.t3 import T3
    from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
    from chatterbox.models.t3.modules.t3_config import T3Config

    if spec.perceiver_queries and spec.width != T3Spec().width:
        raise InvalidRequest("chatterbox-tts has no T3 of this width: use --no-reference.", "model")
    if spec.backbone == "gpt2":
        own = {"n_layer": spec.layers, "n_embd": spec.width, "hidden_size": spec.width, "n_head": spec.heads}
        LLAMA_CONFIGS[_CONFIG] = {**LLAMA_CONFIGS["GPT2_medium"], **own}
    else:
        LLAMA_CONFIGS[_CONFIG] = {**LLAMA_CONFIGS["Llama_520M"], "num_hidden_layers": spec.layers}
    settings = T3Config(text_tokens_dict_size=spec.text_vocab)
    settings.llama_config_name = _CONFIG
    settings.speech_tokens_dict_size = spec.speech_vocab
    settings.start_speech_token, settings.stop_speech_token = spec.start_speech, spec.stop_speech
    settings.input_pos_emb = "learned" if spec.learned_positions else None
    settings.speech_cond_prompt_len = spec.prompt_tokens
    settings.use_perceiver_resampler = bool(spec.perceiver_queries)
    settings.emotion_adv = spec.emotion
    return T3(settings)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the reference's own progress bars and prints."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
