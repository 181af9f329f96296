"""Networks by name: built in, of an installed library, or at an import path."""

import importlib
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from krepes.encoders.architectures import MLP, SmallCNN
from krepes.encoders.recipe import Architecture
from krepes.encoders.resnet import ResNet18, ResNet34, ResNet50
from krepes.encoders.trust import OWN, Trust, refuse_untrusted
from krepes.errors import ConfigError, EncoderError
from krepes.user_code import found_at

BUILT_IN: dict[str, type[nn.Module]] = {
    "MLP": MLP, "ResNet18": ResNet18, "ResNet34": ResNet34, "ResNet50": ResNet50, "SmallCNN": SmallCNN,
}  # fmt: skip
# arguments through which these libraries load weights of their own, from the network or from a pickle
OF_WEIGHTS = ("pretrained", "weights", "checkpoint_path", "progress", "scriptable", "cache_dir", "features_only")
OF_NAMES = ("model_name", "name", "builder")  # the architecture's name is checked, and stands in arch.name alone


def network(arch: Architecture, trust: Trust = OWN) -> nn.Module:
    """The network that an architecture names, with random weights, in eval mode.

    Args:
        arch: not `inferred`, which needs the weights.
        trust: what an import path may import and call.

    Raises:
        ConfigError: an unknown name, an extra that is not installed, or arguments that do not fit.
        EncoderError: the path leads to no nn.Module, or `identity` names no submodule.
    """
    library, separator, name = arch.name.partition(":")
    if separator and library == "krepes":
        made = built_in(name, arch)
    elif separator and library in ("torchvision", "timm"):
        refuse_untrusted(arch.name, library, trust)
        made = of_library(library, name, arch.args)
    elif separator and library == "transformers":
        from krepes.encoders.transformers_models import transformer

        refuse_untrusted(arch.name, library, trust)

        made = called(partial(transformer, name), arch.name, arch.args)
    else:
        made = called(imported(arch.name, trust), arch.name, arch.args)
    for path in arch.identity:
        parent, _, last = path.rpartition(".")
        try:
            owner = made.get_submodule(parent)
            made.get_submodule(path)
        except AttributeError as error:
            raise EncoderError(f"arch.identity names '{path}', which {arch.name} does not have: {error}") from error
        setattr(owner, last, nn.Identity())
    return made.eval()


def built_in(name: str, arch: Architecture) -> nn.Module:
    """One of krepes' own."""
    if name not in BUILT_IN:
        raise ConfigError(f"arch {arch.name} is unknown; built in are {', '.join(f'krepes:{n}' for n in BUILT_IN)}")
    return called(BUILT_IN[name], arch.name, arch.args)


def of_library(library: str, name: str, args: dict[str, Any]) -> nn.Module:
    """An architecture of torchvision or timm, without their weights."""
    if not re.fullmatch(r"[\w.]+", name):
        raise ConfigError(f"arch {library}:{name} is no architecture's name; weights come from the recipe's checkpoint")
    forbidden = sorted(k for k in args if k.startswith(OF_WEIGHTS))
    if forbidden:
        raise ConfigError(f"arch.args.{forbidden[0]} loads other weights; they come from the recipe's checkpoint alone")
    named = sorted(k for k in args if k in OF_NAMES)
    if named:
        raise ConfigError(f"arch.args.{named[0]} would name another network than arch {library}:{name}; take it out")
    module = extra(library, "vision", "torchvision.models" if library == "torchvision" else "timm")
    if library == "torchvision":
        return called(partial(of_torchvision, module, name), f"torchvision:{name}", args)
    return called(partial(module.create_model, name, pretrained=False), f"timm:{name}", args)


def of_torchvision(models: Any, name: str, **args: Any) -> nn.Module:
    """One of torchvision's; all weights are turned off: those of a detector's backbone are downloaded by default."""
    builder = models.get_model_builder(name)
    weights = [k for k in inspect.signature(builder).parameters if k.startswith("weights")]
    return builder(**args, **dict.fromkeys(weights))


def extra(library: str, extra_name: str, module: str | None = None) -> Any:
    """An optional library, imported now.

    Raises:
        ConfigError: it is not installed, or does not fit the installed torch.
    """
    try:
        return importlib.import_module(module or library)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == library:
            raise ConfigError(
                f'{library} is not installed; it comes with the extra {extra_name}: pip install "krepes[{extra_name}]"'
            ) from error
        raise broken(library, extra_name, error) from error
    except Exception as error:  # a build for another torch fails in many ways
        raise broken(library, extra_name, error) from error


def broken(library: str, extra_name: str, error: Exception) -> ConfigError:
    """The error for a library that is there but cannot be imported."""
    return ConfigError(
        f"{library} is installed but cannot be imported: {type(error).__name__}: {error}. It must be the build for "
        "this "
        f'torch; reinstall both together: pip install --force-reinstall torch "krepes[{extra_name}]"'
    )


def imported(path: str, trust: Trust = OWN) -> Callable[..., Any]:
    """What an import path leads to.

    Args:
        path: `package.module:Class`, or with a dot.
        trust: whether it may be imported, and whether it must be a class derived from nn.Module.

    Raises:
        ConfigError: it cannot be imported, is not there, or is not of that kind.
    """
    module_name, _, attribute = path.replace(":", ".").rpartition(".")
    expected = "Expected an import path such as krepes.encoders:MLP, installed or on PYTHONPATH."
    if not module_name or not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise ConfigError(
            f"'{path}' is no import path. {expected} Libraries' architectures are torchvision:…, timm:… and "
            "transformers:…"
        )
    refuse_untrusted(path, module_name, trust)
    found = found_at(module_name, attribute, path, expected)
    if not trust.functions and not (isinstance(found, type) and issubclass(found, nn.Module)):
        whose, way = (
            ("run folder", "Build the encoder yourself: krepes.load(folder, encoder=...).") if trust.stranger
            else ("recipe", "Wrap it in an nn.Module class.")
        )  # fmt: skip
        raise ConfigError(
            f"the {whose} says that {path} builds a network, which is no nn.Module class and is not called unseen. "
            + way
        )
    if not callable(found):
        raise ConfigError(f"{path} is a {type(found).__name__} and cannot be called. {expected}")
    return found


def called(factory: Callable[..., Any], name: str, args: dict[str, Any]) -> nn.Module:
    """The module that a factory makes.

    Raises:
        ConfigError: the arguments do not fit, or it makes no nn.Module.
    """
    try:
        made = factory(**args)
    except ConfigError as error:
        raise ConfigError(f"{name} with {args}: {error}") from error
    except Exception as error:  # the factory is the user's or a library's
        raise ConfigError(f"{name} with {args}: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{name} made a {type(made).__name__}; expected an nn.Module")
    return made
