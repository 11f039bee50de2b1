"""Whether a module computes what its class says, as adapters assume.

Adapters know the forward passes of PyTorch's and timm's classes. They know nothing of a module of
another class, or of one whose forward pass was replaced, that has a hook, or whose weight is
computed from other tensors. What such a module takes part in is not gated, and the reason is given.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from torch import nn
from torch.nn.utils import parametrize

PACKAGES = ("torch.nn.", "timm.", "torchvision.", "cpt_nas.")
"""The packages that define the known classes."""


def unlike_its_class(module: nn.Module, *, hooks: bool = True) -> str:
    """Why what is known of the module's class need not hold for it; '' where it does.

    Args:
        module: the module, looked at without the modules in it.
        hooks: whether a hook on the module is a reason.
    """
    if parametrize.is_parametrized(module):
        (name, *_) = module.parametrizations  # type: ignore[misc]
        (how, *_) = module.parametrizations[name]  # type: ignore[index]
        return f"{name} is computed by a parametrization, {type(how).__name__}"
    cls = type(module)
    if not _is_known(cls):
        return f"{cls.__name__}, a class that is neither PyTorch's nor timm's"
    for name, value in vars(module).items():
        if callable(value) and _is_method(cls, name) and not _is_of_the_class(value, cls):
            return f"its {name} was replaced on the object"
    if not _is_of_a_package(inspect.unwrap(cls.forward).__module__):
        return f"{cls.__name__}.forward was replaced"
    return _hooked(module) if hooks else ""


def unlike_their_classes(block: nn.Module) -> Iterator[tuple[str, str]]:
    """The names of the modules in a block that may compute something else, with the reasons."""
    for name, module in block.named_modules():
        reason = unlike_its_class(module) if name else ""
        if reason:
            yield name, reason


def changed_inside(block: nn.Module) -> str:
    """The first of :func:`unlike_their_classes` as a sentence; '' where there is none."""
    return next((f"{name}: {reason}" for name, reason in unlike_their_classes(block)), "")


def _is_known(cls: type[nn.Module]) -> bool:
    # A class with the forward pass of nn.Sequential is known, whoever defined it.
    return _is_of_a_package(cls.__module__) or cls.forward is nn.Sequential.forward


def _is_method(cls: type[nn.Module], name: str) -> bool:
    return inspect.isfunction(inspect.getattr_static(cls, name, None))


def _is_of_the_class(value: object, cls: type[nn.Module]) -> bool:
    """Whether a value is a method of the class; some of timm's classes choose one of several."""
    function = getattr(value, "__func__", None)
    return function is not None and function in vars(cls).values()


def _is_of_a_package(module: str) -> bool:
    return module.startswith(PACKAGES)


def _hooked(module: nn.Module) -> str:
    hooks = (
        *module._forward_pre_hooks.values(),
        *module._forward_hooks.values(),
        *module._backward_pre_hooks.values(),
        *module._backward_hooks.values(),
    )
    if hooks:
        return f"a hook on it, {_name_of(hooks[0])}"
    for name, parameter in module.named_parameters(recurse=False):
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return f"a hook on its {name}, which a cut would lose"
    return ""


def _name_of(hook: object) -> str:
    return getattr(hook, "__name__", type(hook).__name__)
