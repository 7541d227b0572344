"""The flow: speech tokens -> mel spectrogram, by conditional flow matching with classifier-free guidance, or distilled.

Flow matching: Lipman et al., 2210.02747; its use for speech tokens with a prompt: CosyVoice 2, 2412.10117. A mean-flow
model (Geng et al., 2505.13447) gives the mean velocity of a whole step, with the guidance distilled into it.
Parameters carry the names of the reference's `flow.*`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatterbox_engine.accel import noise as positional
from chatterbox_engine.accel.graphs import Recurring
from chatterbox_engine.s3gen.chunk_encoder import ChunkEncoder, EncoderPast, GrowingEncoder
from chatterbox_engine.s3gen.encoder import Encoder
from chatterbox_engine.s3gen.estimator import Estimator
from chatterbox_engine.s3gen.past import Before
from chatterbox_engine.s3gen.solver import EulerSolver, Solver, SolverPast
from chatterbox_engine.spec import S3GenSpec
from chatterbox_engine.types import FRAMES_PER_TOKEN
from chatterbox_engine.weights import table

_PROMPT_PLACE = 2**40
"""Places of the prompt's noise begin here, far beyond those of any frame spoken."""


def flow_noise(seeds: Tensor, prompt_frames: int, start_frame: int | Tensor, frames: int, mel_bins: int) -> Tensor:
    """The noise that the flow starts from: a prompt's, then that of frames [start_frame, start_frame + frames).

    A number depends on the seed and on the place of its frame alone: in the prompt, or in what is spoken after it. So a
    frame keeps its noise whatever window it is computed in, and whatever the prompt's length.

    Args:
        seeds: (B,) int64.
        prompt_frames: frames of the prompt, always from its first on.
        start_frame: the first frame spoken in this window, 0 at the utterance's start; of all rows, or (B,) int64.
        frames: frames spoken in this window.
        mel_bins: values of a frame.

    Returns:
        (B, mel_bins, prompt_frames + frames) float32, standard normal.
    """
    starts = torch.full_like(seeds, _PROMPT_PLACE), torch.zeros_like(seeds) + start_frame * mel_bins
    counts = prompt_frames * mel_bins, frames * mel_bins
    runs = [
        positional.normals(seeds, positional.Domain.FLOW, start, count)
        for start, count in zip(starts, counts, strict=True)
    ]
    return torch.cat(runs, dim=1).unflatten(1, (-1, mel_bins)).transpose(1, 2)


@dataclass(slots=True)
class FlowPast:
    """What the flow keeps of a stream, so that its next chunk costs no more than its own frames."""

    solver: SolverPast
    """Of the estimator."""
    encoder: EncoderPast
    frames: int = 0
    """Mel frames so far, the prompt's among them."""

    def copy(self) -> "FlowPast":
        """Another stream's, that begins alike."""
        return FlowPast(self.solver.copy(), self.encoder.copy(), self.frames)

    def forget(self, first: int, last: int) -> None:
        """Keep for the estimator the first and the last so many frames; the encoder, which is small, keeps all."""
        self.solver.forget(first, last)


class _Decoder(nn.Module):
    """Holds the estimator where the reference's names have it."""

    def __init__(self, spec: S3GenSpec) -> None:
        super().__init__()
        self.estimator = Estimator(spec)


class Flow(nn.Module):
    """Speech tokens, prompt and speaker -> mel spectrogram."""

    def __init__(self, spec: S3GenSpec) -> None:
        super().__init__()
        self.spec = spec
        self.input_embedding = table(spec.token_vocab, spec.encoder.width)
        self.spk_embed_affine_layer = nn.Linear(spec.speaker_width, spec.mel_bins)
        self.encoder = Encoder(spec)
        self.encoder_proj = nn.Linear(spec.encoder.width, spec.mel_bins)
        self.decoder = _Decoder(spec)
        self.solver: Solver = EulerSolver(self.decoder.estimator, spec)
        """Whoever puts something else here knows what the weights are, and where."""
        self.captured: Recurring | None = None
        """Runs instead of `encode` where somebody has put it here."""
        self.chunks: ChunkEncoder = GrowingEncoder(self.encode_next)
        """Likewise."""

    def forward(
        self,
        tokens: Tensor,
        prompt_feat: Tensor,
        speaker: Tensor,
        noise: Tensor,
        *,
        lengths: Tensor | None = None,
        steps: int | None = None,
        final: bool,
    ) -> Tensor:
        """Speak tokens after a prompt.

        Args:
            tokens: (B, T) int64, the prompt's and the speech's, below `spec.token_vocab`. Shorter rows are padded on
                the right with any token.
            prompt_feat: mel of the prompt (B, P, mel_bins); P is the same for all rows of a call.
            speaker: x-vector (B, speaker_width), of any length other than 0.
            noise: (B, mel_bins, at least the frames computed), from the prompt's first frame on.
            lengths: (B,) int64, each row's tokens, so many that it has a frame after the prompt. None: all have T.
            steps: Euler steps. None: `spec.cfm_steps`.
            final: whether the utterance ends here. If not, the last `lookahead` tokens of each row are heard only as
                context of those before them.

        Returns:
            Mel frames after the prompt, in the dtype of `noise`: (B, mel_bins, 2T - P), or 2 (T - lookahead) - P
            frames if not final. A row of length L has its own 2L - P, or 2 (L - lookahead) - P, frames first; they
            equal those of the row alone, and the frames after them mean nothing.

        Raises:
            ValueError: the tokens leave no frame after the prompt, or `noise` has too few frames.
        """
        hidden_back = 0 if final else self.spec.encoder.lookahead
        prompt = prompt_feat.shape[1]
        frames = FRAMES_PER_TOKEN * (tokens.shape[1] - hidden_back)
        if frames <= prompt:
            raise ValueError(
                f"{tokens.shape[1]} tokens give {frames} frames, which do not go beyond the prompt's {prompt}"
            )
        if noise.shape[2] < frames:
            raise ValueError(f"noise for {noise.shape[2]} frames was given, {frames} are needed")
        ends = None if lengths is None else FRAMES_PER_TOKEN * (lengths - hidden_back)
        mu = (self.captured or self.encode)(tokens, lengths)[:, :, :frames]
        voice = self.spk_embed_affine_layer(F.normalize(speaker.to(mu.dtype), dim=1))
        cond = torch.zeros_like(mu)
        cond[:, :, :prompt] = prompt_feat.transpose(1, 2)
        start = noise[:, :, :frames]
        return self.solver(start, mu, voice, cond, steps or self.spec.cfm_steps, ends=ends)[:, :, prompt:]

    def encode(self, tokens: Tensor, lengths: Tensor | None) -> Tensor:
        """What to speak: tokens (B, T) of `lengths` (B,), or all T, -> (B, mel_bins, 2T)."""
        return self.encoder_proj(self.encoder(self.input_embedding(tokens), lengths)).transpose(1, 2)

    def encode_next(self, tokens: Tensor, lengths: Tensor, low: Before, high: Before) -> Tensor:
        """What to speak: tokens (B, T + lookahead) of `lengths` (B,), after what came before at the token rate and at
        the frame rate, -> (B, mel_bins, 2T)."""
        hidden = self.encoder.go_on(self.input_embedding(tokens), lengths, low, high)
        return self.encoder_proj(hidden).transpose(1, 2)

    def begin(self, steps: int | None = None) -> FlowPast:
        """The past of a stream without a prompt, which has not begun, for so many Euler steps. None: the spec's."""
        return FlowPast(self.solver.begin(steps or self.spec.cfm_steps), self.chunks.begin())

    def hear(self, prompt: Tensor, prompt_feat: Tensor, speaker: Tensor, *, steps: int | None = None) -> FlowPast:
        """The past of a stream that has not begun: its voice's prompt, computed once for all streams of the voice.

        The prompt's last `lookahead` tokens are left for a stream's first chunk, whose tokens they hear.

        Args:
            prompt: (1, N) int64.
            prompt_feat: its mel (1, 2N, mel_bins).
            speaker: (1, speaker_width).
            steps: Euler steps, of the streams too. None: `spec.cfm_steps`.
        """
        past = self.begin(steps)
        lookahead = self.spec.encoder.lookahead
        if prompt.shape[1] > lookahead:
            frames = FRAMES_PER_TOKEN * (prompt.shape[1] - lookahead)
            noise = flow_noise(
                torch.zeros(1, dtype=torch.int64, device=prompt.device), frames, 0, 0, self.spec.mel_bins
            )
            self.go_on([prompt[0]], [False], prompt_feat, speaker, noise, [past])
        return past

    def go_on(
        self,
        tokens: Sequence[Tensor],
        finals: Sequence[bool],
        prompt_feat: Tensor,
        speaker: Tensor,
        noise: Tensor,
        pasts: Sequence[FlowPast],
    ) -> list[Tensor]:
        """Speak the next chunk of each stream: it attends to itself and to all before it, and not beyond.

        For weights that were trained so this is what they were trained for; for others it is an approximation.

        Args:
            tokens: of each stream (n,) int64, those after the frames that its past has.
            finals: whether its utterance ends with them. If not, the last `lookahead` are heard only as context.
            prompt_feat: mel of the prompts (B, P, mel_bins).
            speaker: (B, speaker_width).
            noise: (B, mel_bins, F), of the new frames, as many as the longest row has.
            pasts: what came before, of as many Euler steps each. They are moved on.

        Returns:
            The new mel frames after the prompt (mel_bins, n) of each stream.
        """
        lookahead = self.spec.encoder.lookahead
        lengths = [len(own) for own in tokens]
        counts = [length - (0 if final else lookahead) for length, final in zip(lengths, finals, strict=True)]
        frames = [FRAMES_PER_TOKEN * count for count in counts]
        padded = torch.nn.utils.rnn.pad_sequence(list(tokens), batch_first=True)
        padded = F.pad(padded, (0, max(counts) + lookahead - padded.shape[1]))
        mu = self.chunks.go_on(padded, lengths, counts, [past.encoder for past in pasts])
        voice = self.spk_embed_affine_layer(F.normalize(speaker.to(mu.dtype), dim=1))
        cond = torch.zeros_like(mu)
        for row, past in enumerate(pasts):
            known = prompt_feat[row, past.frames :][: mu.shape[2]]
            cond[row, :, : len(known)] = known.T
        mel = self.solver.go_on(noise, mu, voice, cond, frames, [past.solver for past in pasts])
        spoken = []
        for row, (past, own) in enumerate(zip(pasts, frames, strict=True)):
            spoken.append(mel[row, :, max(0, prompt_feat.shape[1] - past.frames) : own])
            past.frames += own
        return spoken
