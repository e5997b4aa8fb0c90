"""STDET on a toy: embedded weights are on their lines after every step of every optimizer."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import combined
from lictor.errors import CheckpointError, ConfigError
from lictor.layers.gdn import GDN
from lictor.optim.factory import OPTIMIZERS
from lictor.optim.soap_stack import Stack
from lictor.training.sma import SMA
from lictor.training.stdet.flat import flat
from lictor.training.stdet.hook import STDET, Choices, always_free
from lictor.training.stdet.selection import Schedule
from lictor.training.stdet.sensitivity import Sensitivity

SCHEDULE = Schedule(every=2, steps=60, warmup=9, window=3, share=0.2, cap=0.95)
FEW = {"modes": 3, "samples": 60}


@dataclass
class Toy:
    """A small network with a layer that stays free, trained to follow another one."""

    optimizer_name: str = "adam"
    schedule: Schedule = SCHEDULE
    choices: dict = field(default_factory=dict)
    averaged: dict | None = None
    weight_decay: float = 0.0
    dead: int = 0
    lr: float = 0.01

    def __post_init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1), GDN(6), nn.Conv2d(6, 3, 3, padding=1), nn.Tanh()
        )
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.dead:
            kernel = self.model[0].weight
            alive = torch.ones(kernel.numel())
            alive[: self.dead] = 0
            kernel.register_hook(lambda g: g * alive.view_as(g))
        self.optimizer = OPTIMIZERS[self.optimizer_name](
            self.model, self.lr, beta2=0.99, weight_decay=self.weight_decay
        )
        self.rows: list[dict] = []
        self.sma = None if self.averaged is None else SMA(self.model, **self.averaged)
        self.stdet = STDET(
            self.model,
            self.optimizer,
            self.schedule,
            Choices(**FEW | self.choices),
            sma=self.sma,
            record=self.rows.append,
        )
        if self.sma is not None:
            self.sma.after_feedback = self.stdet.project
        self.done = 0

    def loss(self, seed: int = 10**6) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(2, 2, 6, 6, generator=generator)
        wanted = torch.cat([x.roll(1, 2), x[:, :1] * x[:, 1:]], 1)
        return (self.model(x) - wanted.tanh()).square().mean()

    def gradients(self) -> None:
        self.model.zero_grad()
        self.loss(self.done).backward()
        self.stdet.before_step(self.done)

    def step(self, count: int = 1) -> "Toy":
        for _ in range(count):
            self.gradients()
            self.optimizer.step()
            self.stdet.after_step(self.done)
            if self.sma is not None:
                self.sma.after_step(self.done)
            self.done += 1
        return self

    def values(self) -> Tensor:
        return self.stdet.parameters.gather()

    def lines(self) -> Tensor:
        """Where the lines of embedded weights are; for others anything."""
        assert self.stdet.modes is not None
        embedding, stats = self.stdet.modes.embedding, self.stdet.modes.stats
        level = self.values()[stats.references][stats.mode.long()]
        return torch.addcmul(embedding.offset, embedding.slope, level)

    @property
    def inside(self) -> Tensor:
        assert self.stdet.modes is not None
        return self.stdet.modes.embedding.embedded


def first_event(schedule: Schedule = SCHEDULE) -> int:
    """How many steps there are up to the first event, the step of the event included."""
    return schedule.every * (schedule.events[0] + 1)


@pytest.mark.parametrize(
    ("name", "reference", "averaged"),
    combined(OPTIMIZERS, ["own", "chain"], [{"interval": 3, "feedback": True, "alpha": 0.5}, None]),
)
def test_after_every_step_the_embedded_are_exactly_on_their_lines(name, reference, averaged):
    """Momentum, weight decay, rotations and feedback all move weights without a gradient."""
    choices = {"reference": reference, "selection": "random", "dummy": "window"}
    toy = Toy(name, choices=choices, averaged=averaged, weight_decay=0.1)
    toy.step(first_event() - 1)
    assert toy.stdet.embedded == 0
    seen = []
    while toy.done < SCHEDULE.steps:
        toy.step()
        inside = toy.inside
        assert torch.equal(toy.values()[inside], toy.lines()[inside])
        seen.append(toy.stdet.embedded)
    assert seen == sorted(seen)
    assert seen[-1] == int(0.95 * len(toy.stdet.parameters))


def test_the_set_grows_as_scheduled_and_holds_no_reference_no_free_layer_no_dead_weight():
    toy = Toy(dead=5, choices={"selection": "random"})
    before = torch.zeros(len(toy.stdet.parameters), dtype=torch.bool)
    free = [id(p) for p in always_free(toy.model)]
    assert len(free) == 2
    assert not any(id(p) in free for p in toy.stdet.parameters.parameters)
    total = len(toy.stdet.parameters)
    for snapshot in range(SCHEDULE.snapshots):
        toy.step(SCHEDULE.every)
        if toy.stdet.modes is None:
            assert snapshot < SCHEDULE.warmup
            continue
        inside = toy.inside
        assert not (before & ~inside).any()
        assert not inside[toy.stdet.modes.stats.references].any()
        grown = int(inside.sum() - before.sum())
        assert grown == (
            SCHEDULE.target(total, int(before.sum())) if SCHEDULE.is_event(snapshot) else 0
        )
        before = inside.clone()
    kernel = toy.model[0].weight
    dead = (torch.arange(kernel.numel()) < 5).view_as(kernel)
    assert not before[: kernel.numel()][flat(dead.float()).bool()].any()
    sizes = [row["embedded"] for row in toy.rows if row["kind"] != "modes"]
    shares = [round(share * total) for share in SCHEDULE.shares()]
    assert sizes == pytest.approx(shares, abs=len(SCHEDULE.events))
    assert [r["trainable"] + r["embedded"] for r in toy.rows if "total" in r] == [
        toy.stdet.total
    ] * 30


@pytest.mark.parametrize("anchor", [True, False])
@pytest.mark.parametrize("averaged", [None, {"interval": 2, "alpha": 0.2}])
def test_anchored_embedding_leaves_the_loss_of_the_copy_that_it_is_anchored_in(averaged, anchor):
    toy = Toy(averaged=averaged, choices={"anchor": anchor, "dummy": "none"})
    toy.step(first_event() - 1)
    toy.gradients()
    toy.optimizer.step()

    def losses() -> tuple[float, float]:
        trained = toy.loss().item()
        if toy.sma is None:
            return trained, trained
        with toy.sma.averaged(toy.model):
            return trained, toy.loss().item()

    before = losses()
    toy.stdet.after_step(toy.done)
    assert toy.stdet.embedded > 0
    after = losses()
    change = [abs(b / a - 1) for a, b in zip(before, after, strict=True)]
    assert (change[1] < 1e-6) == anchor
    if averaged is not None:
        assert change[0] > 1e-6  # the trained weights do move: onto lines through their averages


def test_moments_of_embedded_weights_stay_zero_and_dummies_keep_theirs():
    toy = Toy(choices={"release_share": 1.0})
    toy.step(first_event() - 1)
    toy.gradients()
    toy.optimizer.step()

    def moments(key: str) -> Tensor:
        return toy.stdet.parameters.gather(
            lambda p: toy.optimizer.state[p][key] if p in toy.optimizer.state else p.detach() * 0
        )

    before, seconds = moments("exp_avg"), moments("exp_avg_sq")
    toy.stdet.after_step(toy.done)
    toy.done += 1
    assert toy.stdet.modes is not None
    dummies = toy.stdet.modes.dummies.clone()
    assert dummies.any()
    assert not (dummies & toy.inside).any()
    assert torch.equal(moments("exp_avg")[~toy.inside], before[~toy.inside])
    assert torch.equal(moments("exp_avg_sq")[dummies], seconds[dummies])
    placed = toy.values()
    for _ in range(4):
        assert not moments("exp_avg")[toy.inside].any()
        assert not moments("exp_avg_sq")[toy.inside].any()
        toy.step()
    moved = toy.values() != placed
    assert moved[dummies].all()


@pytest.mark.parametrize("dummy", ["none", "line", "window", "averaged"])
def test_what_becomes_of_dummies(dummy):
    toy = Toy(choices={"dummy": dummy})
    toy.step(first_event() - 1)
    toy.gradients()
    toy.optimizer.step()
    before = toy.values()
    toy.stdet.after_step(toy.done)
    toy.done += 1
    modes = toy.stdet.modes
    assert modes is not None

    def on_lines() -> Tensor:
        level = toy.values()[modes.stats.references][modes.stats.mode.long()]
        return toy.values() == torch.addcmul(modes.offset, modes.slope, level)

    assert modes.dummies.any() == (dummy != "none")
    if dummy in ("line", "window"):
        assert on_lines()[modes.dummies].all()
    else:
        assert torch.equal(toy.values()[~toy.inside], before[~toy.inside])
    toy.step()
    assert on_lines()[modes.dummies].all() == (dummy in ("window", "none"))
    trained = toy.values()
    with toy.stdet.evaluated():
        if dummy == "averaged":
            assert on_lines()[modes.dummies].all()
        else:
            assert torch.equal(toy.values(), trained)
    assert torch.equal(toy.values(), trained)
    first = modes.dummies.clone()
    toy.step(SCHEDULE.every * SCHEDULE.window)
    assert torch.equal(modes.dummies, first) == (dummy == "none")


def test_a_tensor_that_is_wholly_embedded_gets_no_gradient_and_no_state():
    names = {"own": False, "chain": True}
    for reference, trained in names.items():
        toy = Toy(choices={"reference": reference, "selection": "random", "seed": 0})
        while toy.done < SCHEDULE.steps:
            toy.step()
        assert toy.stdet.modes is not None
        whole = [
            p
            for number, p in enumerate(toy.stdet.parameters.parameters)
            if toy.stdet.modes.embedding.share_of(number) == 1
        ]
        assert whole
        for p in whole:
            assert p.requires_grad is trained
            assert (p.grad is not None) is trained
            assert p not in toy.optimizer.state


def test_soap_drops_the_state_of_tensors_that_are_wholly_embedded():
    toy = Toy("soap", choices={"selection": "random"}).step(SCHEDULE.steps)
    frozen = [p for p in toy.stdet.parameters.parameters if not p.requires_grad]
    assert frozen
    assert not any(p in toy.optimizer.state for p in frozen)
    held = [t for t in gc.get_objects() if type(t) is Stack]
    assert not any(p is q for stack in held for p in stack.params for q in frozen)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizers_memory_is_counted(name):
    toy = Toy(name).step(3)
    assert toy.rows[0]["optimizer_bytes"] >= 4 * toy.stdet.total


def test_optimizer_memory_falls_and_the_story_tells():
    toy = Toy(choices={"selection": "random"}).step(SCHEDULE.steps)
    sizes = [row["optimizer_bytes"] for row in toy.rows if "optimizer_bytes" in row]
    assert sizes[0] == max(sizes)
    assert sizes[-1] < 0.5 * sizes[0]
    kinds = [row["kind"] for row in toy.rows]
    assert kinds.count("modes") == 1
    assert kinds.count("event") == len(SCHEDULE.events)
    described = next(row for row in toy.rows if row["kind"] == "modes")
    assert sum(described["sizes"]) == len(toy.stdet.parameters)
    assert described["history_bytes"] == 4 * 10 * len(toy.stdet.parameters)
    last = toy.rows[-1]
    assert len(last["tracked"]) == len(last["slope"]) == len(described["tracked"])
    for k in range(len(last["tracked"])):
        if last["tracked_embedded"][k]:
            reference = last["tracked"][described["tracked_modes"][k]]
            line = last["slope"][k] * reference + last["offset"][k]
            assert last["tracked"][k] == pytest.approx(line, abs=1e-6)


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_kept_in_place_of_released_state_is_counted(whole):
    """A free entry of a released tensor has two moments, its value, and its place of 8 bytes."""
    choices = {"selection": "random", "release_share": 0.5 if whole else 1.0}
    toy = Toy(choices=choices).step(SCHEDULE.steps)
    assert toy.stdet.modes is not None
    expected = 0
    for p in toy.model.parameters():
        if not p.requires_grad:
            continue
        places = [id(q) for q in toy.stdet.parameters.parameters]
        number = places.index(id(p)) if id(p) in places else None
        share = 0.0 if number is None else toy.stdet.modes.embedding.share_of(number)
        free = p.numel() if number is None else len(toy.stdet.modes.embedding.free_places(number))
        released = share > choices["release_share"]
        expected += (8 + 4 + 8) * free + 4 if released else 8 * p.numel() + 4  # 4: Adam's step
    assert toy.rows[-1]["optimizer_bytes"] == expected


def test_modes_take_as_many_bytes_a_weight_as_the_page_on_training_says():
    toy = Toy(choices={"selection": "random", "dummy": "none"}).step(SCHEDULE.steps)
    assert toy.stdet.modes is not None
    state = toy.stdet.modes.state_dict()
    tensors = [*state.values(), *state["stats"].values(), *state["embedding"].values()]
    size = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))
    total = len(toy.stdet.parameters)
    assert 42 * total <= size <= 42 * total + 24 * FEW["modes"]
    page = (Path(__file__).parents[3] / "docs/how-to-train-fast.md").read_text()
    assert "42 bytes a weight" in page


def test_released_state_trains_like_dense_state():
    dense, released = (
        Toy(choices={"release_share": share, "selection": "random"}) for share in (1.0, 0.0)
    )
    for _ in range(SCHEDULE.steps):
        dense.step()
        released.step()
        assert (dense.values() - released.values()).abs().max() <= 1e-6
    assert torch.equal(dense.inside, released.inside)
    assert released.rows[-1]["optimizer_bytes"] < 0.7 * dense.rows[-1]["optimizer_bytes"]


def test_weights_that_do_not_follow_their_reference_stay_free():
    toy = Toy(choices={"least_correlation": 0.9}).step(SCHEDULE.steps)
    assert toy.stdet.modes is not None
    assert toy.stdet.embedded > 0
    assert toy.stdet.modes.correlation[toy.inside].abs().min() >= 0.9


def test_weights_that_never_move_do_not_make_their_mode_look_loose():
    many = Toy(dead=80).step(first_event())
    assert many.stdet.modes is not None
    still = many.stdet.modes.correlation == 0
    assert still.sum() == 80
    mode, rho = many.stdet.modes.stats.mode, many.stdet.modes.correlation.abs()
    for number, mean in enumerate(many.stdet.modes.mean_correlations(rho)):
        members = (mode == number) & ~still
        assert mean == pytest.approx(float(rho[members].mean()), abs=1e-6)


def poisoned(toy: Toy, steps: set[int], value: float = float("nan")) -> Toy:
    """Train as the loop does: a step whose gradient is not finite is skipped."""
    while toy.done < toy.schedule.steps:
        toy.model.zero_grad()
        toy.loss(toy.done).backward()
        if toy.done in steps:
            toy.model[0].weight.grad[0] = value  # pyright: ignore
        toy.stdet.before_step(toy.done)
        norm = nn.utils.clip_grad_norm_(toy.model.parameters(), 1.0)
        if norm.isfinite():
            toy.optimizer.step()
            toy.stdet.after_step(toy.done)
        toy.done += 1
    return toy


@pytest.mark.parametrize("reference", ["own", "chain"])
def test_skipped_steps_neither_poison_nor_lose_a_snapshot(reference):
    last_of_warmup = SCHEDULE.every * (SCHEDULE.warmup + 1) - 1
    event = first_event() - 1
    choices = {"reference": reference, "selection": "random"}
    for steps in ({3}, {last_of_warmup}, {event}, {event - 1}, {event + 1, event + 2, event + 3}):
        toy = poisoned(Toy(choices=choices), steps)
        assert toy.values().isfinite().all()
        assert torch.equal(toy.values()[toy.inside], toy.lines()[toy.inside])
        assert [row["kind"] for row in toy.rows].count("event") == len(SCHEDULE.events)
        assert toy.stdet.embedded == int(0.95 * len(toy.stdet.parameters))


def test_an_interval_without_any_good_step_only_delays_the_modes():
    steps = {4, 5, 6, 7}
    toy = poisoned(Toy(choices={"selection": "random"}), steps)
    found = next(row["step"] for row in toy.rows if row["kind"] == "modes")
    assert SCHEDULE.every * (SCHEDULE.warmup + 1) < found <= SCHEDULE.every * (SCHEDULE.warmup + 3)
    assert toy.stdet.embedded == int(0.95 * len(toy.stdet.parameters))


def test_a_skipped_event_is_made_up_for_even_if_every_step_is_a_snapshot(monkeypatch):
    """Whole intervals without a good step: what they were to embed, the next step embeds."""
    schedule = Schedule(every=1, steps=40, warmup=9, window=4, share=0.1, cap=0.95)
    counts = []
    score = Sensitivity.score

    def counting(self: Sensitivity, move: Tensor) -> Tensor:
        counts.append(self.steps)
        return score(self, move)

    monkeypatch.setattr(Sensitivity, "score", counting)
    first, second = schedule.events[:2]
    toy = poisoned(Toy(schedule=schedule), {first, second, second + 1})
    events = [row["step"] for row in toy.rows if row["kind"] == "event"]
    assert events == [first + 2, second + 3, *(e + 1 for e in schedule.events[2:])]
    assert counts == [1] * len(schedule.events)  # and by gradients, not by places


@pytest.mark.parametrize("kind", ["grad2", "gradabs", "snip", "delta_fisher"])
def test_sensitivities_are_those_of_the_window_before_the_event_and_unmasked(kind):
    toy = Toy(choices={"sensitivity": kind})
    toy.step(first_event() - SCHEDULE.every)
    assert toy.stdet.state_dict()["sensitivity"]["steps"] == 0
    toy.step()
    assert toy.stdet.state_dict()["sensitivity"]["steps"] == 1
    toy.step(SCHEDULE.every - 1)
    assert toy.stdet.state_dict()["sensitivity"]["steps"] == 0
    assert toy.stdet.embedded > 0


def resumed(make: Callable[[], Toy], stops: list[int], folder) -> Toy:
    """Train with a break at each of these steps: all that survives is what a file holds."""
    toy = make()
    for stop in stops:
        toy.step(stop - toy.done)
        states = [toy.model.state_dict(), toy.optimizer.state_dict(), toy.stdet.state_dict()]
        states += [] if toy.sma is None else [toy.sma.state_dict()]
        torch.save(states, folder / "state.pt")
        saved = torch.load(folder / "state.pt", weights_only=True)
        toy = make()
        toy.model.load_state_dict(saved[0])
        toy.optimizer.load_state_dict(saved[1])
        toy.stdet.load_state_dict(saved[2])
        if toy.sma is not None:
            toy.sma.load_state_dict(saved[3])
        toy.done = stop
    return toy.step(toy.schedule.steps - toy.done)


@pytest.mark.parametrize(
    ("reference", "name", "decay"), combined(["own", "chain"], OPTIMIZERS, [0.0, 0.1])
)
def test_a_run_broken_at_every_odd_place_is_the_whole_run(name, decay, reference, tmp_path):
    choices = {"reference": reference, "selection": "both", "dummy": "window", "release_share": 0.1}

    def make() -> Toy:
        return Toy(
            name, choices=choices, averaged={"interval": 3, "alpha": 0.1}, weight_decay=decay
        )

    event = first_event()
    whole = make().step(SCHEDULE.steps)
    broken = resumed(make, [1, 7, 20, event - 1, event, event + 1, 40, 44, 57], tmp_path)
    assert torch.equal(whole.values(), broken.values())
    assert torch.equal(whole.inside, broken.inside)
    assert whole.sma is not None
    assert broken.sma is not None
    for a, b in zip(
        whole.sma.state_dict()["phi"].values(), broken.sma.state_dict()["phi"].values(), strict=True
    ):
        assert torch.equal(a, b)


def test_another_models_state_or_none_at_all_is_an_error():
    toy = Toy().step(3)
    state = toy.stdet.state_dict()
    other = nn.Sequential(nn.Linear(20, 20))
    stranger = STDET(other, torch.optim.Adam(other.parameters()), SCHEDULE, Choices(**FEW))
    with pytest.raises(CheckpointError, match="stdet: the checkpoint is of another model"):
        stranger.load_state_dict(state)
    for nothing in ({}, {"mean": []}):
        with pytest.raises(CheckpointError, match="holds no state of STDET"):
            toy.stdet.load_state_dict(nothing)


def test_snapshots_at_other_steps_are_an_error():
    """An epoch of more pictures is longer: what was counted no longer fits."""
    state = Toy().step(3).stdet.state_dict()
    other = Toy(schedule=Schedule(every=3, steps=60, warmup=9, window=3))
    with pytest.raises(CheckpointError, match=r"every 2 steps, now it would be 3: .*pictures"):
        other.stdet.load_state_dict(state)


def test_a_model_with_fewer_weights_than_samples_is_an_error():
    with pytest.raises(ConfigError, match=r"stdet\.samples = 1000, but only 279 weights"):
        Toy(choices={"samples": 1000})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sensitivity": "x"}, r"stdet\.sensitivity = 'x' must be one of grad2, gradabs"),
        ({"selection": "x"}, r"stdet\.selection = 'x' must be one of both"),
        ({"dummy": "x"}, r"stdet\.dummy = 'x' must be one of none"),
        ({"reference": "x"}, r"stdet\.reference = 'x' must be one of own, chain"),
        ({"modes": 61}, r"stdet\.modes = 61 must be from 1 to stdet\.samples = 60"),
        ({"modes": 0}, r"stdet\.modes = 0 must be from 1"),
    ],
)
def test_choices_that_do_not_exist_are_errors(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Choices(**FEW | wrong)


def test_scores_are_of_the_lines_fitted_now_against_those_of_the_last_event():
    toy = Toy().step(first_event())
    modes = toy.stdet.modes
    assert modes is not None
    weights, moves = toy.values(), list[Tensor]()
    slope, offset = modes.stats.coefficients()
    assert not modes.scores(weights, torch.zeros_like, 0.0).drift.any()
    toy.step(SCHEDULE.every)
    later, shift = modes.stats.coefficients()
    scores = modes.scores(weights, lambda move: moves.append(move) or move, 0.0)
    assert torch.equal(scores.drift, torch.hypot(later - slope, shift - offset))
    assert scores.drift[~toy.inside].count_nonzero() > 100
    level = weights[modes.stats.references][modes.stats.mode.long()]
    assert torch.allclose(moves[0], later * level + shift - weights, atol=1e-6)
    assert not scores.candidates[toy.inside].any()
