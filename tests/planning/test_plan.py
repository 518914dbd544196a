"""Plans by hand: ZeRO's shares, the largest micro-batch, layouts that fit, the command and its report."""

import json
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.config import dump
from mnmt_ds.engine.build import open_corpus, open_training_data
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.parallel.run_layout import check_run_layout
from mnmt_ds.engine.recipe import load_recipe
from mnmt_ds.models.layer_sequence import layer_entries
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.parallel_layout import ParallelLayout
from mnmt_ds.planning.activations import BatchShape, forward_bytes, loss_bytes
from mnmt_ds.planning.layouts import LayoutChoice, candidate_layouts, fitting_layouts, recipe_layout
from mnmt_ds.planning.memory import FrozenTeachers, PlannedLayout, PlannedStudents, RankMemory, rank_memory, state_bytes
from mnmt_ds.planning.parameters import count_parameters
from mnmt_ds.planning.pipeline_stages import bubble, plan_stages, slowdown
from mnmt_ds.planning.plan import layer_costs, make_plan, stage_contents, stage_memories
from mnmt_ds.planning.survey import (
    frozen_teachers,
    largest_shapes,
    planned_students,
    shapes_of,
    student_passes,
    survey,
)
from tests.tiny import PAIRS, ROOT, recipe

N = 1_000_000


def test_states_are_rajbhandaris_shares_and_deepspeeds_buffers() -> None:
    """fp32 on two ranks: 4 N of weights, 4 N of gradients, 12 N of masters and moments, cut as the stage cuts them."""
    assert state_bytes(N, PlannedLayout(2, 0)) == (4 * N, 8 * N, 8 * N)
    assert state_bytes(N, PlannedLayout(2, 1)) == (4 * N, 12 * N, 6 * N)
    assert state_bytes(N, PlannedLayout(2, 2)) == (4 * N, 10 * N, 6 * N)
    assert state_bytes(N, PlannedLayout(2, 3)) == (6 * N, 18 * N, 6 * N)
    on_gpu = PlannedLayout(4, 2, precision="bf16", on_cpu=False)
    assert state_bytes(N, on_gpu) == (2 * N, N // 2 + 2 * 500_000_000 + 2 * N + N, 3 * N)


def test_half_precision_halves_activations_and_keeps_the_loss_wide() -> None:
    m, x = ModelSettings(preset="tiny", dropout=0.0), BatchShape(8, 16, 16)
    statistics = 8 * 16 * (m.encoder_layers * 2 + m.decoder_layers * 3 + 2) * 8
    attention = 4 * m.heads * 8 * 16 * (m.encoder_layers + 2 * m.decoder_layers)
    fixed = statistics + attention + 2 * 8 * 16 * 8
    assert forward_bytes(m, x, 4, True) - fixed == 2 * (forward_bytes(m, x, 2, True) - fixed)
    assert loss_bytes(m, x, 100, 1, 1, True) == 4 * (128 * 100 * 2 + (128 + 100) * 128)


def test_checkpointing_keeps_inputs_and_one_layer() -> None:
    x = BatchShape(8, 16, 16)
    plain, checkpointing = (
        forward_bytes(ModelSettings(preset="base", activation_checkpointing=on), x, 4, True) for on in (False, True)
    )
    assert checkpointing < plain / 4


def test_shapes_within_others_are_left_out() -> None:
    shapes = [BatchShape(2, 10, 10), BatchShape(2, 9, 10), BatchShape(1, 30, 5), BatchShape(2, 10, 10)]
    assert largest_shapes(shapes) == [
        BatchShape(2, 10, 10), BatchShape(1, 30, 5),
    ]  # fmt: skip


def test_the_survey_counts_what_training_will_see(tiny_corpus: Path, tmp_path: Path) -> None:
    run_recipe = recipe(tiny_corpus, tmp_path, method={"name": "lssd"}, train={"max_steps": 20})
    training_data = open_training_data(run_recipe, open_corpus(run_recipe)[0], ParallelLayout())[0]
    one, two = survey(run_recipe, training_data, 1), survey(run_recipe, training_data, 2)
    assert one == two and one.max_updates == 20 and one.sizes == PAIRS
    assert one.updates == training_data.plan(0).updates and one.tokens == int(training_data.plan(0).tokens.sum())
    assert one.passes["fr-en"] == pytest.approx(20 / one.updates)
    assert max(max(s.source_tokens, s.target_tokens) for s in one.shapes) <= run_recipe.train.max_tokens
    teachers = frozen_teachers(run_recipe, training_data, 1)
    assert teachers.versions == 3 and teachers.per_batch == 1 and teachers.dtype_bytes == 2


def test_teachers_are_two_on_the_device_and_shards_beside_it() -> None:
    m = ModelSettings(preset="tiny")
    shape, layout = [BatchShape(1, 4, 4)], PlannedLayout(2, 2, on_cpu=False)
    without = rank_memory(m, 1000, shape, layout, FrozenTeachers())
    taught = rank_memory(
        m, 1000, shape, layout, FrozenTeachers(versions=8, max_shard_bytes=2**30, cached_states=100, per_batch=1)
    )
    n = without.snapshot // 4
    assert taught.teachers == 2 * 4 * n + 2 * 2 * n and without.teachers == 0
    assert taught.host_teachers == 8 * 2 * n // 2 + 100
    assert taught.loss - without.loss == 4 * 4 * 1000
    assert taught.device - without.device == taught.teachers  # the gradients' buffers are the larger phase here
    assert taught.host == taught.host_teachers + taught.snapshot


def test_stages_hold_their_own_parameters_and_micro_batches() -> None:
    """Two encoder and two decoder layers, cut by hand: the tied matrix stands on both stages, a teacher's part on each,
    the loss on the last, the copy for a best checkpoint on the first; the first has two micro-batches under way."""
    m, v, x = ModelSettings(preset="tiny"), 1000, BatchShape(2, 8, 8)
    n = count_parameters(m, v)
    first, last = plan_stages(m, v, 2, [1, 1, 1, 0, 1, 1, 1, 0, 2], micro_batches=4)
    assert (first.describe(), last.describe()) == ("source embedding + 2 encoder", "2 decoder + loss")
    assert first.parameters == v * 128 + 2 * n.encoder_layer + 2 * 128
    assert last.parameters == v * 128 + 2 * n.decoder_layer + 2 * 128
    assert first.parameters + last.parameters == n.total + v * 128
    assert (first.in_flight, last.in_flight) == (2, 1) and plan_stages(m, v, 2, [1] * 9, 1)[0].in_flight == 1
    assert [stage.alternates for stage in plan_stages(m, v, 2, [1] * 9, 2)] == [False, True]
    assert (first.work, last.work) == (pytest.approx(4 / 8), pytest.approx(4 / 8))
    assert bubble(2, 4) == 5 / 4 and slowdown([first, last], 4) == pytest.approx(5 / 4)
    assert slowdown(plan_stages(m, v), 4) == 1.0
    layout, teachers = PlannedLayout(4, 1, stages=2), FrozenTeachers(versions=3, max_shard_bytes=2**30, per_batch=1)
    one, two = (rank_memory(m, v, [x], layout, teachers, stage=stage) for stage in (first, last))
    assert (one.weights, one.gradients, one.optimizer) == state_bytes(
        first.parameters, layout._replace(ranks=2, stages=1)
    )
    assert one.optimizer == 3 * 4 * first.parameters // 2 and one.host_teachers == 3 * 2 * first.parameters // 2
    assert two.teachers == 2 * 4 * last.parameters + 2 * 2 * last.parameters
    assert (one.loss, two.snapshot) == (0, 0) and two.loss > 0 and one.snapshot == 4 * n.total
    alone = rank_memory(m, v, [x], layout, teachers, stage=first._replace(in_flight=1))
    one_side = 2 * 8 * 128 * 4  # S + T leave, of student and teacher; what the encoder's norm gave has left with them
    each = forward_bytes(m, x, 4, True, kinds=first.kinds) + (4 - 1) * one_side
    assert one.activations - alone.activations == each
    steady = rank_memory(m, v, [x], layout, teachers, stage=first._replace(alternates=False))
    assert one.activations - steady.activations == each  # a forward pass behind a backward pass, on a CPU


def test_a_split_vocabulary_leaves_each_rank_its_own_words() -> None:
    """1,001 words over two ranks, 501 on the first; what a best checkpoint keeps is whole."""
    m, v, x = ModelSettings(preset="tiny"), 1001, BatchShape(2, 8, 8)
    layout, d, t = PlannedLayout(4, 1, vocabulary_shards=2), 128, 16
    assert (layout.data_parallel_size, layout.model_parallel_size, layout.rank_vocabulary(v)) == (2, 2, 501)
    plain = rank_memory(m, v, [x], layout, FrozenTeachers())
    n = count_parameters(m, 501).total
    assert n == count_parameters(m, v).total - 500 * d
    assert (plain.weights, plain.gradients, plain.optimizer) == state_bytes(n, PlannedLayout(2, 1))
    assert plain.snapshot == 4 * count_parameters(m, v).total
    assert plain.loss == 4 * (5 * t * 501 + (t + 501) * d)
    taught = rank_memory(m, v, [x], layout, FrozenTeachers(versions=3, max_shard_bytes=2**30, per_batch=1))
    assert taught.loss == 4 * ((6 + 1) * t * 501 + (t + 501) * d)
    assert taught.teachers == 2 * 4 * n + 2 * 2 * n and taught.host_teachers == 3 * 2 * n // 2
    assert rank_memory(m, v, [x], layout._replace(precision="bf16"), FrozenTeachers()).loss == plain.loss + 4 * 501 * d


def test_ranks_that_share_a_vocabulary_do_the_rest_alike() -> None:
    """Of nine places of cost 1 the source's, the target's and the head's are halved: 7.5 of 9 remain on each rank."""
    m = ModelSettings(preset="tiny")
    (alone,) = plan_stages(m, 501, 1, [1.0] * 9, 1, vocabulary_shards=2)
    assert alone.work == pytest.approx(7.5 / 9) and slowdown([alone], 4, 2) == pytest.approx(2 * 7.5 / 9)
    first, last = plan_stages(m, 501, 2, [1, 1, 1, 0, 1, 1, 1, 0, 2], 4, vocabulary_shards=2)
    assert (first.work, last.work) == (pytest.approx(3 / 8), pytest.approx(3 / 8))  # the target's is on the first
    assert slowdown([first, last], 4, 2) == pytest.approx(5 / 4 * 2 * 2 * 3 / 8)


def test_split_students_hold_one_each_and_what_they_receive() -> None:
    """Two students on two ranks each: one student's states over two ranks, the other's projection and states; a search
    copies weights, masters and moments aside."""
    m, v, x = ModelSettings(preset="tiny"), 1000, BatchShape(2, 8, 8)
    sent = PlannedStudents(2, peers=1, peer_states=100, cached_states=1000, weight_search=True)
    split, n = PlannedLayout(4, 1, teams=2), count_parameters(m, v).total
    mine = rank_memory(m, v, [x], split, FrozenTeachers(), students=sent)
    assert (mine.weights, mine.gradients, mine.optimizer) == state_bytes(n, PlannedLayout(2, 1))
    assert mine.teachers == 100 + 4 * v * 128 and mine.host_teachers == 1000
    assert mine.search_copy == 4 * n + 3 * 4 * n // 2
    assert mine.loss == 4 * (16 * v * 2 + (16 + v) * 128)
    assert (
        rank_memory(m, v, [x], split._replace(zero_stage=3), FrozenTeachers(), students=sent).search_copy
        == 4 * n // 2 + 3 * 4 * n // 2
    )
    both = rank_memory(m, v, [x], PlannedLayout(2, 1), FrozenTeachers(), students=sent)
    assert (both.weights, both.teachers, both.search_copy) == (2 * mine.weights, 100, mine.search_copy)
    assert both.gradients == mine.gradients  # one student's at a time
    at_once = rank_memory(m, v, [x], PlannedLayout(2, 1), FrozenTeachers(), students=sent._replace(simultaneous=True))
    assert at_once.gradients == 2 * mine.gradients
    alone = rank_memory(m, v, [x], split, FrozenTeachers(), students=sent._replace(weight_search=False))
    assert (
        mine.device - alone.device == mine.search_copy + mine.activations + mine.loss - mine.snapshot
    )  # the larger phases
    offload = PlannedLayout(4, 2, offload_optimizer=True, on_cpu=False, teams=2)
    away = rank_memory(m, v, [x], offload, FrozenTeachers(), students=sent)
    assert away.search_copy == 4 * n and away.host_optimizer == 3 * 4 * n // 2 + 8 * n // 2 + 3 * 4 * n // 2


def test_peer_states_cached_of_a_trial_set(tiny_corpus: Path, tmp_path: Path) -> None:
    """AUTO-PMD: the other one's states of each target position of the sample, over the ranks of a team; beside them
    those of an update's two micro-batches, of its own and of the other's."""

    def planned(rule: str, **trials: object) -> tuple[PlannedStudents, TrainingData]:
        method = {"name": "pareto", "rule": rule, "trials": {"rho": 0.2, **trials}}
        run_recipe = recipe(tiny_corpus, tmp_path, students=[{}, {}], placement="split", method=method)
        training_data = open_training_data(run_recipe, open_corpus(run_recipe)[0], ParallelLayout())[0]
        layout = recipe_layout(run_recipe, 4, on_cpu=True)
        assert (layout.teams, layout.data_parallel_size) == (2, 2)
        return planned_students(
            run_recipe, training_data, layout, survey(run_recipe, training_data, 2).shapes
        ), training_data

    students, training_data = planned("auto")
    sample = shapes_of(training_data, training_data.plan_sample(0.2, "trial"))
    assert students.cached_states == 32 * 4 * sum(s.sentences * s.target for s in sample) // 2 > 0
    assert (
        students.peer_states == 2 * 2 * 32 * 4 * max(s.target_tokens for s in survey_of(training_data))
        and students.weight_search
    )
    assert planned("auto", cache_gib=0)[0].cached_states == 0
    kept_students = planned("auto", after="keep")[0]
    assert kept_students.cached_states == students.cached_states and not kept_students.weight_search
    assert planned("bi")[0] == PlannedStudents(2, 1, students.peer_states)
    coming = planned("auto", data="coming")[0].cached_states
    updates = max(1, round(0.2 * training_data.plan(0).updates))
    assert coming == 32 * 4 * sum(s.target_tokens for s in survey_of(training_data)[: 4 * updates]) // 2


def test_eval_states_that_a_gate_along_stages_needs(tiny_corpus: Path, tmp_path: Path) -> None:
    """The last stage holds the states in eval mode of an update's micro-batches, where a gate asks for it at all."""

    def held(**method: Any) -> list[int]:
        run_recipe = recipe(tiny_corpus, tmp_path, pipeline={"stages": 2}, method={"name": "lssd", **method})
        corpus, layout = open_corpus(run_recipe)[0], recipe_layout(run_recipe, 2, on_cpu=True)
        stages = stage_contents(run_recipe, corpus, layout, lambda: [1.0] * len(layer_entries(run_recipe.model, 1)))
        return [memory.teachers for memory in stage_memories(run_recipe, corpus, layout, 0, stages)]

    run_recipe = recipe(tiny_corpus, tmp_path)
    largest = max(
        shape.target_tokens
        for shape in survey_of(open_training_data(run_recipe, open_corpus(run_recipe)[0], ParallelLayout())[0])
    )
    plain, quiet = held(variant="adaptive"), held(variant="adaptive", gate_student="eval")
    assert quiet[0] == plain[0] and quiet[1] - plain[1] == 4 * largest * 32 * 4
    assert held(gate_student="eval") == plain, "the whole variant has no gate"


def test_a_cut_of_another_depth_is_not_taken(tiny_corpus: Path, tmp_path: Path) -> None:
    """``pipeline.json`` beside a run: its seconds a place, where the model has as many places."""
    run_recipe = recipe(tiny_corpus, tmp_path, pipeline={"stages": 2})
    corpus, places = open_corpus(run_recipe)[0], len(layer_entries(run_recipe.model, 1))
    for count in (places, places + 2):
        (tmp_path / "pipeline.json").write_text(json.dumps({"seconds": [0.5] * count}))
        costs = layer_costs(run_recipe, corpus, on_cpu=True)()
        assert len(costs) == places and (list(costs) == [0.5] * places) == (count == places)


@pytest.mark.parametrize(("recipe_name", "passes"), [("row8_cd_id", 2), ("row6_cd", 1), ("row5_dae_id", 2)])
def test_passes_of_methods_inside_another_count(recipe_name: str, passes: int) -> None:
    run_recipe = load_recipe(ROOT / "launchers" / "recipes" / "cd_id" / f"{recipe_name}.yaml")
    assert student_passes(run_recipe) == passes


def test_teachers_of_methods_inside_another_count(tiny_corpus: Path, tmp_path: Path) -> None:
    """A shared teacher is one, whatever method is around it; others are one a pair."""

    def versions(method: dict[str, Any]) -> int:
        run_recipe = recipe(tiny_corpus, tmp_path, method=method)
        training_data = open_training_data(run_recipe, open_corpus(run_recipe)[0], ParallelLayout())[0]
        return frozen_teachers(run_recipe, training_data, 1).versions

    def around(method: dict[str, Any]) -> dict[str, Any]:
        return {"name": "intra_distillation", "passes": 2, "base": method}

    shared, by_pair = {"name": "lssd", "teacher": "overall"}, {"name": "lssd"}
    assert versions(shared) == versions(around(shared)) == 1
    assert versions(by_pair) == versions(around(by_pair)) == len(PAIRS)
    assert versions(around({"name": "translation"})) == 0


def survey_of(training_data: TrainingData) -> list[BatchShape]:
    """All micro-batches of the first epoch."""
    return shapes_of(training_data, training_data.plan(0))


@pytest.mark.parametrize(("name", "millions"), [("m8", 241.9), ("m15", 418.3)])
def test_paper_3s_recipes_have_its_models_parameters(name: str, millions: float) -> None:
    run_recipe = load_recipe(ROOT / "launchers" / "recipes" / "papers" / f"{name}.yaml")
    assert round(count_parameters(run_recipe.model, 32000).total / 1e6, 1) == millions


def test_stages_are_among_the_layouts_where_the_recipe_allows_them(tiny_corpus: Path, tmp_path: Path) -> None:
    """Four ranks: two or four stages, or as many sharing a vocabulary, or two of two, at ZeRO 0 and 1; none where they
    are refused, or where an update's micro-batches cannot be shared out."""

    def layouts(batches: int = 4, precision: str = "fp32", **sections: Any) -> list[tuple[int, int, int]]:
        train = {"batches_per_update": batches, "precision": precision}
        run_recipe = recipe(tiny_corpus, tmp_path, train=train, **sections)
        fits = fitting_layouts(
            run_recipe,
            recipe_layout(run_recipe, 4, on_cpu=True),
            1.0,
            lambda *layout: RankMemory(*[0] * 13, on_cpu=True),
        )
        cut = [c.layout._replace(ranks=0) for c in fits if c.layout.model_parallel_size > 1]
        return [(c.stages, c.vocabulary_shards, c.zero_stage) for c in cut]

    every = [(2, 1), (4, 1), (1, 2), (1, 4), (2, 2)]
    assert layouts() == [(p, v, zero) for p, v in every for zero in (0, 1)]
    assert layouts(precision="bf16") == [(p, v, 1) for p, v in every]
    assert layouts(batches=3) == [(p, v, zero) for p, v in ((4, 1), (1, 4), (2, 2)) for zero in (0, 1)]
    assert layouts(sampler={"name": "multidds"}) == []
    several = {"students": [{}, {}], "method": {"name": "pareto", "rule": "bi"}}
    assert layouts(**several) == [(2, 1, 0), (2, 1, 1), (4, 1, 0), (4, 1, 1)]
    assert layouts(**several, placement="split") == []


def test_stages_and_a_shared_vocabulary_may_fit_together_alone(tiny_corpus: Path, tmp_path: Path) -> None:
    """Layers and tied matrix of L parameters each on four ranks. A stage and its words: L / 2 + L / 2; four stages: a
    quarter of the layers beside the whole matrix; four shares of words: all layers and a quarter of the matrix."""
    run_recipe = recipe(tiny_corpus, tmp_path, train={"batches_per_update": 4})
    m = ModelSettings(preset="tiny", encoder_layers=4, decoder_layers=4, d_model=128, ffn=512)
    layers = count_parameters(m, 0).total
    v = layers // 128

    def estimate(layout: PlannedLayout, tokens: int, checkpointing: bool) -> RankMemory:
        row = plan_stages(
            m,
            layout.rank_vocabulary(v),
            layout.stages,
            [3, *[3] * 4, 0, 0, *[5] * 4, 0, 3],
            4,
            layout.vocabulary_shards,
        )
        largest = max(stage.parameters for stage in row)
        weights, gradients, optimizer = state_bytes(largest, layout._replace(stages=1, vocabulary_shards=1, ranks=1))
        return RankMemory(0, weights, gradients, 0, optimizer, *[0] * 8, on_cpu=True)

    layout = recipe_layout(run_recipe, 4, on_cpu=True)
    sizes = {
        (p, v): estimate(layout._replace(stages=p, vocabulary_shards=v), 1, False).weights / 4 / layers
        for p, v in ((1, 1), (4, 1), (1, 4), (2, 2))
    }
    assert sizes == pytest.approx({(1, 1): 2, (4, 1): 1.25, (1, 4): 1.25, (2, 2): 1}, abs=0.12)
    device_bytes = estimate(layout._replace(stages=2, vocabulary_shards=2, zero_stage=0), 1, False).device
    choices = {
        (c.layout.stages, c.layout.vocabulary_shards, c.layout.zero_stage)
        for c in fitting_layouts(run_recipe, layout, device_bytes, estimate)
    }
    assert choices == {(2, 2, 0)}


def test_offload_moves_the_optimizer_to_the_host() -> None:
    m, shape = ModelSettings(preset="tiny"), [BatchShape(1, 4, 4)]
    plain = rank_memory(m, 1000, shape, PlannedLayout(1, 2, on_cpu=False), FrozenTeachers())
    moved = rank_memory(m, 1000, shape, PlannedLayout(1, 2, True, on_cpu=False), FrozenTeachers())
    n = plain.snapshot // 4
    assert moved.optimizer == 0 and moved.host_optimizer == 12 * n + 8 * n
    assert plain.device - moved.device == 16 * n


def test_layouts_that_fit_come_cheapest_first(tiny_corpus: Path, tmp_path: Path) -> None:
    run_recipe = recipe(tiny_corpus, tmp_path)
    layout = recipe_layout(run_recipe, 4, on_cpu=False)
    assert (layout.ranks, layout.zero_stage, layout.offload_optimizer) == (4, 1, False)

    def estimate(layout: PlannedLayout, tokens: int, checkpointing: bool) -> RankMemory:
        size = 100 - 10 * layout.zero_stage - 30 * layout.offload_optimizer + tokens - 5 * checkpointing
        return RankMemory(size, *[0] * 12, on_cpu=False)

    choices = fitting_layouts(run_recipe, layout, 150.0, estimate)
    assert [(c.layout.zero_stage, c.layout.offload_optimizer, c.max_tokens) for c in choices[:3]] == [
        (0, False, 48), (1, False, 48), (2, False, 48),
    ]  # fmt: skip
    best: LayoutChoice = max(choices, key=lambda c: c.max_tokens)
    assert best.max_tokens == 96 and best.layout.zero_stage == 2 and best.layout.offload_optimizer
    assert not fitting_layouts(run_recipe, layout, 10.0, estimate)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_only_layouts_are_tried_that_training_takes(precision: str, tiny_corpus: Path, tmp_path: Path) -> None:
    run_recipe = recipe(tiny_corpus, tmp_path, train={"precision": precision})
    layouts = {layout for layout, *_ in candidate_layouts(run_recipe, recipe_layout(run_recipe, 4, on_cpu=False))}
    assert {layout.zero_stage for layout in layouts if layout.stages == 1} >= {1, 2, 3}
    assert any(layout.zero_stage == 0 for layout in layouts) == (precision != "fp16")
    for layout in layouts:
        pipeline = {"pipeline": {"stages": layout.stages}} if layout.stages > 1 else {}
        tensor = {"tensor": {"vocabulary": layout.vocabulary_shards}} if layout.vocabulary_shards > 1 else {}
        zero: dict[str, Any] = {"stage": layout.zero_stage}
        zero |= {"offload_optimizer": {"device": "cpu"}} if layout.offload_optimizer else {}
        laid_out = recipe(tiny_corpus, tmp_path, train={"precision": precision}, **pipeline, **tensor)
        check_run_layout(laid_out, {"zero_optimization": zero}, layout.ranks)


def test_the_command_reports(tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(dump(recipe(tiny_corpus, tmp_path / "run", method={"name": "lssd"})))
    assert main(["plan", str(path), "--devices", "2", "--memory", "80", "--gpu", "model.preset=base"]) == 0
    output = capfd.readouterr().out
    assert "2 rank(s), ZeRO-1, fp32, 96 padded tokens a micro-batch, 4 micro-batches an update" in output
    assert "teachers on the device" in output and "on the host: shards of teachers" in output
    assert "layouts that fit 2 device(s) of 74.5 GiB" in output and "passes at most" in output
    assert "--calibrate measures" in output
    assert main(["plan", str(path), "--gpu", "pipeline.stages=2", "pipeline.balance=parameters"]) == 0
    output = capfd.readouterr().out
    assert "2 rank(s), 2 pipeline stages, ZeRO-1" in output and "stage 1: " in output and "+ loss" in output
    assert "bubble (m + p - 1) / m = 1.25 at m = 4, p = 2" in output
    assert main(["plan", str(path), "--devices", "3", "pipeline.stages=2"]) == 2
    assert "3 devices cannot form 2 pipeline stages; give --devices a multiple of 2" in capfd.readouterr().err
    assert main(["plan", str(path), "--gpu", "tensor.vocabulary=2"]) == 0
    output = capfd.readouterr().out
    assert "2 rank(s), vocabulary over 2, ZeRO-1" in output and "vocabulary over 2 ranks: each does " in output
    assert main(["plan", str(path), "--gpu", "tensor.vocabulary=2", "pipeline.stages=2"]) == 0
    assert "4 rank(s), 2 pipeline stages, vocabulary over 2, ZeRO-1" in capfd.readouterr().out
    words = ["students=[{}, {}]", "placement=split", "method={name: pareto}", "--gpu"]
    assert main(["plan", str(path), "--devices", "4", *words]) == 0
    output = capfd.readouterr().out
    assert "2 students of " in output and "4 rank(s), each student on 2, ZeRO-1" in output
    assert "a search's copy of the training state" in output and "split students take steps in turn" in output
    assert main(["plan", str(path), "--devices", "3"]) == 2
    assert "batches_per_update: 4 cannot be shared by 3 ranks; use a multiple of 3" in capfd.readouterr().err
    assert main(["plan", str(path), "--devices", "3", *words]) == 2
    assert "3 devices cannot be shared by 2 students; give --devices a multiple of 2" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_frozen_or_adapted_model_is_on_disk_once(tiny_corpus: Path, tmp_path: Path) -> None:
    """Checkpoints, best models and teachers' shards hold what is trained; on 64 devices, too."""
    parts = {"freeze": {"encoder": True}, "lora": {"rank": 2, "targets": ["q_proj"]}}
    settings = recipe(tiny_corpus, tmp_path / "run", method={"name": "lssd"}, train={"batches_per_update": 64})
    adapted = settings.model_copy(update={"model": ModelSettings.model_validate({"preset": "tiny", **parts})})
    path, found = tmp_path / "r.yaml", []
    for each in (settings.model_copy(update={"model": ModelSettings(preset="tiny")}), adapted):
        path.write_text(dump(each))
        found.append(make_plan(load_recipe(path), path, [], 64, gpu=True, measure=False, calibrate=False))
    (plain, disk), parameters = (plan.disk for plan in found), found[0].parameters.total
    adapters = 2 * 2 * 2 * 2 * found[0].recipe.model.d_model  # 2 layers, self- and cross-attention, A and B of rank 2
    assert plain.frozen == 0 and plain.snapshots == plain.distinct * 4 * parameters
    assert disk.frozen == 4 * parameters and disk.distinct == plain.distinct
    assert disk.snapshots == disk.distinct * 4 * adapters
    assert disk.checkpoints * parameters == plain.checkpoints * adapters
    assert found[1].layout.data_parallel_size == 64


@pytest.mark.slow
def test_a_calibration_predicts_hours(tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(dump(recipe(tiny_corpus, tmp_path / "run")))
    assert main(["plan", str(path), "--no-probe", "--calibrate"]) == 0
    output = capfd.readouterr().out
    assert "target tokens/s measured on one rank" in output and "hours for" in output
    words = ["students=[{}, {}]", "placement=split", "method={name: pareto, rule: bi}"]
    assert main(["plan", str(path), "--no-probe", "--calibrate", *words]) == 0
    assert "target tokens/s measured on one rank" in capfd.readouterr().out
    assert not (tmp_path / "run").exists()
