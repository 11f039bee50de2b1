"""A class for a block without some of its branches, with a generated forward pass.

The class derives from the block's class, so timm can go on using the block. It is made from a
:class:`Remainder`, which is plain data. Another process can make the class again from it, so a
whole model can be pickled. The forward pass is generated as Python source, so that TorchScript,
which reads sources, compiles it. It does ``x = x + self.drop_path2(self.mlp(self.norm2(x)))``,
written as one call a line.
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
    """A module that the block calls through one of its methods, which may cut windows out first."""

    method: str
    module: str


Step = str | Via | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Chain:
    """One branch: ``x = base(x) + steps(x)``.

    Attributes:
        steps: what the branch does, in order: names of modules, names of parameters that scale,
            modules called through a method, and functions.
        base: the module on the skip connection; '' where the skip passes the input itself.
        before: a module that runs before the branch and the skip part; '' where there is none.
        calls: functions that the block calls only for this branch, such as ':roll'.
        methods: the block's methods that serve only this branch. They do nothing without it.
    """

    steps: tuple[Step, ...]
    base: str = ""
    before: str = ""
    calls: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the modules and parameters among the steps."""
        named = [s.module if isinstance(s, Via) else s for s in self.steps]
        return tuple(s for s in named if isinstance(s, str))


@dataclass(frozen=True)
class Remainder:
    """What is left of a block whose branches were removed in part.

    Attributes:
        cls: the block's class.
        chains: the branches that are left. A removed branch stays in the list without steps where
            its ``base`` or ``before`` still has work to do.
        scales: the names of steps that are parameters and not modules.
        takes_args: the modules that take the block's further arguments.
        after: a module after the last addition; '' where there is none.
        told: the removed modules that timm tells about a new input size.
        idle: the block's methods that do nothing without the removed branches.
    """

    cls: type[nn.Module]
    chains: tuple[Chain, ...]
    scales: tuple[str, ...]
    takes_args: tuple[str, ...]
    after: str
    told: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()


class _Gone:
    """Stands in the place of a removed attention and accepts what timm says of a new input size."""

    rel_pos = None

    def set_window_size(self, window_size: object) -> None:
        """Does nothing, since there is nothing to resize."""


def remainder_of(block: nn.Module) -> Remainder | None:
    """What is left of a block; None where no branch was removed."""
    return getattr(type(block), "remainder", None)


def become(block: nn.Module, left: Remainder) -> nn.Module:
    """Give a block the class that runs what is left of it; returns the same block."""
    block.__class__ = remaining_class(left)
    return block


@functools.cache
def remaining_class(left: Remainder) -> type[nn.Module]:
    """The class whose blocks run what is left."""
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
    """A block without state, which pickle fills."""
    cls = remaining_class(left)
    block: nn.Module = cls.__new__(cls)
    return block


def _forward(left: Remainder) -> Callable[..., Tensor]:
    """The forward pass; it takes the same arguments as that of the block's class."""
    own = ast.parse(textwrap.dedent(inspect.getsource(left.cls.forward))).body[0]
    assert isinstance(own, ast.FunctionDef)
    further = [argument.arg for argument in own.args.args[2:]]  # after self and x
    functions: dict[str, object] = {}
    body = "\n    ".join(_lines(left, further, functions))
    source = f"def forward({ast.unparse(own.args)}):\n    {body}\n"
    file = f"<{__name__} {left.cls.__module__}.{left.cls.__qualname__} {hash(left)}>"
    # TorchScript and tracebacks look up source lines in linecache.
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
