"""The dry run: everything that training would refuse, refused now, and what an epoch would hold."""

import torch

from mnmt_ds.distributed import is_main, world_size
from mnmt_ds.engine.build import first_weights, open_corpus, open_training_data, run_facts
from mnmt_ds.engine.dataloading.dev_batches import dev_tokens
from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.parallel.run_layout import check_run_layout, plan_parallel_layout, rank_multiple
from mnmt_ds.engine.recipe import Recipe, students_of
from mnmt_ds.engine.start_faults import all_faults_listed
from mnmt_ds.engine.unused_settings import start_warnings
from mnmt_ds.kernels.implementations import resolve_implementation
from mnmt_ds.methods import registry
from mnmt_ds.models.transformer import Transformer, parameter_count


def check(recipe: Recipe) -> None:
    """Checks all that training would refuse; where nothing is wrong, prints a table for each student.

    Args:
        recipe: of the run.

    Raises:
        UserError: where training would stop before it starts: lists all that is wrong.
    """
    with all_faults_listed(recipe):
        written = ds_config.read(recipe.deepspeed)
        multiple = rank_multiple(recipe)
        # one process says nothing of the ranks that training will have
        check_run_layout(recipe, written, ranks=world_size() if world_size() > 1 else multiple)
        layout = plan_parallel_layout(recipe)
        config = ds_config.resolve(written, recipe.train, layout.data_parallel_size, str(recipe.deepspeed))
        ds_config.check_by_deepspeed(config, str(recipe.deepspeed))
        ds_config.check_device(config)
        corpus, pairs = open_corpus(recipe)
        _, line = first_weights(recipe, corpus)
        training_data = open_training_data(recipe, corpus, layout)
        dev_pairs = [*pairs, *recipe.validation.watch]
        tokens = dev_tokens(corpus, dev_pairs, recipe.framing, recipe.model.max_positions)
        registry.check(recipe.method, run_facts(recipe, training_data))
    if not is_main():
        return
    if line:
        print(line)
    with torch.device("meta"):
        model = Transformer(recipe.model, corpus.tokenizer.size)
    for (name, _), data in zip(students_of(recipe), training_data, strict=True):
        if len(training_data) > 1:
            print(f"student {name}")
        print(f"{'pair':8} {'sentences':>10} {'probability':>12} {'an epoch':>10} {'dev tokens':>11}")
        for pair, size, share, count in zip(pairs, data.sizes, data.sampler.probabilities, data.counts, strict=True):
            print(f"{pair:8} {size:10,} {share:12.4f} {count:10,} {tokens[pair]:11,}")
        for pair in recipe.validation.watch:
            print(f"{pair:8} {'watched':>10} {'':12} {'':10} {tokens[pair]:11,}")
    for warning in start_warnings(recipe, corpus):
        print(f"warning: {warning}")
    if 0 < recipe.train.max_steps < recipe.train.warmup_steps:
        print(
            f"warning: train.max_steps {recipe.train.max_steps} ends within train.warmup_steps"
            f" {recipe.train.warmup_steps}; the peak learning rate is never reached"
        )
    ending = "all is well"
    if world_size() % multiple:
        ending += f" for a start on a multiple of {multiple} ranks"
        print(f"training needs a multiple of {multiple} ranks, this dry run has {world_size()}")
    plan = training_data[0].plan(0)
    implementation = resolve_implementation(recipe.train.loss_implementation, layout.device)
    print(
        f"{plan.updates} updates an epoch of {int(plan.tokens.sum()):,} target tokens, {training_data[0].left_out}"
        f" sentences too long; {parameter_count(model) / 1e6:.1f}M parameters; {world_size()} rank(s) at"
        f" ZeRO-{ds_config.zero_stage(config)}; loss: {implementation}; {ending}"
    )
