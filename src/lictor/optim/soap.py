"""SOAP: Adam in the slowly rotating eigenbasis of Shampoo's preconditioner.

`SOAP` is an ordinary `torch.optim.Optimizer` for any model and any loop. The update rule is in
`soap_math`, the state of parameters that are updated together in `soap_stack`; here is the step
itself, and what surrounds it: settings, saved states, bad input.
"""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import torch
from torch import Tensor

from lictor.errors import CheckpointError, ConfigError
from lictor.optim.soap_graph import CapturedUpdate, Work, key_of, learn_factors, update
from lictor.optim.soap_math import Plan, make_plan, rotate
from lictor.optim.soap_stack import Stack, is_channels_last, plan_of, refresh, state_dtype
from lictor.runtime import Runtime

# On a CPU, tensors up to this size are stacked: their cost is the number of calls. Larger ones gain
# nothing there, while elsewhere the calls always count.
_MAX_STACKED_ON_CPU = 2**16
_SMALLEST_EPS = torch.finfo(torch.float32).tiny

_log = logging.getLogger(__name__)


def _product_settings() -> list[Any]:
    """Return what holds the precision of products for each backend; nothing before torch 2.9."""
    holders = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    return [holder for holder in holders if hasattr(holder, "fp32_precision")]


def _restore_product_setting(holder: Any, before: str) -> None:
    # What a backend has inherited reads like its own; where it may be inherited it stays so, and
    # follows a later change.
    holder.fp32_precision = "none"
    if holder.fp32_precision != before:
        holder.fp32_precision = before


@contextlib.contextmanager
def _full_precision(device_types: Iterable[str]) -> Iterator[None]:
    """Keep autocast and shortened products (TF32, bfloat16) away from factors and rotations."""
    with contextlib.ExitStack() as stack:
        for device_type in device_types:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        holders = _product_settings()
        for holder in holders:
            before = holder.fp32_precision
            if before not in ("none", "ieee"):
                stack.callback(_restore_product_setting, holder, before)
                holder.fp32_precision = "ieee"
        # Where each backend has its own, the common getter raises when they disagree.
        if not holders and (before := torch.get_float32_matmul_precision()) != "highest":
            stack.callback(torch.set_float32_matmul_precision, before)
            torch.set_float32_matmul_precision("highest")
        yield


def _in_range(value: Any, low: float, high: float = math.inf) -> bool:
    try:
        return low <= float(value) < high
    except (TypeError, ValueError):
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _check_settings(group: dict[str, Any]) -> None:
    """Raise `ConfigError` on a setting out of range."""
    betas, factor_beta = group["betas"], group["factor_beta"]
    two_betas = isinstance(betas, tuple | list) and len(betas) == 2
    checks = {
        "lr": (_in_range(group["lr"], 0), "at least 0"),
        "betas": (
            two_betas and all(_in_range(b, 0, 1) for b in betas),
            "two numbers from 0 to below 1",
        ),
        # Below, a direction without gradients would become 0 / 0 in float32.
        "eps": (_in_range(group["eps"], _SMALLEST_EPS), f"at least {_SMALLEST_EPS:.3g}"),
        "weight_decay": (_in_range(group["weight_decay"], 0), "at least 0"),
        "factor_beta": (factor_beta is None or _in_range(factor_beta, 0, 1), "from 0 to below 1"),
        "precondition_every": (_is_count(group["precondition_every"]), "an integer from 1"),
        "max_factor": (_is_count(group["max_factor"]), "an integer from 1"),
        "shapes": (isinstance(group["shapes"], str), "a name"),
    }
    for key, (valid, allowed) in checks.items():
        if not valid:
            raise ConfigError(f"SOAP: {key} = {group[key]!r} must be {allowed}")
    make_plan((), shapes=group["shapes"], max_factor=group["max_factor"])


def _check_saved(saved: dict[str, Any], p: Tensor, plan: Plan, name: str) -> None:
    """Raise `CheckpointError` when a saved state is not one of this parameter."""
    try:
        got = [tuple(saved[key].shape) for key in ("exp_avg", "exp_avg_sq")]
        got += [tuple(matrix.shape) for matrix in (*saved["factors"], *saved["bases"])]
        # -1: it never had a gradient.
        counted = isinstance(saved["step"], int) and saved["step"] >= -1
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"SOAP: the saved state of {name} is not SOAP's") from error
    sizes = [plan.factor_sizes[plan.ranks.index(k)] for k in range(len(plan.ranks))]
    wanted = [tuple(p.shape)] * 2 + [(size, size) for size in sizes] * 2
    if not counted:
        raise CheckpointError(
            f"SOAP: the saved state of {name} has step {saved['step']!r}, which is no count"
        )
    if got != wanted:
        raise CheckpointError(
            f"SOAP: the saved state of {name} has shapes {got}, not {wanted}: "
            "it belongs to another model or to other settings"
        )


class SOAP(torch.optim.Optimizer):
    """Adam in the eigenbasis of the Kronecker factors of the gradient's second moment.

    Args:
        params: parameters, named parameters or groups, as for any optimizer; floating point, of any
            shape. Vectors and scalars are trained by Adam.
        lr: step size; the root mean square of an update's entries is at most about `lr`.
        betas: memory of the gradient and of its square, in the rotated coordinates.
        eps: added to the root of the second moment; above 0.
        weight_decay: decoupled; weights shrink by `lr * weight_decay` at each step.
        factor_beta: memory of the factors; None means `betas[1]`.
        precondition_every: steps between refreshes of the bases.
        shapes: which axes get a factor: `split`, `spatial` or `matrix` (see `make_plan`).
        max_factor: largest side of a factor; a longer axis is not rotated.
        stagger: refresh each tensor at another step, so that no step is slow (not in the paper).

    The first gradient of a parameter only sets its basis: neither the parameter nor its moments
    move. Statistics are float32 (float64 for float64 parameters) whatever the gradients are. When
    the norm of any gradient, or its square, is not finite, nothing changes: the step is logged and
    counted in `skipped_steps`, which is no part of a saved state.

    Raises `ConfigError` on an argument out of range, on complex or sparse parameters and on sparse
    gradients.

    Source: Vyas et al., ICLR 2025 (arXiv:2409.11321), algorithm 3, for tensors as in the authors'
    code: factors follow the current gradient at every step, after the update; the bases follow the
    factors by a power iteration and QR.
    """

    # Tells loops that need not let it look at the gradients again.
    step_takes_finite = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        factor_beta: float | None = None,
        precondition_every: int = 10,
        shapes: str = "split",
        max_factor: int = 2048,
        stagger: bool = False,
    ):
        self.skipped_steps = 0
        self._runtime = Runtime()
        self._captured: CapturedUpdate | None = None
        self._last_key: tuple = ()
        self._stacks: dict[tuple[int, ...], Stack] = {}
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "factor_beta": factor_beta,
            "precondition_every": precondition_every,
            "shapes": shapes,
            "max_factor": max_factor,
            "stagger": stagger,
        }
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a pickled or copied optimizer; stacks are built anew."""
        super().__setstate__(state)
        self.skipped_steps = 0
        self._runtime = Runtime()
        self._captured: CapturedUpdate | None = None
        self._last_key: tuple = ()
        self._stacks = {}

    def share_work(self, runtime: Runtime) -> None:
        """Refresh bases together with the other processes of a run, each some of them.

        All must have the same parameters, gradients and settings.
        """
        self._runtime = runtime

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; raises `ConfigError` on a bad setting."""
        super().add_param_group(param_group)
        try:
            _check_settings(self.param_groups[-1])
            for p in self.param_groups[-1]["params"]:
                if not p.is_floating_point():
                    raise ConfigError(
                        f"SOAP: {self._name(p)} is {p.dtype}; only real floating point can be "
                        "trained (torch.view_as_real shows complex numbers as such)"
                    )
                if p.layout != torch.strided:
                    raise ConfigError(f"SOAP: {self._name(p)} is not dense")
        except ConfigError:
            self.param_groups.pop()
            raise

    def _name(self, p: Tensor) -> str:
        for g, group in enumerate(self.param_groups):
            for i, candidate in enumerate(group["params"]):
                if candidate is p:
                    name = group["param_names"][i] if "param_names" in group else ""
                    return f"{name or f'parameter {i} of group {g}'} {tuple(p.shape)}"
        raise ConfigError(
            f"SOAP: a tensor of shape {tuple(p.shape)} is not a parameter given to it"
        )

    @overload
    def step(self, closure: None = None, *, finite: bool | None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any], *, finite: bool | None = None) -> Any: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, finite: bool | None = None) -> Any:
        """Take one step; `closure` may recompute the loss, which is returned.

        `finite` is what the caller knows already of the norms of all gradients and their squares;
        if not given they are looked at, for which a device has to be waited for. Raises
        `ConfigError` on a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not (self._gradients_are_finite() if finite is None else finite):
            self.skipped_steps += 1
            return loss
        stacks = self._stacks_of_this_step()
        with _full_precision({stack.mean.device.type for _, stack, _ in stacks}):
            self._update([(group, stack, t) for group, stack, t in stacks if t >= 0])
            turning: list[tuple[Stack, int]] = []
            for number, (group, stack, t) in enumerate(stacks):
                if t < 0:
                    grads = [p.grad for p in stack.params if p.grad is not None]
                    learn_factors(stack, stack.gather(grads), group)
                offset = number if group["stagger"] else 0
                if t < 0 or (t + 1 + offset) % group["precondition_every"] == 0:
                    turning.append((stack, t))
            self._turn(turning)
        for _, stack, t in stacks:
            for p in stack.params:
                self.state[p]["step"] = t + 1
        return loss

    def _update(self, stacks: list[tuple[dict[str, Any], Stack, int]]) -> None:
        """Move the parameters of stacks by one step; `t` of each is how many they have made."""
        work: list[Work] = []
        for group, stack, t in stacks:
            lr, betas = float(group["lr"]), group["betas"]
            size = lr * math.sqrt(1 - betas[1] ** (t + 1)) / (1 - betas[0] ** (t + 1))
            decay = group["weight_decay"]
            work.append((group, stack, size, 1 - lr * decay if decay else None))
        # Eagerly first: a capture is worth its time only if one step is like the last one.
        key, last = key_of(work), self._last_key
        self._last_key = key
        if self._captured is not None and self._captured.key != key:
            self._captured = None
        if self._captured is None and key == last and CapturedUpdate.possible(work):
            self._captured = CapturedUpdate(work)
        if self._captured is not None:
            self._captured.replay(work)
            return
        for group, stack, size, shrink in work:
            grads = [p.grad for p in stack.params if p.grad is not None]
            update(stack, grads, group, size, shrink)

    def _turn(self, stacks: list[tuple[Stack, int]]) -> None:
        """Set or refresh the bases of stacks; of several processes each does its share."""
        runtime = self._runtime
        load = [0] * runtime.world_size
        owners: list[int] = []
        for stack, _ in stacks:  # the same decisions everywhere: nothing but shapes is looked at
            owners.append(load.index(min(load)))
            load[owners[-1]] += sum(len(b) * b.shape[-1] ** 3 for b in stack.bases)
        own = [pair for pair, rank in zip(stacks, owners, strict=True) if rank == runtime.rank]
        for stack, t in own:
            if t < 0:
                stack.begin()
        refresh([stack for stack, t in own if t >= 0])
        if runtime.world_size > 1:
            for (stack, _), owner in zip(stacks, owners, strict=True):
                changed = [*stack.bases, stack.mean, stack.mean_square]
                runtime.broadcast_(changed if stack.bases else [], owner)
                stack.join()

    def _gradients_are_finite(self) -> bool:
        """Look at the norms of all gradients at once; log which of them are not usable."""
        owners: list[Tensor] = []
        norms: list[Tensor] = []
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.grad is None:
                continue
            if p.grad.layout != torch.strided:
                raise ConfigError(f"SOAP: the gradient of {self._name(p)} is not dense")
            owners.append(p)
            norms.append(torch.linalg.vector_norm(p.grad, dtype=state_dtype(p)))
        if not norms:
            return True
        # The factors hold squares, so these must be finite as well, in each parameter's own type.
        widest = functools.reduce(torch.promote_types, (norm.dtype for norm in norms))
        squares = [norm.square().to(norms[0].device, widest) for norm in norms]
        finite = torch.stack(squares).isfinite()
        if finite.all():
            return True
        bad = [self._name(p) for p, good in zip(owners, finite.tolist(), strict=True) if not good]
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        _log.warning("step skipped: gradient not finite in %s%s", ", ".join(bad[:3]), more)
        return False

    def _stacks_of_this_step(self) -> list[tuple[dict[str, Any], Stack, int]]:
        """Return what has a gradient, stacked where shape, group and step counter agree."""
        members: dict[tuple, list[Tensor]] = {}
        for g, group in enumerate(self.param_groups):
            for i, p in enumerate(group["params"]):
                if p.grad is None or p.numel() == 0:
                    continue
                t = self.state[p].get("step", -1)
                alone = i if p.is_cpu and p.numel() > _MAX_STACKED_ON_CPU else -1
                key = (g, t, alone, p.shape, p.dtype, p.device, is_channels_last(p))
                members.setdefault(key, []).append(p)
        # Whoever stops training a parameter takes its state away; the memory is in the stack.
        self._stacks = {
            key: stack
            for key, stack in self._stacks.items()
            if all(p in self.state for p in stack.params)
        }
        groups = self.param_groups
        return [
            (groups[g], self._stack(params, groups[g]), t) for (g, t, *_), params in members.items()
        ]

    def _stack(self, params: list[Tensor], group: dict[str, Any]) -> Stack:
        """Return the stack of these parameters, kept from the last step if nothing has changed."""
        key = tuple(map(id, params))
        stack = self._stacks.get(key)
        if stack is not None and all(
            self.state[p].get("exp_avg") is row for p, row in zip(params, stack.rows, strict=True)
        ):
            return stack
        self._stacks = {k: s for k, s in self._stacks.items() if not set(k) & set(key)}
        states = [self.state[p] for p in params]
        stack = Stack.build(params, plan_of(params[0], group), states)
        for p, state, views in zip(params, states, stack.views(), strict=True):
            self.state[p] = {"step": state.get("step", -1), **views}
        stack.rows = [self.state[p]["exp_avg"] for p in params]
        self._stacks[key] = stack
        return stack

    @torch.no_grad()
    def precondition(self, p: Tensor, grad: Tensor) -> Tensor:
        """Return what a gradient becomes with momentum off and all statistics as they are.

        The map is linear: rotate, divide by the bias-corrected root of the second moment, rotate
        back. `grad` has the shape of the parameter `p`; the result is float32 (or float64) and
        nothing is changed. Raises `ConfigError` when `p` has no statistics yet.
        """
        group = next((g for g in self.param_groups if any(p is q for q in g["params"])), None)
        state = self.state.get(p, {})
        if group is None or state.get("step", -1) < 1:
            raise ConfigError(f"SOAP: {self._name(p)} has not been updated yet")
        stack = Stack.build([p], plan_of(p, group), [state])
        modes = stack.plan.modes
        with _full_precision({p.device.type}):
            rotated = rotate(stack.gather([grad]), stack.joint_bases, modes)
            rotated = rotated / (stack.mean_square.sqrt() + group["eps"])
            result = rotate(rotated, stack.joint_bases, modes, back=True)
        return stack.scatter(result * math.sqrt(1 - group["betas"][1] ** state["step"]))[0]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; statistics keep their precision whatever the parameters' is.

        Raises `CheckpointError` when it belongs to another model or another optimizer.
        """
        try:
            groups = [dict(group) for group in state_dict["param_groups"]]
            saved_states = dict(state_dict["state"])
            theirs = [len(group["params"]) for group in groups]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError("SOAP: this is no state of an optimizer") from error
        for number, group in enumerate(groups):
            # Before the states: a fresh optimizer has none to tell it by.
            missing = [key for key in self.defaults if key not in group]
            if missing:
                raise CheckpointError(
                    f"SOAP: the saved state is not SOAP's: group {number} lacks "
                    f"{', '.join(missing)}"
                )
            try:
                _check_settings(group)
            except ConfigError as error:
                raise CheckpointError(f"{error}, in group {number} of a saved state") from error
        own = [len(group["params"]) for group in self.param_groups]
        if own != theirs:
            raise CheckpointError(
                f"SOAP: the saved state is of groups with {theirs} parameters, not {own}"
            )
        restored: dict[Tensor, dict[str, Any]] = {}
        for group, saved_group in zip(self.param_groups, groups, strict=True):
            for p, key in zip(group["params"], saved_group["params"], strict=True):
                saved = saved_states.get(key)
                if saved:
                    plan = plan_of(p, saved_group)
                    _check_saved(saved, p, plan, self._name(p))
                    views = Stack.build([p], plan, [saved]).views()[0]
                    restored[p] = {"step": saved["step"], **views}
        super().load_state_dict(state_dict)
        self.state.update(restored)  # the base class has cast them to the parameters' type
        self._stacks = {}
