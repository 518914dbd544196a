"""Model FLOPs utilisation: the share of a GPU's arithmetic that a step's useful work would fill (PaLM, appendix B).

Shape letters: N tokens that are no padding, S source positions, T target positions.
"""

import torch

from mnmt_ds.batch import PAD, Batch
from mnmt_ds.distributed import device
from mnmt_ds.models.settings import ModelSettings

PEAK_FLOPS = {"A100": 312e12, "A800": 312e12, "H100": 989e12, "H200": 989e12, "H800": 989e12, "B200": 2250e12}
"""Dense 16-bit tensor-core peaks by the makers' data sheets (SXM modules), by a part of the device's name."""


def peak_flops(precision: str) -> float | None:
    """Looks up this rank's peak FLOP/s.

    Args:
        precision: fp32, bf16 or fp16.

    Returns:
        None where it is not known: a CPU, another GPU, fp32.
    """
    if device().type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name()
    return next((peak for device_name, peak in PEAK_FLOPS.items() if device_name in name), None)


def training_flops(model: ModelSettings, vocabulary_size: int, batch: Batch) -> float:
    """Counts the FLOPs of one translation pass over a batch: forward, and twice that backward; a multiply-add is two.

    Padding does no useful work and is left out, but for the attention's lengths. Recomputed layers, further passes and
    teachers are left out: they are the method's cost, not the model's work.

    Args:
        model: the model's shape.
        vocabulary_size: V.
        batch: a micro-batch.

    Returns:
        Floating-point operations.
    """
    d, f = model.d_model, model.ffn
    source_N, target_N = int((batch.source_BS != PAD).sum()), batch.tokens
    source_S, target_T = batch.source_BS.shape[1], batch.target_BT.shape[1]
    encoder = model.encoder_layers * source_N * (4 * d * d + 2 * d * f + 2 * source_S * d)
    decoder = model.decoder_layers * target_N * (6 * d * d + 2 * d * f + 2 * target_T * d + 2 * source_S * d)
    memory = model.decoder_layers * source_N * 2 * d * d
    return 3 * 2 * float(encoder + decoder + memory + target_N * vocabulary_size * d)
