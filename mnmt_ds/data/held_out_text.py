"""What no row may be trained on: the text of all dev and test sets, given or held out, as hashes.

No row trains whose source or target equals a held-out sentence in its language: a sentence of any pair's dev or test
set, on either side, exactly or once both are normalised (``dedup_keys.normalise_key``). Nor does a row whose key is the
key of a held-out row. Languages are compared by what their codes may mean, so that en, eng and eng_Latn are one, and no
(Norwegian) is both nb and nn.

Letters: N rows of a pair's text, M hashes to look among.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mnmt_ds.data import holdout
from mnmt_ds.data.holdout import Hashes, Mask, RowHashes, Rows
from mnmt_ds.data.language_codes import key_side, may_be_same, same_language
from mnmt_ds.data.language_pairs import split_pair


class HeldOutText(NamedTuple):
    """Hashes of dev and test sentences, which no row may be trained on."""

    sentences: dict[str, Hashes]
    """Sorted hashes of the normalised sentences of all dev and test sets, by the codes that the pairs have."""
    keys: Hashes
    """Sorted hashes of the held-out rows' keys that are neither side's text, but one in the key language."""

    def in_language(self, language: str, hash_N: Hashes) -> Mask:
        """Marks sentences that are held out.

        Args:
            language: any code of the sentences' language.
            hash_N: hash of each normalised sentence.

        Returns:
            Mask (N,), True where a sentence is held out.
        """
        is_held_out_N = np.zeros(len(hash_N), bool)
        for code, sentences_M in self.sentences.items():
            if may_be_same(code, language):
                is_held_out_N |= holdout.is_in_sorted(hash_N, sentences_M)
        return is_held_out_N


def held_out_text(pair: str, hashes: Mapping[str, RowHashes], rows: Rows) -> HeldOutText:
    """Collects the text of a pair's dev and test sets, given or held out.

    Args:
        pair: the pair's name.
        hashes: of the training text under "train", and of the given sets under "dev" and "test".
        rows: rows of the training text that are held out.

    Returns:
        Hashes of the sentences, and of the rows' keys.
    """
    held_out = [hashes["train"].of_rows(rows)]
    held_out += [hashes[split] for split in ("dev", "test") if split in hashes]
    source, target = split_pair(pair)
    by_language = {source: [part.source for part in held_out], target: [part.target for part in held_out]}
    return HeldOutText(
        {language: holdout.union_of_keys(parts) for language, parts in by_language.items()},
        holdout.union_of_keys([part.key[_has_own_key(part)] for part in held_out]),
    )


def join_held_out(texts: Sequence[HeldOutText]) -> HeldOutText:
    """Joins the held-out text of all pairs.

    Args:
        texts: what ``held_out_text`` found, one a pair.

    Returns:
        What no row of any pair may be trained on.
    """
    languages = dict.fromkeys(language for text in texts for language in text.sentences)
    return HeldOutText(
        {
            language: holdout.union_of_keys([text.sentences[language] for text in texts if language in text.sentences])
            for language in languages
        },
        holdout.union_of_keys([text.keys for text in texts]),
    )


def held_out_masks(pair: str, key_language: str, train: RowHashes, held_out: HeldOutText) -> dict[str, Mask]:
    """Marks the rows of a pair's training text that may not be trained on.

    Args:
        pair: the pair's name.
        key_language: any code of the key language.
        train: hashes of the training text.
        held_out: what no row may be trained on.

    Returns:
        Masks of the rows by rule: the key's text is held out; the source's; the target's.
    """
    source, target = split_pair(pair)
    languages, side = (source, target), key_side(source, target, key_language)
    in_key_language_N = held_out.in_language(key_language, train.key) | holdout.is_in_sorted(train.key, held_out.keys)
    if same_language(languages[side], key_language):
        key_N = in_key_language_N
    else:
        key_N = np.where(_has_own_key(train), in_key_language_N, held_out.in_language(languages[side], train.key))
    return {
        "held-out key": key_N,
        "held-out source": held_out.in_language(source, train.source),
        "held-out target": held_out.in_language(target, train.target),
    }


def _has_own_key(hashes: RowHashes) -> Mask:
    """Rows whose key is neither side's text."""
    return (hashes.key != hashes.source) & (hashes.key != hashes.target)
