"""GPT-2's byte-level vocabulary from the files that slow tokenizers of transformers keep it in."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

VOCABULARY_FILE, MERGES_FILE = "vocab.json", "merges.txt"
ADDED_FILE, CONFIG_FILE = "added_tokens.json", "tokenizer_config.json"
_END = "<|endoftext|>"


def byte_level(vocabulary: dict[str, int], merges: list[tuple[str, str]], added: dict[int, AddedToken]) -> Tokenizer:
    """GPT-2's tokenizer: no normalisation, words parted by its own pattern, bytes as letters.

    Raises ValueError where an added token's id is neither its own nor the next one free.
    """
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for number, token in sorted(added.items()):
        tokenizer.add_tokens([token])
        if (found := tokenizer.token_to_id(token.content)) != number:
            raise ValueError(f"{token.content} should be {number}, but would be {found}")
    return tokenizer


def read_gpt2(folder: Path) -> Tokenizer | None:
    """The tokenizer of vocab.json, merges.txt and the added tokens; None where one of the two is absent.

    Raises ValueError, KeyError, TypeError or Exception where a file is damaged.
    """
    if not all((folder / file).is_file() for file in (VOCABULARY_FILE, MERGES_FILE)):
        return None
    vocabulary, merges = models.BPE.read_file(str(folder / VOCABULARY_FILE), str(folder / MERGES_FILE))
    added = _added(folder)
    if _END in vocabulary:
        added.setdefault(vocabulary[_END], AddedToken(_END, special=True))
    return byte_level(vocabulary, merges, added)


def _added(folder: Path) -> dict[int, AddedToken]:
    """Tokens by id that are not of the vocabulary: as the config describes them, else as plain words."""
    config, plain = folder / CONFIG_FILE, folder / ADDED_FILE
    described = json.loads(config.read_text(encoding="utf-8")).get("added_tokens_decoder") if config.is_file() else None
    if described:
        return {int(number): AddedToken(**token) for number, token in described.items()}
    words = json.loads(plain.read_text(encoding="utf-8")) if plain.is_file() else {}
    return {number: AddedToken(word, normalized=False) for word, number in words.items()}
