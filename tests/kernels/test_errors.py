"""Arguments that do not fit end in one clear line, whatever the implementation."""

from typing import Any

import pytest
import torch

from mnmt_ds.errors import UserError
from mnmt_ds.kernels.ce_with_teacher import Gate, Teacher, ce_with_teacher
from mnmt_ds.kernels.implementations import resolve_implementation
from tests.kernels.cases import HAS_GPU

NAN = float("nan")


def _good() -> dict[str, Any]:
    return {
        "hidden_BTD": torch.zeros(2, 3, 4),
        "projection_VD": torch.zeros(9, 4),
        "target_BT": torch.full((2, 3), 5),
        "teachers": [Teacher(torch.zeros(2, 3, 5), torch.zeros(9, 5), 1.0)],
    }


def _teacher(**changes: Any) -> dict[str, Any]:
    return {"teachers": [_good()["teachers"][0]._replace(**changes)]}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"hidden_BTD": torch.zeros(2, 3, 5)}, "hidden states are float32"),
    ({"hidden_BTD": torch.zeros(2, 4, 4)}, "hidden states are float32"),
    ({"passes": 2}, r"expected floating \(4, 3, 4\)"),
    ({"passes": 0}, "0 passes"),
    ({"target_BT": torch.full((2, 3), 9)}, "target 9 is outside the vocabulary of 9"),
    ({"target_BT": torch.full((2, 3), -100)}, "target -100 is outside"),
    ({"target_BT": torch.zeros(6, dtype=torch.long)}, "targets are int64"),
    ({"target_BT": torch.zeros(2, 3)}, "targets are float32"),
    ({"projection_VD": torch.zeros(9)}, "the projection is"),
    ({"gold_weight": torch.tensor([1.0, NAN])}, "gold_weight holds NaN"),
    ({"gold_weight": NAN}, "gold_weight holds NaN"),
    ({"gold_weight": torch.ones(3)}, "gold_weight is float32"),
    ({"smoothing": 1.5}, "smoothing is 1.5"),
    ({"divergence_weight": NAN}, "divergence_weight is NaN"),
    (_teacher(projection_VE=torch.zeros(8, 5)), "share one vocabulary"),
    (_teacher(hidden_BTE=torch.zeros(2, 3, 4)), "teacher 0's hidden states"),
    (_teacher(weight=torch.full((2, 3), NAN)), "teacher 0's weight holds NaN"),
    (_teacher(temperature=0.0), "temperature 0.0"),
    (_teacher(gate=Gate("maybe")), "gate maybe/sentence"),
    (_teacher(vocabulary_V=torch.zeros(9, dtype=torch.bool)), "allows no word"),
    (_teacher(vocabulary_V=torch.ones(8, dtype=torch.bool)), "vocabulary mask is"),
    ({"implementation": "fast"}, "unknown implementation 'fast'"),
]


@pytest.mark.parametrize("implementation", ["reference", "chunked", "auto"])
def test_one_clear_line(implementation: str) -> None:
    ce_with_teacher(**_good(), implementation=implementation)
    for change, message in BAD:
        with pytest.raises(UserError, match=message) as caught:
            ce_with_teacher(**{**_good(), "implementation": implementation, **change})
        assert "\n" not in str(caught.value)


def test_cuda_by_name_without_a_gpu() -> None:
    if HAS_GPU:
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="cannot run on cpu"):
        resolve_implementation("cuda", torch.device("cpu"))
