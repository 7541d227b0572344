"""Teacher forcing: what T3 thought of tokens it is given, by which forms of its weights can be compared."""

import torch
from torch import Tensor

from chatterbox_engine.t3.kv_cache import KVCache
from chatterbox_engine.t3.model import T3Model
from chatterbox_engine.t3.sampling import guide
from chatterbox_engine.types import SamplingParams, T3Voice


@torch.inference_mode()
def score(
    model: T3Model,
    text: list[int],
    voice: T3Voice,
    tokens: list[int],
    params: SamplingParams,
    quantised_cache: bool = False,
) -> Tensor:
    """Log-probabilities (n, V), fp32, of the token at each of the n given ones' places, those before it given.

    After guidance and before penalty, temperature and filters. Takes a cache of its own, so that an engine may run.
    """
    device, guided = model.device, model.spec.cfg and params.cfg_weight > 0
    prefix = model.voice_prefix(voice.speaker.to(device), voice.prompt.to(device))
    fed = torch.tensor(tokens[:-1], dtype=torch.int64, device=device)
    spoken = model.embed_speech(fed, torch.arange(1, len(tokens), device=device))
    rows = [
        torch.cat((model.prompt(prefix, params.exaggeration, text, conditioned), spoken))
        for conditioned in ((True, False) if guided else (True,))
    ]
    x = torch.stack(rows)
    length = x.shape[1]
    cache = KVCache(model.spec, len(x), length, model.dtype, device, quantised_cache)
    positions = torch.arange(length, device=device).expand(len(x), -1)
    index = torch.arange(len(x), device=device)
    hidden, _ = model(x, positions, cache, index, slice(0, len(x)), length, None, causal=True)
    logits = model.logits(hidden[:, -len(tokens) :])
    places = torch.arange(len(tokens), device=device)
    weight = torch.tensor([[params.cfg_weight]], device=device)
    return guide(logits.flatten(0, 1), places, places + len(tokens) * int(guided), weight).log_softmax(-1)
