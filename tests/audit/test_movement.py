"""Movement between audits: nothing where nothing changed, a rotation is none, and removed groups move their own."""

import numpy as np
import pandas as pd
import pytest
import torch

import krepes
from krepes import Auditor, BarlowTwins, Newton
from krepes.audit.movement import nearest, rotation, staying
from krepes.data import ArraySource
from krepes.encoders import MLP

N = 600


def noisy(batch, generator):
    return batch + 0.3 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


@pytest.fixture(scope="module")
def auditor() -> Auditor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 6, generator=generator, dtype=torch.float64)
    table = pd.DataFrame({"sign": np.where(x[:, 0].numpy() > 0, "plus", "minus"), "value": x[:, 1].numpy()})
    torch.manual_seed(0)
    fitted = Auditor(
        MLP(6, (16,), 5).eval(), BarlowTwins(0.05), landmarks=40, newton=Newton(damping=0.03), dtype=torch.float64
    )
    return fitted.fit(ArraySource(x, [f"s{i}" for i in range(N)], table), noisy)


def test_the_same_audit_does_not_move(auditor):
    concept = auditor.concept("sign == 'plus'", draws=19)
    found = krepes.movement(auditor, auditor, auditor.source_.batch(range(30)), concepts=[(concept, concept)],
                            columns=["sign"])  # fmt: skip
    assert found.samples["shift"].max() < 1e-12
    assert (found.samples["neighbours"] == 1).all()
    assert found.summary["figure"].tolist() == ["shift", "neighbours that stay", "concept concept", "gap sign"]
    difference = found.summary.set_index("figure").loc[["concept concept", "gap sign"], "difference"]
    assert difference.abs().max() < 1e-12


def test_a_rotation_is_no_movement():
    f = torch.randn(100, 4, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]

    class Audit:
        def __init__(self, A0):
            self.A0_ = A0

    turn = rotation(Audit(f), Audit(f @ Q), f, f @ Q)
    torch.testing.assert_close(f @ Q @ turn, f)
    assert staying(nearest(f, f), nearest(f @ Q, f @ Q)).mean() == 1


def test_removing_samples_moves_and_is_summarised(auditor):
    x = auditor.source_.batch(range(40))
    gone = [i for i in auditor.source_.ids[100:300] if i not in auditor.landmark_ids_]
    few, many = gone[:10], gone
    moved = [krepes.movement(auditor, auditor.counterfactual(g), x).summary for g in (few, many)]
    shifts = [m.set_index("figure").at["shift", "difference"] for m in moved]
    assert 0 < shifts[0] < shifts[1]
    row = moved[1].iloc[0]
    assert row["low"] < row["difference"] < row["high"]
    assert row["n"] == 40


def test_columns_and_concepts_are_compared(auditor):
    other = auditor.counterfactual("sign == 'plus' and value > 0.5", keep_landmarks=True)
    pair = (auditor.concept("value > 0", name="high", draws=19), other.concept("value > 0", name="high", draws=19))
    found = krepes.movement(auditor, other, auditor.source_.batch(range(50)), concepts=[pair], columns=["sign"])
    table = found.summary.set_index("figure")
    assert table.at["gap sign", "difference"] == pytest.approx(
        table.at["gap sign", "after"] - table.at["gap sign", "before"]
    )
    assert table.at["concept high", "low"] <= table.at["concept high", "difference"] <= table.at["concept high", "high"]
