"""What ``bench finetune`` runs in each of its processes: the model made, transformers' Trainer, ours.

Letters: B sentences, S source positions, T target positions.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mnmt_ds.batch import EOS, PAD, Batch
from mnmt_ds.bench.measuring import peak_mib
from mnmt_ds.data.framing import Frame
from mnmt_ds.errors import UserError

TAGS = (9, 10)
"""Ids of the source's and the target's tag."""
FIRST_WORD = 11
LEARNING_RATE = 5e-5


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures one way; where the model is not there yet, makes it instead.

    Args:
        args: the benchmark's arguments.

    Returns:
        A row of the result; empty where the model was made.
    """
    if not args.model.exists():
        make_model(args)
        return {}
    updates = random_updates(args)
    words, first_loss, seconds = (train_by_trainer if args.child == "trainer" else train_by_us)(args, updates)
    tokens = sum(update[0].divisor for update in updates[1:])
    return {
        "way": args.child,
        "words": words,
        "precision": args.precision,
        "first_loss": first_loss,
        "seconds": seconds / args.updates,
        "tokens_per_cpu_second": tokens / seconds,
        "peak_mib": peak_mib(),
    }


def make_model(args: argparse.Namespace) -> None:
    """Writes a transformers directory of NLLB's shape with random weights.

    Args:
        args: the benchmark's arguments.

    Raises:
        UserError: where transformers is missing.
    """
    try:
        import accelerate  # noqa: F401
        from transformers import M2M100Config, M2M100ForConditionalGeneration
    except ImportError as error:
        raise UserError(f"bench finetune wants transformers and accelerate ({error}); pip install both") from None
    torch.manual_seed(1)
    heads, ffn = max(1, args.width // 64), 4 * args.width
    config = M2M100Config(
        vocab_size=args.vocabulary, d_model=args.width, dropout=0.1, attention_dropout=0.1,
        encoder_layers=args.layers, encoder_ffn_dim=ffn, encoder_attention_heads=heads, encoder_layerdrop=0.0,
        decoder_layers=args.layers, decoder_ffn_dim=ffn, decoder_attention_heads=heads, decoder_layerdrop=0.0,
    )  # fmt: skip
    M2M100ForConditionalGeneration(config).save_pretrained(args.model)


def random_updates(args: argparse.Namespace) -> list[list[Batch]]:
    """Draws the micro-batches of all updates, the same in every process.

    Args:
        args: the benchmark's arguments.

    Returns:
        Of each update its micro-batches, framed as NLLB's are.
    """
    from mnmt_ds.bench.random_text import random_text

    count = (args.updates + 1) * args.batches_per_update
    frame = Frame((TAGS[0],), (EOS,), EOS, (TAGS[1],))
    text = random_text(1, 2 * count, args.max_tokens, args.words, frame, first_word=FIRST_WORD)
    full = sorted(text.micro_batches, key=lambda micro_batch: -len(micro_batch[1]))[:count]
    batches = [text.batch(*micro_batch) for micro_batch in full]
    updates = [batches[first : first + args.batches_per_update] for first in range(0, count, args.batches_per_update)]
    return [[b._replace(divisor=sum(c.tokens for c in update)) for b in update] for update in updates]


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    began = time.process_time()
    yield
    seconds.append(time.process_time() - began)


def train_by_us(args: argparse.Namespace, updates: list[list[Batch]]) -> tuple[int, float, float]:
    """Trains on DeepSpeed's engine, as a run does.

    Args:
        args: the benchmark's arguments.
        updates: the first warms up.

    Returns:
        Words of the model, loss a token of the first micro-batch before any update, CPU seconds of the timed updates.
    """
    from mnmt_ds.distributed import job
    from mnmt_ds.engine.parallel import ds_config
    from mnmt_ds.engine.parallel.engine import Update
    from mnmt_ds.engine.parallel.first_weights import read_first_weights, without_draws
    from mnmt_ds.engine.parallel.zero_engine import make_zero_engine
    from mnmt_ds.engine.settings import TrainSettings
    from mnmt_ds.log import set_up_deepspeed
    from mnmt_ds.methods.method import Method
    from mnmt_ds.methods.translation import translation_loss
    from mnmt_ds.models.pretrained import open_weights, with_vocabulary
    from mnmt_ds.models.transformer import Transformer
    from mnmt_ds.parallel_layout import form_layout

    set_up_deepspeed()
    source = open_weights(args.model)
    if args.child == "trimmed":  # whatever the text uses has the first ids
        source = with_vocabulary(source, range(args.words), {})
    train = TrainSettings(
        max_tokens=args.max_tokens, batches_per_update=args.batches_per_update, precision=args.precision,
        clip_norm=1.0, adam_betas=(0.9, 0.999), lr=LEARNING_RATE,
    )  # fmt: skip
    config = ds_config.resolve(ds_config.read(args.deepspeed), train, 1, str(args.deepspeed))
    with job():
        with without_draws():
            model = Transformer(source.settings, source.vocabulary_size)
        read_first_weights(model, source, ds_config.dtype(config))
        engine = make_zero_engine(model, config, form_layout())
        method, seconds = Method(translation_loss(0.0, "auto")), list[float]()
        [metrics] = engine.eval_metrics(updates[0][:1], method.compute_loss)
        loss, tokens = metrics["loss"].tolist()
        for number, micro_batches in enumerate(updates):
            with _timed(seconds):
                update = Update(
                    micro_batches, lambda: [], method, lambda index: None, seed=0, number=number, key=number
                )
                engine.forward_backward(update)
                engine.step(LEARNING_RATE)
    return source.vocabulary_size, loss / tokens, sum(seconds[1:])


def train_by_trainer(args: argparse.Namespace, updates: list[list[Batch]]) -> tuple[int, float, float]:
    """Trains with transformers' Seq2SeqTrainer.

    Args:
        args: the benchmark's arguments.
        updates: the first warms up.

    Returns:
        Words of the model, loss a token of the first micro-batch before any update, CPU seconds of the timed updates.
    """
    from transformers import (
        M2M100ForConditionalGeneration,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        TrainerCallback,
    )

    model = M2M100ForConditionalGeneration.from_pretrained(args.model)
    micro_batches = [as_transformers(batch) for update in updates for batch in update]
    bf16 = args.precision == "bf16"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        first_loss = float(model.eval()(**micro_batches[0]).loss)
    seconds = list[float]()

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *rest: Any, **named: Any) -> None:
            self.began = time.process_time()

        def on_step_end(self, *rest: Any, **named: Any) -> None:
            seconds.append(time.process_time() - self.began)

    settings = Seq2SeqTrainingArguments(
        output_dir=str(Path(args.model).parent / "trainer"), use_cpu=True, bf16=bf16, learning_rate=LEARNING_RATE,
        per_device_train_batch_size=1, gradient_accumulation_steps=args.batches_per_update, max_steps=len(updates),
        save_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer = Seq2SeqTrainer(
        model=model, args=settings, train_dataset=micro_batches, data_collator=lambda rows: rows[0],
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    return args.vocabulary, first_loss, sum(seconds[1:])


def as_transformers(batch: Batch) -> dict[str, torch.Tensor]:
    """Converts a batch to the arguments of transformers' models.

    Args:
        batch: of one pair.

    Returns:
        (B, S) and (B, T) tensors; -100 in the labels where nothing counts.
    """
    labels = batch.target_BT.masked_fill(batch.target_BT == PAD, -100)
    return {"input_ids": batch.source_BS, "attention_mask": (batch.source_BS != PAD).long(), "labels": labels}
