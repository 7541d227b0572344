"""`python -m training STAGE`: corpus, speech_tokenizer, flow, vocoder, t3, checkpoint, or all of them; and vocos, which
learns from any model that speaks."""

import argparse
import logging
from pathlib import Path

import torch

from chatterbox_engine.checkpoint import DEMO
from training import checkpoint, dimensions, flow, speech_tokenizer, t3, texts, vocoder, vocos
from training.corpus import Corpus, make
from training.texts import WORDNET

UTTERANCES = 18_000
AUDIO_HOURS = 2.5
"""Of the corpus's audio that is kept, for the vocoder."""
STAGES = ("corpus", "speech_tokenizer", "flow", "vocoder", "t3", "checkpoint")


def main() -> None:
    """Run one stage, or all; each goes on where it was stopped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("stage", choices=(*STAGES, "all", "vocos"))
    parser.add_argument("--folder", type=Path, default=Path("training/work"), help="where the stages' states are")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="of Debian's package wordnet-base")
    parser.add_argument("--to", type=Path, default=Path("training/work/checkpoint"), help="where the checkpoint goes")
    parser.add_argument("--utterances", type=int, default=UTTERANCES)
    parser.add_argument("--steps", type=int, help="instead of the stage's own number")
    parser.add_argument("--start", type=Path, help="a checkpoint's folder that a stage begins from, not afresh")
    parser.add_argument("--model", default=DEMO, help="demo, a folder or a hub id that vocos learns from (%(default)s)")
    parser.add_argument("--texts", type=Path, help="one a line, that this model says (default: our own)")
    parser.add_argument("--clips", type=Path, nargs="+", default=[], help="voices that it says them with, in turn")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    dimensions.LOGS.mkdir(exist_ok=True)
    if args.stage == "vocos":
        said = args.texts.read_text().splitlines() if args.texts else texts.plain(vocos.TEXTS)
        vocos.run(args.model, args.folder, args.to, filter(None, said), args.clips, args.steps or vocos.STEPS)
        return
    stages = STAGES if args.stage == "all" else (args.stage,)
    for stage in stages:
        if stage == "corpus":
            make(args.folder, args.utterances, AUDIO_HOURS, args.wordnet, args.threads)
            continue
        if stage == "checkpoint":
            checkpoint.write(Corpus(args.folder), args.folder, args.to)
            continue
        if stage == "speech_tokenizer":
            speech_tokenizer.run(Corpus(args.folder), args.folder)
            continue
        module = {"flow": flow, "vocoder": vocoder, "t3": t3}[stage]
        module.run(Corpus(args.folder), args.folder, module.STEPS if args.steps is None else args.steps, args.start)


if __name__ == "__main__":
    main()
