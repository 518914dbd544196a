"""Whether DeepSpeed takes fp16 on this machine's device: on processors few have it."""

import pytest
from deepspeed.accelerator import get_accelerator

FP16 = bool(get_accelerator().is_fp16_supported())
needs_fp16 = pytest.mark.skipif(not FP16, reason="DeepSpeed takes no fp16 on this machine's device")
