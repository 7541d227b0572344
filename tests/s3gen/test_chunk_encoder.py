"""What the encoder keeps in pages, by Triton's interpreter where no GPU is, against tensors that grow."""

from types import ModuleType

import pytest
import torch

from chatterbox_engine.s3gen.chunk_encoder import ChunkEncoder, GrowingEncoder, PagedEncoder
from tests.interpreted import DEVICE
from tests.rerun import CPU, Rerun
from tests.s3gen.test_paged_solver import EAGER, SMALL, loaded

LOOKAHEAD = SMALL.encoder.lookahead


def chunks(encoder: ChunkEncoder) -> list[torch.Tensor]:
    """Streams of a voice that was heard, at other places than each other, ragged; the last chunk ends one of them."""
    generator = torch.Generator().manual_seed(0)
    made = []

    def go_on(pasts: list, lengths: list[int], final: bool = False) -> None:
        counts = [length - LOOKAHEAD for length in lengths]
        if final:
            counts[0] += LOOKAHEAD
        tokens = torch.zeros(len(pasts), max(counts) + LOOKAHEAD, dtype=torch.int64)
        for row, length in enumerate(lengths):
            tokens[row, :length] = torch.randint(0, SMALL.token_vocab, (length,), generator=generator)
        mu = encoder.go_on(tokens.to(DEVICE), lengths, counts, pasts)
        assert mu.shape == (len(pasts), SMALL.mel_bins, 2 * max(counts))
        made.extend(mu[row, :, : 2 * count] for row, count in enumerate(counts))

    heard = encoder.begin()
    go_on([heard], [40])
    pasts = [heard.copy() for _ in range(3)]
    go_on(pasts[1:2], [9])
    for lengths in ([8, 13, 28], [13, 13, 13], [13, 13, 13]):
        go_on(pasts, lengths)
    go_on(pasts, [4, 5, 12], final=True)
    return made


@pytest.mark.parametrize("captured", [False, True])
def test_pages_are_tensors_that_grow(gpu_kernels: ModuleType, captured: bool) -> None:
    if captured and DEVICE.type == "cuda":
        pytest.skip("tests/test_gpu.py has it")
    flow = loaded(SMALL)
    graphs = Rerun(CPU, True) if captured else EAGER
    paged = PagedEncoder(flow.encode_next, flow.encoder, graphs, gpu_kernels)
    with torch.inference_mode():
        for ours, expected in zip(chunks(paged), chunks(GrowingEncoder(flow.encode_next)), strict=True):
            torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)
    if captured:
        assert graphs.replays
