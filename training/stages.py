"""The stages, by name."""

import argparse

import torch

from training import checkpoint, flow, speech_tokenizer, t3, vocoder
from training.corpus import Corpus, make

STAGES = ("corpus", "speech_tokenizer", "flow", "vocoder", "t3", "checkpoint")
AUDIO_HOURS = 2.5
"""Of the corpus's audio that is kept, for the vocoder."""


def run(stage: str, args: argparse.Namespace) -> None:
    """With the command's arguments. In a module of its own, since a process that is spawned beside finds it here."""
    torch.set_num_threads(args.threads)
    if stage == "corpus":
        make(args.folder, args.utterances, AUDIO_HOURS, args.wordnet, args.threads)
        return
    corpus = Corpus(args.folder)
    if stage == "speech_tokenizer":
        speech_tokenizer.run(corpus, args.folder)
    elif stage == "checkpoint":
        checkpoint.write(corpus, args.folder, args.to)
    else:
        module = {"flow": flow, "vocoder": vocoder, "t3": t3}[stage]
        module.run(corpus, args.folder, module.STEPS if args.steps is None else args.steps, args.start)
