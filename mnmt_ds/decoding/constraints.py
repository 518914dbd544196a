"""Beam search for translations that hold given phrases: Post and Vilar (2018), doi:10.18653/v1/N18-1119, as in fairseq.

Running beams are shared out over banks, by how many of the phrases' pieces a hypothesis has met; so those that have met
more do not have to compete with those that have put it off. A phrase may stand anywhere, in any order; it counts where
its pieces follow one another, also where two phrases overlap. The end symbol is for hypotheses that hold all of them.

Shape letters: B sentences, W beams, C = 2·W candidates, N = B·W, V vocabulary.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mnmt_ds.batch import EOS
from mnmt_ds.decoding.beam_search import Candidates, Continuations, RunningBeams

Phrase = tuple[int, ...]
"""Ids of a phrase's pieces."""
State = tuple[int, ...]
"""Of each phrase, how many of its pieces the last ones of a hypothesis are; all of them once it has been met."""


def piece_count(phrases: Sequence[Phrase]) -> int:
    """Counts the pieces that a sentence's translation must hold.

    Args:
        phrases: of the sentence; one that stands there twice counts once.

    Returns:
        A number.
    """
    return sum(map(len, set(phrases)))


def search_width(beam: int, pieces: int) -> int:
    """Computes how many beams run, so that each bank has some and the last one still about as many as without phrases.

    Args:
        beam: hypotheses that are kept.
        pieces: of a sentence's phrases.

    Returns:
        Two more for each piece.
    """
    return beam + 2 * pieces


class _Candidate(NamedTuple):
    """A beam with one more token."""

    score: float
    beam: int
    token: int
    met: int


class PhraseMatcher:
    """How far a sentence's hypotheses hold its phrases."""

    def __init__(self, phrases: Sequence[Phrase], first: Sequence[int] = ()) -> None:
        """Prepares the phrases.

        Args:
            phrases: none of them empty.
            first: tokens with which every hypothesis begins.
        """
        self.phrases = tuple(dict.fromkeys(phrases))
        self.total = sum(map(len, self.phrases))
        """Pieces of all phrases."""
        start: State = (0,) * len(self.phrases)
        for token in first:
            start = self.after(start, token)
        self._states: dict[tuple[int, ...], State] = {(): start}

    def state(self, tokens: Sequence[int]) -> State:
        """Returns the state behind a hypothesis; those of its beginnings are remembered.

        Args:
            tokens: of the hypothesis, without those that all begin with.

        Returns:
            The state.
        """
        key = tuple(tokens)
        if key not in self._states:
            self._states[key] = self.after(self.state(key[:-1]), key[-1])
        return self._states[key]

    def after(self, state: State, token: int) -> State:
        """Returns the state one token further.

        Args:
            state: before it.
            token: the token.

        Returns:
            The state behind it.
        """
        return tuple(
            matched if matched == len(phrase) else _advance(phrase, matched, token)
            for phrase, matched in zip(self.phrases, state, strict=True)
        )

    def met(self, state: State) -> int:
        """Counts the pieces that are met: of whole phrases, and of the one that is furthest.

        Args:
            state: of a hypothesis.

        Returns:
            A number; ``total`` where all phrases are met.
        """
        sizes = list(map(len, self.phrases))
        whole = sum(size for size, matched in zip(sizes, state, strict=True) if matched == size)
        return whole + max((matched for size, matched in zip(sizes, state, strict=True) if matched < size), default=0)

    def wanted(self, state: State) -> set[int]:
        """Lists the tokens that begin or continue a phrase that is not met.

        Args:
            state: of a hypothesis.

        Returns:
            Tokens.
        """
        missing = [(phrase, n) for phrase, n in zip(self.phrases, state, strict=True) if n < len(phrase)]
        return {phrase[matched] for phrase, matched in missing} | {phrase[0] for phrase, _ in missing}


def constrained(phrases: Sequence[Sequence[Phrase]], beam: int, first: Sequence[int] = ()) -> Continuations:
    """Makes the function that lets sentences go on to translations that hold their phrases.

    Args:
        phrases: of each sentence of the batch; none for one that is free.
        beam: W, running beams of a sentence.
        first: tokens with which every hypothesis begins.

    Returns:
        Candidates of (B, 2·W): W that end, and W that go on; -inf where there are not so many.
    """
    matchers = [PhraseMatcher(each, first) for each in phrases]

    def choose(logits_NV: Tensor, search: RunningBeams, length: int, banned: Sequence[int]) -> Candidates:
        log_prob_NV = torch.log_softmax(logits_NV, -1)
        log_prob_NV[:, list(banned)] = -torch.inf
        (batch, beams), vocabulary = search.score_BW.shape, logits_NV.shape[1]
        total_BX = (log_prob_NV.view(batch, beams, -1) + search.score_BW[:, :, None]).view(batch, -1)
        rows = [matchers[row] for row in search.row_B.tolist()]
        states = [
            [matcher.state(tokens) for tokens in each]
            for matcher, each in zip(rows, search.tokens_BWT.tolist(), strict=True)
        ]
        index_B = _places(total_BX, rows, states, 2 * beam, vocabulary)
        score, parent, token = (torch.full((batch, 2 * beam), fill) for fill in (-torch.inf, 0, EOS))
        for b, (matcher, index, limit) in enumerate(zip(rows, index_B, search.limit_B.tolist(), strict=True)):
            scores = total_BX[b, torch.tensor(index, device=total_BX.device)].tolist()
            candidates = [
                _Candidate(value, place // vocabulary, place % vocabulary, _met(matcher, states[b], place, vocabulary))
                for value, place in zip(scores, index, strict=True)
                if value > -math.inf
            ]
            ending, running = share_out(candidates, matcher.total, beam, at_limit=length >= limit)
            for first_slot, chosen in ((0, ending), (beam, running)):
                for slot, each in enumerate(chosen, start=first_slot):
                    score[b, slot], parent[b, slot], token[b, slot] = each.score, each.beam, each.token
        device = logits_NV.device
        return score.to(device), parent.to(device), token.to(device)

    return choose


def share_out(
    candidates: Sequence[_Candidate], total: int, beam: int, at_limit: bool = False
) -> tuple[list[_Candidate], list[_Candidate]]:
    """Shares the beams out over banks of candidates that have met equally much.

    Each bank gets as many, the one that has met all gets the rest; what a bank does not fill goes to the next lower
    one, and in the end to whoever has candidates.

    Args:
        candidates: of one sentence, none twice.
        total: pieces of its phrases.
        beam: W, beams to share out.
        at_limit: hypotheses may not become longer.

    Returns:
        Those that end: they hold all phrases, and stand among the first of their bank; and those that go on, at most
        ``beam`` each.
    """
    banks: list[list[_Candidate]] = [[] for _ in range(total + 1)]
    for each in sorted(candidates, key=lambda each: (-each.score, each.beam, each.token)):
        banks[each.met].append(each)
    room = beam // (total + 1) + beam % (total + 1)
    ending = [each for each in banks[total][:room] if each.token == EOS or at_limit]
    running: list[_Candidate] = []
    rest: list[_Candidate] = []
    for bank in reversed(banks):
        going_on = [each for each in bank if each.token != EOS and not at_limit]
        running, rest, room = running + going_on[:room], rest + going_on[room:], room - len(going_on[:room])
        room += beam // (total + 1)
    return ending, (running + sorted(rest, key=lambda each: -each.score))[:beam]


def _places(
    total_BX: Tensor, rows: Sequence[PhraseMatcher], states: Sequence[Sequence[State]], count: int, vocabulary: int
) -> list[list[int]]:
    """Of each sentence the places of its candidates: the best of all, the best of each beam, and what phrases want."""
    best_BC = total_BX.topk(min(count, total_BX.shape[1]))[1].tolist()
    single_BW = total_BX.view(len(rows), -1, vocabulary).argmax(-1).tolist()
    places = []
    for matcher, beams, best, single in zip(rows, states, best_BC, single_BW, strict=True):
        wanted = [w * vocabulary + token for w, state in enumerate(beams) for token in matcher.wanted(state)]
        own = [w * vocabulary + token for w, token in enumerate(single)]
        places.append(sorted({*best, *own, *wanted}))
    return places


def _met(matcher: PhraseMatcher, states: Sequence[State], place: int, vocabulary: int) -> int:
    """What is met behind a candidate; the end symbol, which no phrase holds, adds nothing."""
    state, token = states[place // vocabulary], place % vocabulary
    whole = matcher.met(state)
    return whole if token == EOS and whole == matcher.total else matcher.met(matcher.after(state, token))


def _advance(phrase: Phrase, matched: int, token: int) -> int:
    """Knuth, Morris and Pratt's step: pieces matched behind one more token."""
    while matched and phrase[matched] != token:
        matched = _borders(phrase)[matched - 1]
    return matched + (phrase[matched] == token)


@functools.lru_cache(maxsize=4096)
def _borders(phrase: Phrase) -> tuple[int, ...]:
    """Of each beginning of a phrase, the length of the longest shorter one that it ends with."""
    borders = [0]
    for token in phrase[1:]:
        border = borders[-1]
        while border and phrase[border] != token:
            border = borders[border - 1]
        borders.append(border + (phrase[border] == token))
    return tuple(borders)
