"""Beam 5: ours, transformers' generate and what else DECODE_PEERS names."""

import os

from common import DEVICE, DRY_RUN, emit, fault_text, seconds_left

from mnmt_ds.bench.decoding import measure_decoding

peers = tuple(os.environ.get("DECODE_PEERS", "transformers").split(","))
for batch in (4,) if DRY_RUN else (32, 128, 512):
    if seconds_left() < 8:
        break
    preset, vocabulary, limit = ("tiny", 300, 8) if DRY_RUN else ("base", 32000, 40)
    try:
        for speed in measure_decoding(preset, vocabulary, batch, limit, rounds=2, device=DEVICE.type, peers=peers):
            emit("decode", preset=preset, batch=batch, **speed._asdict())
    except Exception as fault:
        emit("decode", preset=preset, batch=batch, fault=fault_text(fault))
emit("decode", what="done")
