"""The conflict probe: what it measures is what it says, and training never notices it."""

import copy
import dataclasses
import json
import logging
import math

import pytest
import torch
from torch import nn

from conftest import combined, photo_tensor, tiny_model
from lictor.errors import CheckpointError, ConfigError
from lictor.layers.quantize.catalogue import mixed
from lictor.layers.quantize.noise import Noise
from lictor.models.zoo import MODELS
from lictor.optim.factory import OPTIMIZERS
from lictor.optim.precondition import precondition
from lictor.training.hooks import TrainHook
from lictor.training.loop import train_step
from lictor.training.loss import rate_distortion
from lictor.training.pictures import CONFLICT
from lictor.training.probe import ConflictProbe
from lictor.training.recipe import OptimConfig, RunConfig
from lictor.training.run import run

from test_checkpoint import identical  # isort: skip
from test_run import CONFIG, finish, weights  # isort: skip
from training_fixtures import Given, Poison  # isort: skip

# Muon makes the gradient orthogonal, which is not linear: the probe refuses it.
LINEAR = [name for name in OPTIMIZERS if name != "muon"]
SCORES = ("intra_raw", "intra_pre", "intra_h", "inter_raw", "inter_pre", "inter_upd")
LAGGED = ("inter_raw_lag", "inter_pre_lag")


class Run:
    """A model in training, with a probe or without, step by step."""

    def __init__(self, name="mbt2018-mean", optimizer="adam", *, model=None, every=0, lag=0):
        self.model = tiny_model(name) if model is None else model
        line = OPTIMIZERS[optimizer]
        settings = {"beta2": 0.95} | ({"precondition_every": 3} if optimizer == "soap" else {})
        self.optimizer = line(self.model, 1e-3, **settings)
        self.rows: list[dict] = []
        self.step = 0
        self.hooks: list[TrainHook] = []
        self.every, self.lag = every, lag
        if every:
            self.hooks = [self.new_probe()]

    def new_probe(self, optimizer=None) -> ConflictProbe:
        return ConflictProbe(
            self.model, optimizer or self.optimizer, photo_tensor(1, 64, 64, seed=9),
            surrogate=mixed(), lmbda=0.01, every=self.every or 1, lag=self.lag,
            record=self.rows.append,
        )  # fmt: skip

    def advance(self, steps: int, precision: str = "float32") -> "Run":
        for _ in range(steps):
            task = Given(self.model, seed=1, precision=precision)
            train_step(
                task, task.batch(self.step), step=self.step, optimizer=self.optimizer,
                hooks={str(i): hook for i, hook in enumerate(self.hooks)},
            )  # fmt: skip
            self.step += 1
        return self

    def everything(self) -> dict:
        """All that a probe could have touched."""
        return {
            "weights": self.model.state_dict(),
            "gradients": {
                n: p.grad for n, p in self.model.named_parameters() if p.grad is not None
            },
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "training": [m.training for m in self.model.modules()],
            "grad": torch.is_grad_enabled(),
        }


# --------------------------------------------------------------------- it does not disturb


@pytest.mark.parametrize(
    ("name", "optimizer", "precision"),
    [*combined(MODELS, LINEAR, ["float32"]), ("checkerboard", "soap", "bfloat16")],
)
def test_training_with_a_probe_is_training_without_it_bit_for_bit(name, optimizer, precision):
    torch.manual_seed(0)
    plain = Run(name, optimizer).advance(4, precision=precision).everything()
    torch.manual_seed(0)
    probed = Run(name, optimizer, every=1, lag=2).advance(4, precision=precision)
    assert len(probed.rows) == 2
    assert identical(probed.everything(), plain)


def noisy_model() -> nn.Module:
    """A model whose every forward pass moves buffers and draws from the global generator."""
    model = tiny_model("bmshj2018-factorized")
    model.g_a = nn.Sequential(model.g_a, nn.BatchNorm2d(8), nn.Dropout(0.2))
    return model


def test_buffers_and_global_random_numbers_stay_as_they_were():
    torch.manual_seed(5)
    plain = Run(model=noisy_model()).advance(4).everything()
    torch.manual_seed(5)
    probed = Run(model=noisy_model(), every=1).advance(4)
    assert probed.rows
    assert "g_a.1.running_mean" in plain["weights"]
    assert identical(probed.everything(), plain)


def test_a_model_in_evaluation_mode_stays_in_it():
    runner = Run(model=noisy_model().eval(), every=1).advance(3)
    assert not any(m.training for m in runner.model.modules())


# --------------------------------------------------------------------- what it measures


def gradients(model, weight_of_rate: float, weight_of_distortion: float) -> dict:
    """Gradients of the probe's pictures by an ordinary backward pass on a copy."""
    model = copy.deepcopy(model)
    model.zero_grad(set_to_none=True)
    x = photo_tensor(1, 64, 64, seed=9)
    out = model(x, surrogate=mixed(), noise=Noise())
    loss = rate_distortion(x, out, 0.01)
    weighted = 0.01 * 255**2 * loss.distortion
    (weight_of_rate * loss.bpp + weight_of_distortion * weighted).backward()
    return {n: p.grad for n, p in model.named_parameters() if n.startswith("g_a.")}


def cosine(first, second) -> float:
    u, v = (torch.cat([t.double().flatten() for t in vector]) for vector in (first, second))
    return float(u @ v / u.norm() / v.norm())


@pytest.mark.parametrize("optimizer", LINEAR)
def test_scores_are_those_of_a_plain_recomputation(optimizer):
    runner = Run(optimizer=optimizer, every=4)
    snapshots = {}
    for done in range(1, 5):
        runner.advance(1)
        snapshots[done] = copy.deepcopy((runner.model, runner.optimizer))
    (row,) = runner.rows

    def mapped(done: int, raw: dict) -> list:
        model, _ = snapshots[done]
        own = dict(model.named_parameters())
        # The optimizer's copy still points at the copied parameters: both were copied together.
        return [precondition(snapshots[done][1], own[n], g) for n, g in raw.items()]

    def moved(done: int) -> list:
        new, old = (dict(snapshots[d][0].named_parameters()) for d in (done, done - 1))
        return [new[n].detach() - old[n].detach() for n in row["layers"]]

    rate, distortion = gradients(snapshots[4][0], 1, 0), gradients(snapshots[4][0], 0, 1)
    total, before = gradients(snapshots[4][0], 1, 1), gradients(snapshots[3][0], 1, 1)
    assert list(row["layers"]) == list(rate)
    wanted = {
        "intra_raw": cosine(rate.values(), distortion.values()),
        "intra_pre": cosine(mapped(4, rate), mapped(4, distortion)),
        "inter_raw": cosine(before.values(), total.values()),
        "inter_pre": cosine(mapped(3, before), mapped(4, total)),
        "inter_upd": cosine(moved(3), moved(4)),
    }
    p_rate, p_distortion = mapped(4, rate), mapped(4, distortion)
    inner = [
        sum(float((a.double() * b.double()).sum()) for a, b in zip(u, v, strict=True))
        for u, v in (
            (rate.values(), p_distortion),
            (rate.values(), p_rate),
            (distortion.values(), p_distortion),
        )
    ]
    wanted["intra_h"] = inner[0] / math.sqrt(inner[1] * inner[2])
    assert {k: row[k] for k in wanted} == pytest.approx(wanted, abs=2e-5)
    name = "g_a.2.weight"
    assert row["layers"][name]["intra_raw"] == pytest.approx(
        cosine([rate[name]], [distortion[name]]), abs=2e-5
    )
    assert row["rate_norm"] == pytest.approx(
        float(torch.cat([g.flatten() for g in rate.values()]).norm()), rel=1e-4
    )


@pytest.mark.parametrize("name", MODELS)
def test_shared_parameters_are_those_of_the_analysis(name):
    runner = Run(name, every=3).advance(3)
    (row,) = runner.rows
    own = [n for n, _ in runner.model.named_parameters() if n.startswith("g_a.")]
    assert list(row["layers"]) == own
    for scores in (row, *row["layers"].values()):
        assert all(-1 <= scores[key] <= 1 for key in SCORES)


@pytest.mark.parametrize("make_model", [lambda: tiny_model("mbt2018-mean"), noisy_model])
def test_without_a_step_between_them_two_gradients_are_the_same(make_model):
    runner = Run(model=make_model(), every=3)
    sgd = torch.optim.SGD(runner.model.parameters(), lr=0.0, momentum=0.9)
    runner.hooks, runner.optimizer = [runner.new_probe(sgd)], sgd
    (row,) = runner.advance(3).rows
    assert row["inter_raw"] == row["inter_pre"] == 1  # the same noise and dropout every time
    assert row["inter_upd"] == 0  # nothing moved: no direction, and no NaN
    assert row["intra_raw"] == row["intra_pre"] == row["intra_h"]  # SGD's map is the identity


@pytest.mark.slow
def test_a_lag_compares_gradients_further_apart():
    near, far = (Run(every=6, lag=lag).advance(12).rows for lag in (0, 5))
    assert [row["step"] for row in far] == [6, 12]
    for a, b in zip(near, far, strict=True):
        assert a == {k: v for k, v in b.items() if k not in LAGGED} | {
            "layers": {
                n: {k: v for k, v in scores.items() if k not in LAGGED}
                for n, scores in b["layers"].items()
            }
        }
    runner = Run(every=6, lag=5)
    early: dict = {}
    for done in range(1, 7):
        runner.advance(1)
        early[done] = copy.deepcopy(runner.model)
    wanted = cosine(gradients(early[1], 1, 1).values(), gradients(early[6], 1, 1).values())
    assert runner.rows[0]["inter_raw_lag"] == pytest.approx(wanted, abs=2e-5)
    # A lag longer than the time between rows works once there are rows so far back.
    rows = Run(every=2, lag=4).advance(8).rows
    assert [("inter_raw_lag" in row) for row in rows] == [False, True, True]


def test_rows_come_every_so_many_steps_and_are_json():
    rows = Run("checkerboard", "soap", every=3).advance(9).rows
    assert [row["step"] for row in rows] == [3, 6, 9]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


@pytest.mark.slow
def test_before_there_are_statistics_or_three_steps_there_is_no_row():
    assert [r["step"] for r in Run(optimizer="adam", every=1).advance(4).rows] == [3, 4]
    # SOAP's first gradient only sets its bases: it has statistics after two steps.
    assert [r["step"] for r in Run(optimizer="soap", every=1).advance(4).rows] == [3, 4]
    assert [r["step"] for r in Run(optimizer="soap", every=2).advance(4).rows] == [4]


@pytest.mark.parametrize(("bad", "missing"), [(5, {6}), (4, {6}), (3, {6}), (2, set())])
def test_a_skipped_step_gives_no_row_rather_than_a_wrong_one(bad, missing):
    runner = Run(every=6)
    runner.hooks = [Poison(runner.model, (bad,)), *runner.hooks]
    rows = runner.advance(12).rows
    assert {6, 12} - {row["step"] for row in rows} == missing


def test_a_model_that_diverged_gives_null_and_not_nan():
    runner = Run(every=1).advance(3)
    with torch.no_grad():
        next(iter(runner.model.g_a.parameters())).fill_(1e30)
    probe = runner.hooks[0]
    probe.after_step(runner.step)
    row = runner.rows[-1]
    assert row["intra_raw"] is None
    json.dumps(row, allow_nan=False)


# --------------------------------------------------------------------- linear maps


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adams_map_is_its_update_without_momentum(kind, amsgrad):
    torch.manual_seed(3)
    p = nn.Parameter(torch.randn(4, 5, dtype=torch.float64))
    optimizer = kind([p], lr=0.01, betas=(0.0, 0.9), weight_decay=0.0, amsgrad=amsgrad)
    assert precondition(optimizer, p, torch.ones_like(p)) is None
    for _ in range(5):
        before, p.grad = p.detach().clone(), torch.randn_like(p)
        optimizer.step()
        mapped = precondition(optimizer, p, p.grad)
        assert mapped is not None
        torch.testing.assert_close(p.detach() - before, -0.01 * mapped, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", [*LINEAR, "sgd"])
def test_every_map_is_linear_and_leaves_all_as_it_was(optimizer):
    runner = Run(optimizer="adam" if optimizer == "sgd" else optimizer)
    if optimizer == "sgd":
        runner.optimizer = torch.optim.SGD(runner.model.parameters(), lr=1e-3, momentum=0.9)
    runner.advance(3)
    before = copy.deepcopy(runner.everything())
    for p in runner.model.parameters():
        u, v = torch.randn_like(p), torch.randn_like(p)
        maps = [precondition(runner.optimizer, p, t) for t in (u, v, u + 2 * v)]
        error = (maps[2] - maps[0] - 2 * maps[1]).norm()
        assert float(error) <= 1e-5 * float(maps[2].norm())
    after = runner.everything() | {"random": before["random"]}
    assert identical(after, before)


def test_an_optimizer_without_a_known_map_is_refused_at_once():
    runner = Run()
    other = torch.optim.RMSprop(runner.model.parameters(), lr=1e-3)
    with pytest.raises(ConfigError, match=r"RMSprop: no linear map .* is known"):
        runner.new_probe(other)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_a_recipe_with_muon_and_a_probe_is_refused_before_anything_is_read(tmp_path):
    config = with_probe(3)
    config = dataclasses.replace(config, optim=OptimConfig("muon"))
    with pytest.raises(ConfigError, match=r"Muon: no linear map .*train\.conflict_every=0"):
        finish(config, tmp_path / "no pictures", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Scaled(torch.optim.Optimizer):
    """An optimizer of somebody else: it has a linear map, and counts its steps in its own way."""

    def __init__(self, params):
        super().__init__(params, {"lr": 1e-3})
        self.steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.steps += 1
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad, alpha=1e-3)

    def precondition(self, p, grad):
        if self.steps < 3:
            raise ConfigError("no statistics yet")
        return 2 * grad


def test_a_foreign_optimizer_says_itself_when_it_has_statistics():
    runner = Run(every=1)
    runner.optimizer = Scaled(runner.model.parameters())
    runner.hooks = [runner.new_probe(runner.optimizer)]
    assert [row["step"] for row in runner.advance(5).rows] == [4, 5]
    p = next(iter(runner.model.parameters()))
    assert torch.equal(precondition(runner.optimizer, p, torch.ones_like(p)), 2 + 0 * p.detach())


@pytest.mark.parametrize(("every", "lag"), [(0, 0), (-3, 0), (3, -1)])
def test_a_probe_that_never_comes_is_refused(every, lag):
    runner = Run()
    with pytest.raises(ConfigError, match=f"every {every} steps with a lag of {lag}"):
        ConflictProbe(
            runner.model, runner.optimizer, photo_tensor(1, 64, 64), surrogate=mixed(), lmbda=0.01,
            every=every, lag=lag, record=runner.rows.append,
        )  # fmt: skip


def test_a_first_probe_without_finite_gradients_is_tried_again(caplog):
    runner = Run(every=1)
    probe = runner.hooks[0]
    healthy = probe._x
    probe._x = torch.full_like(healthy, math.nan)
    with caplog.at_level(logging.WARNING, "lictor"):
        runner.advance(1)
        assert probe.state_dict()["chosen"] is False
        probe._x = healthy
        runner.advance(3)
    assert [row["step"] for row in runner.rows] == [4]
    assert [r.message for r in caplog.records] == [
        "a gradient of the probe's pictures is not finite: no conflict is recorded"
    ]


def test_a_frozen_analysis_is_said_once_and_training_goes_on(caplog):
    runner = Run(every=1)
    runner.model.g_a.requires_grad_(False)
    with caplog.at_level(logging.WARNING, "lictor"):
        runner.advance(4)
    assert runner.rows == []
    assert [r.message for r in caplog.records] == [
        "no parameter gets a gradient from both rate and distortion: no conflict is recorded"
    ]


# --------------------------------------------------------------------- resuming


@pytest.mark.slow
def test_a_probe_goes_on_after_any_step_as_if_nothing_had_happened(tmp_path):
    name, optimizer, every, lag, steps = "bmshj2018-factorized", "soap", 3, 2, 6
    whole, path = Run(name, optimizer, every=every, lag=lag), tmp_path / "state.pt"
    saved = []
    for _ in range(steps - 1):
        whole.advance(1)
        parts = (whole.model, whole.optimizer, whole.hooks[0])
        torch.save([*(part.state_dict() for part in parts)], path)
        saved.append((whole.step, len(whole.rows), torch.load(path, weights_only=True)))
    whole.advance(1)
    assert [row["step"] for row in whole.rows] == [3, 6]
    for step, num_rows, (model, built, probe) in saved:
        again = Run(name, optimizer, every=every, lag=lag)
        again.model.load_state_dict(model)
        again.optimizer.load_state_dict(built)
        again.hooks[0].load_state_dict(probe)
        again.step = step
        assert again.advance(steps - step).rows == whole.rows[num_rows:]


def test_between_rows_a_probe_keeps_nothing_large():
    state = Run(every=4).advance(4).hooks[0].state_dict()
    assert state["weights"] == state["totals"] == {}
    state = Run(every=4).advance(3).hooks[0].state_dict()
    assert sorted(state["weights"]) == [2, 3]
    assert sorted(state["totals"]) == [3]


# --------------------------------------------------------------------- run folders


def with_probe(every: int, lag: int = 0) -> RunConfig:
    train = dataclasses.replace(CONFIG.train, conflict_every=every, conflict_lag=lag)
    return dataclasses.replace(CONFIG, train=train)


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / CONFLICT).read_text().splitlines()]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    from PIL import Image

    from conftest import photo

    folder = tmp_path_factory.mktemp("pictures")
    for i in range(6):
        Image.fromarray(photo(70, 80, seed=i)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pictures):
    out = tmp_path_factory.mktemp("runs") / "whole"
    finish(with_probe(3, 2), pictures, out)
    return out


@pytest.mark.slow
def test_a_recipe_turns_the_probe_on_and_the_weights_do_not_notice(whole, pictures, tmp_path):
    assert [row["step"] for row in rows_of(whole)] == [3, 6, 9]
    finish(CONFIG, pictures, tmp_path / "plain")
    assert not (tmp_path / "plain" / CONFLICT).exists()
    assert identical(weights(whole), weights(tmp_path / "plain"))


@pytest.mark.parametrize("killed_at", [5, 7, 8])
def test_a_killed_run_resumes_to_the_same_rows(whole, pictures, tmp_path, killed_at):
    out = tmp_path / "killed"
    reports = run(with_probe(3, 2), pictures, out)
    for report in reports:
        if getattr(report, "bpp", None) is not None and report.step == killed_at:
            break
    reports.close()
    with (out / CONFLICT).open("a") as log:
        log.write('{"kind": "conflict", "step": 9, "intra')  # cut short when it was killed
    finish(with_probe(3, 2), pictures, out, resume=True)
    assert rows_of(out) == rows_of(whole)
    assert identical(weights(out), weights(whole))


@pytest.mark.parametrize(("first", "then", "steps"), [(0, 3, [9]), (3, 0, [3]), (3, 4, [3, 8])])
def test_the_probe_may_come_go_and_change_when_a_run_is_resumed(
    pictures, tmp_path, whole, first, then, steps
):
    out = tmp_path / "run"
    calls = iter(range(100))
    finish(with_probe(first), pictures, out, should_stop=lambda: next(calls) == 4)
    finish(with_probe(then), pictures, out, resume=True)
    known = rows_of(out) if (out / CONFLICT).exists() else []
    assert [row["step"] for row in known] == steps
    assert identical(weights(out), weights(whole))


def test_a_state_of_another_model_does_not_fit():
    state = Run("bmshj2018-factorized", every=2).advance(3).hooks[0].state_dict()
    with pytest.raises(KeyError):
        Run("checkerboard", every=2).hooks[0].load_state_dict(state)


def test_a_checkpoint_whose_probe_does_not_fit_is_an_error(whole, pictures, tmp_path):
    import shutil

    copied = tmp_path / "copied"
    shutil.copytree(whole, copied)
    content = torch.load(copied / "checkpoint.pt", weights_only=True)
    content["hooks"]["conflict"]["names"][0] = "no.such.weight"
    torch.save(content, copied / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"does not fit this run.*no\.such\.weight"):
        finish(with_probe(3, 2), pictures, copied, resume=True)
