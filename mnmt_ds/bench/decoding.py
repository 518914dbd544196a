"""Decoding speed: our beam search, transformers' generate and CTranslate2 on the same weights, taking turns.

Letters: B sentences, S source tokens, T target tokens, D width.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnmt_ds.batch import EOS, PAD
from mnmt_ds.decoding.beam_search import BeamSettings, beam_search
from mnmt_ds.models import export
from mnmt_ds.models.layers import sinusoids
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise


class DecodingSpeed(NamedTuple):
    """Speed of one decoder on one workload, in the best of the rounds."""

    decoder: str
    workload: str
    sentences_per_second: float
    tokens_per_second: float
    """Tokens of the best hypotheses."""
    ratio: float
    """Sentences per second against transformers' generate, same round."""


LOG = logging.getLogger(__name__)
Decode = Callable[[Tensor, int, int], list[list[int]]]
"""From sources with tags and end symbols, the decoder's first token and a length limit to the best translations."""


def measure_decoding(
    preset: str = "tiny",
    vocabulary: int = 3000,
    batch: int = 32,
    limit: int = 40,
    rounds: int = 3,
    device: str = "cpu",
    peers: tuple[str, ...] = ("transformers", "ctranslate2"),
) -> list[DecodingSpeed]:
    """Times beam 5 in alternating rounds on two workloads: all sentences run to the limit, or end at many lengths.

    Uses as many threads as torch is set to. All decode in float32 on a CPU, in bfloat16 on a GPU.

    Args:
        preset: of the model.
        vocabulary: number of tokens.
        batch: sentences that are translated together.
        limit: most tokens of a translation.
        rounds: rounds that are timed; one more warms up.
        device: cpu or cuda.
        peers: other decoders; one that is not installed, or does not run on the device, is left out.

    Returns:
        A row a workload and decoder.
    """
    rows = []
    for workload in ("full length", "varied ends"):
        torch.manual_seed(0)
        model = initialise(Transformer(ModelSettings(preset=preset), vocabulary)).eval()
        make_peaked(model, end_pull=6.0 if workload == "varied ends" else 0.0)
        source_BS, start = random_sources(batch, vocabulary).to(device), vocabulary - 1
        decoders = _decoders(model.to(device, torch.bfloat16 if device == "cuda" else torch.float32), start, peers)
        seconds: dict[str, list[float]] = {name: [] for name in decoders}
        lengths: dict[str, int] = {}
        for round_number in range(rounds + 1):
            for name, decode in decoders.items():
                began = time.perf_counter()
                tokens = decode(source_BS, start, limit)
                if round_number:
                    seconds[name].append(time.perf_counter() - began)
                lengths[name] = sum(map(len, tokens))
        best = {name: min(values) for name, values in seconds.items()}
        base = best.get("transformers", float("nan"))
        rows += [
            DecodingSpeed(name, workload, batch / best[name], lengths[name] / best[name], base / best[name])
            for name in decoders
        ]
    return rows


def make_peaked(model: Transformer, sharpness: float = 3.0, end_pull: float | None = 3.0, around: int = 25) -> None:
    """Makes random weights behave more like trained ones: a peaked distribution, and sentences that end.

    Random signs on the last norm break the copying that a tied embedding causes. The end symbol's embedding points to
    the position sinusoids that grow until ``around``.

    Args:
        model: its weights are changed.
        sharpness: factor of the last norm's weights.
        end_pull: length of the end symbol's embedding; 0: sentences do not end; None: the end symbol stays one random
            symbol among others.
        around: the position about which sentences end.
    """
    width = model.settings.d_model
    generator = torch.Generator().manual_seed(0)
    sign_D = torch.randint(0, 2, (width,), generator=generator) * 2.0 - 1
    positions = sinusoids(around, width)
    grows_D = (positions.diff(dim=0) > 0).all(0) & (positions[-1] > 0.7)
    assert end_pull is None or bool(grows_D.any()), "no position sinusoid grows until there"
    with torch.no_grad():
        if end_pull is not None:
            model.embedding.weight[EOS] = grows_D / grows_D.sum().sqrt() * end_pull
            sign_D[grows_D] = 1
        model.decoder_norm.weight.copy_(sharpness * sign_D)


def random_sources(batch: int, vocabulary: int, seed: int = 0) -> Tensor:
    """Draws sources with tags and end symbols.

    Args:
        batch: number of sentences.
        vocabulary: number of tokens to draw from.
        seed: of the draw.

    Returns:
        (B, S): 5 to 14 random tokens each, PAD on the right.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 15, (batch,), generator=generator)
    source_BS = torch.randint(4, vocabulary, (batch, int(lengths.max()) + 1), generator=generator)
    position_S = torch.arange(source_BS.shape[1])
    source_BS[position_S == lengths[:, None]] = EOS
    return source_BS.masked_fill(position_S > lengths[:, None], PAD)


def hf_model(model: Transformer, start: int) -> Any:
    """Makes transformers' M2M100ForConditionalGeneration with the same weights.

    Args:
        model: ours.
        start: the decoder's first token.

    Returns:
        The model, in eval mode, on the same device.
    """
    from transformers import M2M100Config, M2M100ForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()
    config = M2M100Config(**export.m2m100_config(model.settings, model.vocabulary_size, start))
    result = (
        M2M100ForConditionalGeneration(config).eval().to(model.embedding.weight.device, model.embedding.weight.dtype)
    )
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    missing = result.load_state_dict(export.to_m2m100(state), strict=False)
    assert not missing.unexpected_keys, missing.unexpected_keys
    result.tie_weights()
    return result


def _decoders(model: Transformer, start: int, peers: tuple[str, ...]) -> dict[str, Decode]:
    def ours(source_BS: Tensor, start: int, limit: int) -> list[list[int]]:
        hypotheses_B = beam_search(model, source_BS, start, BeamSettings(), limit=[limit] * len(source_BS))
        return [hypotheses[0].tokens for hypotheses in hypotheses_B]

    decoders: dict[str, Decode] = {"mnmt-ds": ours}
    for name, build in (("transformers", _transformers), ("ctranslate2", _ctranslate2)):
        if name in peers:
            try:
                decoders[name] = build(model, start)
            except (ImportError, RuntimeError) as error:
                LOG.warning("decoding: %s is left out: %s", name, str(error).splitlines()[0])
    return decoders


def _transformers(model: Transformer, start: int) -> Decode:
    peer = hf_model(model, start)

    def decode(source_BS: Tensor, start: int, limit: int) -> list[list[int]]:
        output_BT = peer.generate(
            input_ids=source_BS,
            attention_mask=(source_BS != PAD).long(),
            decoder_start_token_id=start,
            suppress_tokens=[0, PAD],
            num_beams=5,
            early_stopping=True,
            length_penalty=1.0,
            max_length=limit + 1,
            do_sample=False,
        )
        return [[token for token in row[1:] if token not in (PAD, EOS)] for row in output_BT.tolist()]

    return decode


def _ctranslate2(model: Transformer, start: int) -> Decode:
    import ctranslate2

    names = [str(i) for i in range(model.vocabulary_size)]
    with tempfile.TemporaryDirectory() as directory:
        export.save_ctranslate2(hf_model(model, start).float(), names, names[start], Path(directory))
        device = model.embedding.weight.device.type
        threads = torch.get_num_threads() if device == "cpu" else os.cpu_count() or 1
        peer = ctranslate2.Translator(
            directory,
            device=device,
            inter_threads=1,
            intra_threads=threads,
            compute_type="float32" if device == "cpu" else "bfloat16",
        )

    def decode(source_BS: Tensor, start: int, limit: int) -> list[list[int]]:
        sources = [[str(token) for token in row if token != PAD] for row in source_BS.tolist()]
        results = peer.translate_batch(
            sources, beam_size=5, max_decoding_length=limit, suppress_sequences=[["0"], ["1"]]
        )
        return [[int(token) for token in result.hypotheses[0]] for result in results]

    return decode
