"""`python -m training STAGE`: corpus, speech_tokenizer, flow, vocoder, t3, checkpoint, or all of them."""

import argparse
import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from training import dimensions
from training.stages import STAGES, run
from training.texts import WORDNET

UTTERANCES = 18_000


def main() -> None:
    """Run one stage, or all; each goes on where it was stopped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("stage", choices=(*STAGES, "all"))
    parser.add_argument("--folder", type=Path, default=Path("training/work"), help="where the stages' states are")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="of Debian's package wordnet-base")
    parser.add_argument("--to", type=Path, default=Path("training/work/checkpoint"), help="where the checkpoint goes")
    parser.add_argument("--utterances", type=int, default=UTTERANCES)
    parser.add_argument("--steps", type=int, help="instead of the stage's own number")
    parser.add_argument("--start", type=Path, help="a checkpoint's folder that a stage begins from, not afresh")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    args.folder.mkdir(parents=True, exist_ok=True)
    dimensions.LOGS.mkdir(exist_ok=True)
    if args.stage != "all":
        run(args.stage, args)
        return
    run("corpus", args)
    run("speech_tokenizer", args)
    half = argparse.Namespace(**{**vars(args), "threads": max(1, args.threads // 2)})
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as beside:
        talker = beside.submit(run, "t3", half)  # it hears the tokens alone, not what the flow makes of them
        run("flow", half)
        run("vocoder", half)
        talker.result()
    run("checkpoint", args)


if __name__ == "__main__":
    main()
