"""What belongs together: finished blocks, saved runs and given samples are only used for what they were made for."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import krepes
from krepes import Auditor, BarlowTwins, Newton, SimCLR, VICReg
from krepes.cli import app
from krepes.errors import ConfigError, DataError, KrepesWarning, RunFolderError
from krepes.files import one_writer

X = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))


class Noise(nn.Module):
    """Its printed form says nothing of its strength."""

    def __init__(self, std: float):
        super().__init__()
        self.std = std

    def forward(self, batch, generator):
        return batch + self.std * torch.randn(batch.shape, generator=generator)


class Net(nn.Module):
    """Two networks of one printed form and the same weights."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.function = nn.Linear(6, 12), nn.Linear(12, 4), function

    def forward(self, x):
        return self.two(self.function(self.one(x)))


def fitted(network: nn.Module | None = None, objective=None, views=None, work=None, **settings) -> Auditor:
    settings = {"landmarks": 30, "newton": Newton(damping=0.1)} | settings
    auditor = Auditor((network or Net(torch.relu)).eval(), objective or BarlowTwins(), **settings)
    return auditor.fit(X, views or Noise(0.3), work=work, work_key="noise")


def test_blocks_of_another_forward_pass_are_not_used(tmp_path):
    fitted(Net(torch.relu), work=tmp_path)
    again = fitted(Net(torch.tanh), work=tmp_path)
    assert torch.equal(again.dA_, fitted(Net(torch.tanh)).dA_)


def test_blocks_of_other_views_are_not_used(tmp_path):
    fitted(views=Noise(0.1), work=tmp_path)
    assert torch.equal(fitted(views=Noise(1.0), work=tmp_path).dA_, fitted(views=Noise(1.0)).dA_)


def test_a_work_folder_in_use_is_refused(tmp_path):
    with one_writer(tmp_path), pytest.raises(RunFolderError, match="another process"):
        fitted(objective=SimCLR(batch_size=64), work=tmp_path)


def test_attributions_to_other_samples_are_refused(tmp_path):
    auditor = fitted()
    loaded = krepes.load(auditor.save(tmp_path / "run"), encoder=Net(torch.relu).eval())
    direction = [1.0, 0, 0, 0]
    for one in (auditor, loaded):
        with pytest.raises(DataError, match="not those that the auditor was fitted on"):
            one.attribute(X[:2], direction, source=X[:200], views=Noise(0.3))
        scores = one.attribute(X[:2], direction, source=X, views=Noise(0.3))
        torch.testing.assert_close(scores, auditor.attribute(X[:2], direction), rtol=1e-3, atol=1e-6)


def test_other_views_are_refused(tmp_path):
    auditor = fitted()
    loaded = krepes.load(auditor.save(tmp_path / "run"), encoder=Net(torch.relu).eval())
    with pytest.raises(DataError, match="these views are not those"):
        loaded.counterfactual(["3"], source=X, views=Noise(1.0))
    loaded.counterfactual(["3"], source=X, views=Noise(0.3), keep_landmarks=True)


def test_views_and_samples_that_do_not_repeat_are_refused():
    with pytest.raises(DataError, match="draw all its randomness from the generator"):
        fitted(views=lambda batch, generator: batch + torch.randn_like(batch))

    class Random(torch.utils.data.Dataset):
        def __len__(self):
            return 100

        def __getitem__(self, index):
            return X[index] + torch.randn(6)

    with pytest.raises(DataError, match="other samples when it is read again"):
        Auditor(Net(torch.relu).eval(), landmarks=10).fit(Random(), Noise(0.3))


def test_a_precision_that_rounds_nothing_changes_nothing():
    few = {"landmarks": list(range(60)), "newton": Newton(damping=0.1)}
    plain, tf32 = (fitted(engine=krepes.Engine(precision=p), **few) for p in ("float32", "tf32"))
    if not torch.cuda.is_available():
        assert tf32.fit_.nystrom.rank == plain.fit_.nystrom.rank
        torch.testing.assert_close(tf32.dA_, plain.dA_)


def test_unconverged_attributions_warn():
    auditor = fitted(newton=Newton(damping=1e-4, max_iter=3))
    with (
        pytest.warns(KrepesWarning, match="adjoint solves did not converge"),
        pytest.warns(KrepesWarning, match="step itself did not converge"),
    ):
        auditor.attribute(X[:2], [1.0, 0, 0, 0], at="step")
    with pytest.warns(KrepesWarning, match="adjoint solves did not converge"):
        auditor.attribute(X[:2], damping=1e-9)


def test_a_run_of_other_settings_is_not_overwritten(tmp_path):
    fitted().save(tmp_path / "run")
    with pytest.raises(RunFolderError, match="other objective"):
        fitted(objective=VICReg()).save(tmp_path / "run")
    with pytest.raises(RunFolderError, match="other landmarks"):
        fitted(landmarks=list(range(30))).save(tmp_path / "run")
    fitted().save(tmp_path / "run")


def test_loaded_auditors_know_their_errors(tmp_path):
    auditor = fitted(kernel=krepes.NTK("sketch", sketch=4))
    loaded = krepes.load(auditor.save(tmp_path / "run"), encoder=Net(torch.relu).eval())
    assert loaded.kernel_error_ == auditor.kernel_error_
    assert auditor.kernel_error_ is not None


def test_a_sketch_tells_its_error():
    """The spread of the directions' kernels is about what the exact trace says."""
    network = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 16)).eval()
    exact = fitted(network, kernel=krepes.NTK("trace", center=False, cosine=False)).fit_.rows
    found, told = [], []
    for seed in range(8):
        kernel = krepes.NTK("sketch", sketch=8, center=False, cosine=False, seed=seed)
        auditor = fitted(network, kernel=kernel, landmarks=[*range(60)])
        few = auditor.fit_.rows.landmarks
        reference = krepes.kernel.ntk.KernelRows(exact.settings, exact.gradients, few).K_mm
        found.append(float((auditor.fit_.rows.K_mm - reference).norm() / reference.norm()))
        assert auditor.kernel_error_ is not None
        told.append(auditor.kernel_error_.raw)
    assert 0.5 < sum(told) / sum(found) < 2


# ------------------------------------------------------------------ configurations


@pytest.fixture
def config(tmp_path):
    torch.manual_seed(0)
    save_file(krepes.encoders.MLP(3, (8,), 4).state_dict(), tmp_path / "w.safetensors")
    frame = pd.DataFrame(torch.randn(200, 3, generator=torch.Generator().manual_seed(1)).numpy(), columns=list("abc"))
    frame.to_csv(tmp_path / "t.csv", index=False)
    krepes.data.TableSchema.fit(frame).save(tmp_path / "schema.json")
    (tmp_path / "a.yaml").write_text(
        "encoder: {factory: 'krepes.encoders:MLP', args: {n_in: 3, hidden: [8], n_out: 4}, weights: w.safetensors}\n"
        "data: {table: t.csv, schema: schema.json}\nviews: {name: gaussian, std: 0.3}\n"
        "objective: {name: barlow_twins, weight: 5e-3}\nlandmarks: {m: 20}\nnewton: {max_iter: 400, tol: 1e-5}\n"
        "audit: {automatic_concepts: false}\ntrust: {refits: false}\n"
    )
    return tmp_path / "a.yaml"


def audit(config, *arguments):
    return CliRunner().invoke(app, ["audit", str(config), "-o", str(config.parent / "run"), *arguments])


def test_numbers_and_defaults_are_what_a_reader_takes_them_for(config):
    assert audit(config).exit_code == 0
    settings = json.loads((config.parent / "run" / "manifest.json").read_text())["settings"]
    assert settings["objective"]["weight"] == 5e-3
    assert settings["newton"]["damping"] == "auto"
    assert settings["newton"]["tol"] == 1e-5


def test_a_damaged_complete_run_is_made_again(config):
    folder = config.parent / "run"
    assert audit(config).exit_code == 0
    before = (folder / "influence.parquet").read_bytes()
    (folder / "influence.parquet").write_bytes(before[:-7])
    (folder / "report.html").unlink()
    result = audit(config)
    assert result.exit_code == 0
    assert "influence.parquet, report.html" in result.output
    assert "made again" in result.output
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "influence.parquet"), pd.read_parquet(__import__("io").BytesIO(before))
    )
    assert (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("report.explain=[nope]", "unknown samples: nope"),
        ("objective.weight=-1", "weight=-1; expected a number, at least 0"),
        ("objective.weight=small", "weight='small'"),
        ("views.rate=0.3", "views.rate is no setting of gaussian"),
        ("device=cuda:7", "cannot be used here"),
        ('title="a', "not valid YAML"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(config, override, message):
    result = audit(config, "--set", override)
    assert result.exit_code == 1
    assert message in result.output
    assert not (config.parent / "run" / "manifest.json").exists()


def test_a_run_folder_calls_no_function(config, tmp_path):
    assert audit(config).exit_code == 0
    path = config.parent / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    marker = tmp_path / "executed"
    manifest["encoder"] |= {"factory": "os:system", "args": {"command": f"touch {marker}"}}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="not called unseen"):
        krepes.load(config.parent / "run")
    assert not marker.exists()


def test_text_that_begins_like_a_number_stays_text(config):
    assert audit(config, "--set", "title=1e5 samples").exit_code == 0
    assert audit(config, "--set", "title=1e5 samples").exit_code == 0


def test_loaded_trust_is_that_of_the_run(config):
    assert audit(config).exit_code == 0
    folder = config.parent / "run"
    loaded = krepes.load(folder)
    assert loaded.trust_.as_dict() == json.loads((folder / "trust.json").read_text())
    (folder / "trust.json").write_text(json.dumps(loaded.trust_.as_dict() | {"verdict": "green?"}))
    with pytest.raises(krepes.errors.NotFittedError):
        _ = krepes.load(folder).trust_


def test_saving_loses_nobodys_files(tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(RunFolderError, match=r"no krepes run"):
        fitted().save(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(RunFolderError, match="not of a krepes run"):
        fitted().save(tmp_path)
    fitted().save(tmp_path / "run")
    with pytest.raises(RunFolderError, match="another fit"):
        fitted(views=Noise(0.6)).save(tmp_path / "run")


@pytest.mark.parametrize("name", ["model.safetensors", "dtype"])
def test_damaged_runs_say_so(tmp_path, name):
    folder = fitted().save(tmp_path / "run")
    if name == "dtype":
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"dtype": "float99"}))
    else:
        (folder / name).unlink()
    with pytest.raises(RunFolderError):
        krepes.load(folder, encoder=Net(torch.relu).eval())


def test_a_branch_that_concerns_few_samples_is_another_network(tmp_path):
    class Rare(Net):
        def __init__(self, factor: float):
            super().__init__(torch.relu)
            self.factor = factor

        def forward(self, x):
            return super().forward(x) * torch.where(x[:, :1] > 1.5, self.factor, 1.0)

    fitted(Rare(1.0), work=tmp_path)
    assert torch.equal(fitted(Rare(3.0), work=tmp_path).dA_, fitted(Rare(3.0)).dA_)


def test_inputs_far_from_zero_warn_and_cut():
    x = X + 300 * torch.eye(6)[0]
    auditor = Auditor(Net(torch.relu).eval(), landmarks=60, newton=Newton(damping=0.1))
    with pytest.warns(KrepesWarning, match="Standardise the encoder's inputs"):
        auditor.fit(x, Noise(0.3))
    exact = Auditor(Net(torch.relu).eval(), landmarks=60, newton=Newton(damping=0.1), dtype=torch.float64)
    assert auditor.fit_.nystrom.rank <= exact.fit(x, Noise(0.3)).fit_.nystrom.rank


@pytest.mark.parametrize(
    "settings",
    [{"landmarks": []}, {"landmarks": 2.5}, {"seed": 1.5}, {"seed": 2**70}, {"n_components": 2.0},
     {"rank_tolerance": -1}],
)  # fmt: skip
def test_arguments_of_the_wrong_kind_are_named(settings):
    with pytest.raises((ConfigError, krepes.errors.LandmarkError), match=next(iter(settings))):
        Auditor(Net(torch.relu).eval(), **settings)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: krepes.NTK(center="abc"), "center"),
        (lambda: krepes.NTK("sketch", sketch=2.5), "sketch"),
        (lambda: Newton(line_search="abc"), "line_search"),
        (lambda: Newton(max_iter=2.5), "max_iter"),
    ],
)
def test_settings_of_the_wrong_kind_are_named(make, name):
    with pytest.raises(ConfigError, match=name):
        make()


def test_zero_padded_categories_stay_what_they_are(tmp_path):
    from krepes.config import DataConfig, build_source

    frame = pd.DataFrame({"code": ["01", "02", "10"] * 30, "x": torch.randn(90).numpy()})
    schema = krepes.data.TableSchema.fit(frame)
    schema.save(tmp_path / "schema.json")
    frame.to_csv(tmp_path / "t.csv", index=False)
    config = DataConfig.model_validate({"table": "t.csv", "schema": "schema.json"})
    source = build_source(config, tmp_path)
    torch.testing.assert_close(source.batch(range(90)), schema.transform(frame), rtol=1e-5, atol=1e-5)
    numbers = krepes.data.TableSchema.fit(
        pd.DataFrame({"code": [1, 2, 10] * 30, "x": frame["x"]}), categorical=["code"]
    )
    assert torch.equal(numbers.transform(frame)[:, 0], schema.transform(frame)[:, 0])


def test_the_users_tensors_are_never_changed():
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 4)).eval()
    a, b = X.clone(), X + 0.1
    Auditor(network, landmarks=20, newton=Newton(damping=0.1)).fit(X, (a, b))
    assert torch.equal(a, X)


def test_encoders_that_are_no_real_maps_are_refused():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, dtype=torch.cfloat))

        def forward(self, x):
            return (torch.fft.rfft(x) * self.weight).abs()

    class Bad(Net):
        def forward(self, x):
            return torch.where(x[:, :1] > 1.5, torch.nan, super().forward(x))

    with pytest.raises(krepes.errors.EncoderError, match="is complex"):
        Auditor(Complex().eval())
    with pytest.raises(krepes.errors.KrepesError, match=r"NaN or infinity|not finite"):
        _ = fitted(Bad(torch.relu)).trust_
