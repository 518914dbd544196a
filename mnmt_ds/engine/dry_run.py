"""The dry run: everything that training would refuse, refused now, and what an epoch would hold."""

from mnmt_ds.distributed import data_parallel_size, device, is_main, world_size
from mnmt_ds.engine.build import facts, open_corpus, open_streams
from mnmt_ds.engine.dataloading.training_data import dev_batches
from mnmt_ds.engine.parallel import ds_config, pipeline_engine, vocab_parallel
from mnmt_ds.engine.recipe import Recipe, students_of
from mnmt_ds.engine.students import placement
from mnmt_ds.kernels.implementations import resolve_implementation
from mnmt_ds.methods import registry
from mnmt_ds.models.transformer import Transformer, parameter_count


def check(recipe: Recipe) -> None:
    """UserError where training would stop before it starts; otherwise prints a table a student."""
    vocab_parallel.arrange(recipe)
    pipeline_engine.check(recipe, ds_config.read(recipe.deepspeed))
    vocab_parallel.check(recipe, ds_config.read(recipe.deepspeed))
    if world_size() > 1:
        placement.check(recipe)
    ranks = max(1, data_parallel_size() // (len(recipe.students) if recipe.placement == "split" else 1))
    config = ds_config.resolve(ds_config.read(recipe.deepspeed), recipe.train, ranks, str(recipe.deepspeed))
    corpus, pairs = open_corpus(recipe)
    streams = open_streams(recipe, corpus)
    _, tokens = dev_batches(corpus, pairs, recipe.framing, recipe.validation.max_tokens, recipe.model.max_positions)
    registry.check(recipe.method, facts(recipe, streams))
    if not is_main():
        return
    model = Transformer(recipe.model, corpus.tokenizer.size)
    for (name, _), stream in zip(students_of(recipe), streams, strict=True):
        if len(streams) > 1:
            print(f"student {name}")
        print(f"{'pair':8} {'sentences':>10} {'probability':>12} {'an epoch':>10} {'dev tokens':>11}")
        for pair, size, share, count in zip(
            pairs, stream.sizes, stream.sampler.probabilities, stream.counts, strict=True
        ):
            print(f"{pair:8} {size:10,} {share:12.4f} {count:10,} {tokens[pair]:11,}")
    plan, stream = streams[0].plan(0), streams[0]
    implementation = resolve_implementation(recipe.train.loss_implementation, device())
    print(
        f"{plan.updates} updates an epoch of {int(plan.tokens.sum()):,} target tokens, {stream.left_out} sentences too"
        f" long; {parameter_count(model) / 1e6:.1f}M parameters; {world_size()} rank(s) at"
        f" ZeRO-{ds_config.zero_stage(config)}; loss: {implementation}; all is well"
    )
