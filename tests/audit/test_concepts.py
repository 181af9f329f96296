"""Concepts: a planted one is found and used, a random one is refused, and sets that are none say so."""

import numpy as np
import pandas as pd
import pytest
import torch

from krepes import Auditor, BarlowTwins, Newton
from krepes.data import ArraySource
from krepes.encoders import MLP
from krepes.errors import ConfigError, DataError

N = 600


def noisy(batch, generator):
    return batch + 0.2 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


@pytest.fixture(scope="module")
def auditor() -> Auditor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 6, generator=generator, dtype=torch.float64)
    coin = torch.rand(N, generator=generator).numpy() < 0.5
    table = pd.DataFrame(
        {"sign": np.where(x[:, 0].numpy() > 0, "plus", "minus"), "coin": coin, "value": x[:, 0].numpy()}
    )
    torch.manual_seed(0)
    fitted = Auditor(
        MLP(6, (16,), 5).eval(), BarlowTwins(0.05), landmarks=40, newton=Newton(damping=0.1), dtype=torch.float64
    )
    return fitted.fit(ArraySource(x, [f"s{i}" for i in range(N)], table), noisy)


def test_a_planted_concept_is_usable_and_points_to_its_samples(auditor):
    found = auditor.concept("sign == 'plus'", name="plus")
    assert found.usable, found.verdict
    assert found.accuracy > 0.7
    assert found.null.mean() == pytest.approx(0.5, abs=0.05)
    assert found.p == pytest.approx(1 / 51)
    assert found.direction.norm() == pytest.approx(1)
    where = found.coordinate(auditor.source_.batch(range(N)))
    plus = torch.as_tensor((auditor.source_.metadata()["sign"] == "plus").to_numpy())
    assert where[plus].mean() > where[~plus].mean()


def test_a_coin_is_no_concept(auditor):
    found = auditor.concept("coin", name="coin")
    assert not found.usable
    assert "random concepts separate as well" in found.verdict


def test_the_null_is_calibrated(auditor):
    """Random halves of the samples are called usable about as often as the level says."""
    generator = np.random.default_rng(0)
    p = [
        auditor.concept([f"s{i}" for i in chosen[:40]], [f"s{i}" for i in chosen[40:80]], draws=19).p
        for chosen in (generator.permutation(N) for _ in range(30))
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.2
    assert 0.3 < np.mean(p) < 0.7


def test_scores_are_the_definition(auditor):
    found = auditor.concept("sign == 'plus'")
    x = auditor.source_.batch(range(5))
    K, v = auditor.kernel(x), found.direction
    expected = torch.stack([K[:, i] * (auditor.dA_[i] @ v) for i in range(40)], 1)
    torch.testing.assert_close(found.influence(x), expected)
    step = K @ auditor.dA_ @ v
    torch.testing.assert_close(found.push(x), step / auditor.transform(x).norm(dim=1))
    torch.testing.assert_close(found.influence(x).sum(1), step)
    table = found.explain(x, top_k=3)
    assert list(table.columns) == ["sample", "rank", "landmark", "influence", "effect"]
    first = table.iloc[0]
    assert abs(first["influence"]) == pytest.approx(float(expected[0].abs().max()))
    assert (first["influence"] > 0) == (first["effect"] == "attract")
    score = found.score(auditor.source_.batch(range(200)))
    assert score.interval.low < float(found.push(auditor.source_.batch(range(200))).mean()) < score.interval.high
    assert score.null_low < score.null_high


def test_sets_may_be_samples(auditor):
    x = auditor.source_.batch(range(N))
    plus = x[:, 0] > 0
    by_samples = auditor.concept(x[plus], x[~plus])
    by_query = auditor.concept("sign == 'plus'", "sign == 'minus'")
    assert by_samples.direction @ by_query.direction > 0.95


@pytest.mark.parametrize(
    ("positive", "negative", "error", "message"),
    [
        ("sign == 'none'", None, ConfigError, "selects no sample"),
        ([], None, ConfigError, "is empty"),
        ("value == value", None, ConfigError, "takes every sample"),
        ("value > 0", "value > -1", ConfigError, "on both sides"),
        (["s1", "s2"], None, DataError, "2 positive samples; expected at least 10"),
        (["s1", "nobody"], None, ConfigError, "nobody"),
        ("colour == 'red'", None, ConfigError, "columns: sign, coin, value"),
    ],
)
def test_what_is_no_concept_is_named(auditor, positive, negative, error, message):
    with pytest.raises(error, match=message):
        auditor.concept(positive, negative)


def test_samples_on_both_sides(auditor):
    x = auditor.source_.batch(range(60))
    with pytest.raises(ConfigError, match="20 samples are on both sides"):
        auditor.concept(x[:40], x[20:])
    with pytest.raises(ConfigError, match="has no negative samples"):
        auditor.concept(x[:40])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_samples_that_a_query_or_ids_name_too_are_on_both_sides(auditor, dtype):
    x = auditor.source_.batch(range(N))
    plus_rows, minus_rows = x[x[:, 0] > 0].to(dtype), x[x[:, 0] <= 0].to(dtype)
    with pytest.raises(ConfigError, match="100 samples are on both sides of concept 'plus': their contents"):
        auditor.concept("sign == 'plus'", plus_rows[:100], "plus")
    with pytest.raises(ConfigError, match="20 samples are on both sides"):
        auditor.concept(x[:40].to(dtype), [f"s{i}" for i in range(20, 60)])
    found = auditor.concept("sign == 'plus'", minus_rows[:100].double())
    assert (found.n_positive, found.n_negative) == (len(plus_rows), 100)


@pytest.mark.parametrize("draws", [0, 5, 18, 20.5, True, None])
def test_too_few_random_concepts_are_refused(auditor, draws):
    """With 18 of them the least p is 1/19, and no concept could be usable."""
    with pytest.raises(ConfigError, match="at least 19"):
        auditor.concept("sign == 'plus'", draws=draws)


def test_the_least_number_of_random_concepts_can_be_usable(auditor):
    found = auditor.concept("sign == 'plus'", draws=19)
    assert found.p == pytest.approx(0.05)
    assert found.usable


def test_what_explain_cannot_do_is_named(auditor):
    found = auditor.concept("sign == 'plus'", draws=19)
    x = auditor.source_.batch(range(3))
    for ids in (["a", "b"], list("abcd"), []):
        with pytest.raises(DataError, match=f"{len(ids)} ids for 3 samples"):
            found.explain(x, ids=ids)
    for top_k in (0, -1, 1.5):
        with pytest.raises(ConfigError, match=f"top_k={top_k}"):
            found.explain(x, top_k=top_k)
    assert found.explain(x, 1, ["a", "b", "c"])["sample"].tolist() == ["a", "b", "c"]


@pytest.fixture
def folders(auditor, tmp_path):
    """plus/ as one stack, minus/ as one file per sample."""
    x = auditor.source_.batch(range(200))
    plus = x[:, 0] > 0
    (tmp_path / "plus").mkdir()
    (tmp_path / "minus").mkdir()
    np.save(tmp_path / "plus" / "all.npy", x[plus].numpy())
    for i, row in enumerate(x[~plus]):
        np.save(tmp_path / "minus" / f"{i}.npy", row.numpy())
    (tmp_path / "plus" / ".DS_Store").write_bytes(b"")
    return tmp_path


def test_a_folder_per_concept(auditor, folders):
    plus, minus = sorted(auditor.concepts_from(folders), key=lambda c: c.name, reverse=True)
    assert (plus.name, minus.name) == ("plus", "minus")
    assert plus.direction @ minus.direction < -0.5
    assert plus.n_positive + minus.n_positive == 200
    assert plus.n_negative <= N - 200  # the other audited samples
    (against,) = auditor.concepts_from(folders, negative="minus")
    x = auditor.source_.batch(range(200))
    torch.testing.assert_close(against.direction, auditor.concept(x[x[:, 0] > 0], x[x[:, 0] <= 0]).direction)


def test_images_need_the_encoders_preprocessing(auditor, folders):
    from PIL import Image

    Image.new("L", (6, 1), 128).save(folders / "plus" / "a.png")
    with pytest.raises(ConfigError, match="give transform"):
        auditor.concepts_from(folders)

    def row(image):
        return torch.tensor(np.asarray(image), dtype=torch.float64)[0] / 255

    assert {c.name for c in auditor.concepts_from(folders, transform=row)} == {"plus", "minus"}


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda p: np.save(p / "plus" / "b.npy", np.zeros((3, 5))), DataError, "b.npy holds shape"),
        (lambda p: np.save(p / "plus" / "b.npy", np.full(6, np.nan)), DataError, "not finite"),
        (lambda p: (p / "plus" / "b.npy").write_bytes(b"no array"), DataError, "cannot read"),
        (lambda p: (p / "empty").mkdir(), DataError, "empty is empty"),
    ],
)
def test_a_spoilt_concept_folder_is_named(auditor, folders, spoil, error, message):
    spoil(folders)
    with pytest.raises(error, match=message):
        auditor.concepts_from(folders)


def test_no_concept_folder(auditor, folders):
    with pytest.raises(ConfigError, match="there is no folder"):
        auditor.concepts_from(folders / "nowhere")
    with pytest.raises(ConfigError, match="holds no subfolder"):
        auditor.concepts_from(folders / "plus")
    with pytest.raises(ConfigError, match="is no subfolder"):
        auditor.concepts_from(folders, negative="none")
