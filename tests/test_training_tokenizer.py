"""The shipped tokenizer is the one that the training vocabulary produces."""

from pathlib import Path

from cldm.checkpoint import SMALL_TOKENIZER
from training.scenes.captions import VOCABULARY
from training.tokenizer import PROMPT_WORDS, write_tokenizer


def test_the_files_are_what_the_script_writes(tmp_path: Path) -> None:
    """The files are equal byte for byte, so the ids of the shipped tokenizer are reproducible."""
    write_tokenizer(tmp_path, [*PROMPT_WORDS, *VOCABULARY])
    for file in ("vocab.json", "merges.txt"):
        assert (tmp_path / file).read_bytes() == (SMALL_TOKENIZER / file).read_bytes()
