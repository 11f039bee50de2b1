"""What a block is when branches of it are gone: a class of its own, with a forward pass in words.

The class derives from the block's, so all that timm does with a block goes on. It is made from a
:class:`Remainder`, plain data, and so it can be made again in another process: a whole model can be
pickled. Its forward pass is Python source like any other, so TorchScript, which reads sources,
compiles it: ``x = x + self.drop_path2(self.mlp(self.norm2(x)))``.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Via:
    """A module that the block calls through a method of its own (windows cut out before)."""

    method: str
    module: str


Step = str | Via | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Chain:
    """One branch: ``x = base(x) + steps(x)``.

    Attributes:
        steps: names of modules in calling order, or of parameters that scale; methods; functions.
        base: the module that the skip connection passes; '' where it is the input itself.
        before: a module that the stream passes before the branch begins; '' where there is none.
        calls: functions that the block calls for this branch alone, as ':roll'.
        methods: of the block, about this branch alone; they do nothing once it is gone.
    """

    steps: tuple[Step, ...]
    base: str = ""
    before: str = ""
    calls: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The modules and parameters."""
        named = [s.module if isinstance(s, Via) else s for s in self.steps]
        return tuple(s for s in named if isinstance(s, str))


@dataclass(frozen=True)
class Remainder:
    """What is left of a block.

    Attributes:
        cls: the block's class.
        chains: the branches that are left; those that are gone but for what the stream passes
            have no steps.
        scales: names that are parameters, not modules.
        takes_args: modules that take the block's further arguments.
        after: a module behind the last addition; '' where there is none.
        told: modules that are gone, but that timm tells of another input size.
        idle: methods that have nothing to do any more.
    """

    cls: type[nn.Module]
    chains: tuple[Chain, ...]
    scales: tuple[str, ...]
    takes_args: tuple[str, ...]
    after: str
    told: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()


class _Gone:
    """Stands where an attention was, for what timm tells it of another input size."""

    rel_pos = None

    def set_window_size(self, window_size: object) -> None:
        """Nothing is left to be resized."""


def remainder_of(block: nn.Module) -> Remainder | None:
    """What a block was cut to; None where all its branches are there."""
    return getattr(type(block), "remainder", None)


def become(block: nn.Module, left: Remainder) -> nn.Module:
    """Let a block run what is left of it, in place; returns it."""
    block.__class__ = remaining_class(left)
    return block


@functools.cache
def remaining_class(left: Remainder) -> type[nn.Module]:
    """The class of a block of which this is left."""
    name = f"Cut{left.cls.__name__}"
    body: dict[str, Any] = {"remainder": left, "forward": _forward(left), "__reduce__": _reduce}
    body |= {gone: _Gone() for gone in left.told} | dict.fromkeys(left.idle, _do_nothing)
    body |= {"__module__": __name__, "__doc__": f"A {left.cls.__name__} without some branches."}
    return type(name, (left.cls,), body)


def _do_nothing(block: nn.Module, *args: object, **kwargs: object) -> None:
    pass


def _reduce(block: Any) -> tuple[Any, ...]:
    return revive, (block.remainder,), vars(block)


def revive(left: Remainder) -> nn.Module:
    """An empty block of that class, whose state pickle sets."""
    cls = remaining_class(left)
    block: nn.Module = cls.__new__(cls)
    return block


def _forward(left: Remainder) -> Callable[..., Tensor]:
    """The forward pass, with the arguments of the block's own."""
    own = ast.parse(textwrap.dedent(inspect.getsource(left.cls.forward))).body[0]
    assert isinstance(own, ast.FunctionDef)
    further = [argument.arg for argument in own.args.args[2:]]  # behind self and x
    functions: dict[str, object] = {}
    body = "\n    ".join(_lines(left, further, functions))
    source = f"def forward({ast.unparse(own.args)}):\n    {body}\n"
    file = f"<{__name__} {left.cls.__module__}.{left.cls.__qualname__} {hash(left)}>"
    # TorchScript and tracebacks look sources up there.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space = {**vars(sys.modules[left.cls.__module__]), **functions}
    exec(compile(source, file, "exec", dont_inherit=True), space)
    forward: Callable[..., Tensor] = space["forward"]
    return forward


def _lines(left: Remainder, further: list[str], functions: dict[str, object]) -> list[str]:
    """The statements of the forward pass; adds the functions that they call to ``functions``."""
    lines = []
    for chain in left.chains:
        if chain.before:
            lines.append(f"x = self.{chain.before}(x)")
        lines += ["y = x"] if chain.steps else []
        for step in chain.steps:
            name = step.module if isinstance(step, Via) else step
            given = ", ".join(["y", *further] if name in left.takes_args else ["y"])
            if isinstance(step, Via):
                lines.append(f"y = self.{step.method}({given})")
            elif not isinstance(step, str):
                functions[f"function{len(functions)}"] = step
                lines.append(f"y = function{len(functions) - 1}(y)")
            elif step in left.scales:
                lines.append(f"y = self.{step} * y")
            else:
                lines.append(f"y = self.{step}({given})")
        passed = f"self.{chain.base}(x)" if chain.base else "x"
        if chain.steps or chain.base:
            lines.append(f"x = {passed} + y" if chain.steps else f"x = {passed}")
    lines += [f"x = self.{left.after}(x)"] if left.after else []
    return [*lines, "return x"]
