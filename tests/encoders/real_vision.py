"""Checks with the real torchvision and timm, run by test_real_vision.py in a process of its own.

PyPI's torchvision is built for another torch than the CPU's and then lacks its operators, without which it cannot be
imported. No architecture uses them, so declaring two of them is enough.
"""

import importlib
import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import krepes
from krepes import NTK
from krepes.encoders import FrozenEncoder, Recipe, ResNet18, ResNet34, ResNet50, build
from krepes.encoders.names import network
from krepes.encoders.recipe import Architecture
from krepes.errors import ConfigError, EncoderError, KrepesWarning
from krepes.kernel import KernelRows
from krepes.kernel.ntk import gradient_map
from tests.encoders.small import images, normalised, prefixed, projector, save
from tests.networks import unsettle

OPERATORS = ("nms", "qnms")
# name, arguments, submodules that the file does not hold, side of the images
LOADED = {
    "torchvision:resnet18": ({}, ["fc"], 64), "torchvision:vit_b_16": ({"image_size": 32}, ["heads"], 32),
    "torchvision:swin_t": ({}, ["head"], 32), "torchvision:convnext_tiny": ({}, ["classifier.2"], 32),
    "timm:resnet18": ({"num_classes": 0}, [], 64), "timm:vit_tiny_patch16_224": ({"num_classes": 0}, [], 224),
    "timm:convnext_atto": ({}, ["head.fc"], 32), "timm:vit_small_patch14_dinov2": ({"img_size": 28}, [], 28),
}  # fmt: skip
SMALL = {"image_size": 32, "patch_size": 16, "num_layers": 3, "num_heads": 4, "hidden_dim": 48, "mlp_dim": 96}
AUDITED = {
    "torchvision:resnet18": ({}, ["fc"], 32), "torchvision.models:VisionTransformer": (SMALL, ["heads"], 32),
    "timm:resnet18": ({"num_classes": 0}, [], 32),
    "timm:vit_tiny_patch16_224": ({"num_classes": 0, "img_size": 32}, [], 32),
}  # fmt: skip
LAST = {
    "resnet18": "layer4.1", "vit_tiny_patch16_224": "blocks.11", "VisionTransformer": "encoder.layers.encoder_layer_2",
}  # fmt: skip
HALF = {"mean": [0.5] * 3, "std": [0.25] * 3}


def declare_operators() -> None:
    """Make a torchvision of another build importable."""
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # what a failed import left
    library = torch.library.Library("torchvision", "DEF")
    for name in OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    declare_operators.library = library  # it takes its operators along when it is collected


def theirs(name: str, args: dict, identity: list[str]) -> nn.Module:
    """The library's own network, by the library's own function, away from its initial state."""
    library, _, model = name.partition(":")
    torch.manual_seed(0)
    if library == "torchvision":
        made = importlib.import_module("torchvision.models").get_model(model, weights=None, **args)
    elif library == "timm":
        made = importlib.import_module("timm").create_model(model, pretrained=False, **args)
    else:
        made = getattr(importlib.import_module(library), model)(**args)
    for path in identity:
        parent, _, last = path.rpartition(".")
        setattr(made.get_submodule(parent), last, nn.Identity())
    unsettle(made)
    return made.eval()


def loaded(name: str, args: dict, identity: list[str], side: int, folder: Path):
    """Their network, and what krepes builds of its state dict."""
    own = theirs(name, args, identity)
    save(folder / "w.ckpt", {"state_dict": prefixed(backbone=own)})
    arch = {"name": name, "args": args, "identity": identity}
    parts = {"checkpoint": "w.ckpt", "container": "state_dict", "encoder_prefix": "backbone.", "arch": arch}
    return own, build(Recipe(**parts, preprocess={"size": side, **HALF}), folder), parts


def check_loaded(name: str, folder: Path) -> None:
    """The same outputs to the last bit, a complete account, and a refusal where one tensor is missing."""
    own, found, parts = loaded(name, *LOADED[name], folder)
    x = images(2, LOADED[name][2])
    with torch.no_grad():
        assert torch.equal(found.module(x), own((x - 0.5) / 0.25))
    assert found.account.complete
    assert found.fingerprint is not None
    state = dict(list(prefixed(backbone=own).items())[1:])
    save(folder / "v.ckpt", {"state_dict": state})
    with pytest.raises(EncoderError, match="missing    1 tensors"):
        build(Recipe(**parts | {"checkpoint": "v.ckpt"}), folder)


def check_audit(name: str, folder: Path) -> None:
    """A few images through kernel, landmarks, step and explanation."""
    _, found, _ = loaded(name, *AUDITED[name], folder)
    last = FrozenEncoder(found.module, "last_block")
    last.check(images())
    assert last.param_names[0].startswith(f"encoder.{LAST[name.split(':')[1]]}.")
    dtype = torch.float32 if "resnet" in name else torch.float64  # whose outputs here differ little between images
    kernel = NTK("sketch", sketch=1, params="last_block")
    auditor = krepes.Auditor(found.module, "vicreg", kernel=kernel, landmarks=8, n_components=4, dtype=dtype)
    auditor.fit(images(20), views=lambda x, g: (x + 0.05 * torch.randn(x.shape, generator=g)).clamp(0, 1))
    table = auditor.explain(images(2), top_k=3)
    assert len(table) == 6
    assert table["influence"].abs().max() > 0


def gradients(net: nn.Module, x: Tensor) -> Tensor:
    """∇θ of the outputs' sum over √d, one sample and one backward pass at a time: (n, P)."""
    parameters = list(net.parameters())
    rows = []
    for one in x:
        out = net(one[None])
        found = torch.autograd.grad(out.sum() / out.shape[1] ** 0.5, parameters)
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def check_kernel(name: str, folder: Path) -> None:
    """The kernel of all parameters is that of plain autograd, in float64."""
    args, identity, side = AUDITED[name]
    net = theirs(name, args, identity).double()
    x = images(4, side).double()
    ntk = NTK("pseudo", center=False, cosine=False)
    found = KernelRows(ntk, gradient_map(ntk, FrozenEncoder(net, dtype=torch.float64), x[:3]), x).K_mm
    J = gradients(net, x)
    torch.testing.assert_close(found, J @ J.T, rtol=1e-9, atol=1e-9 * float((J @ J.T).abs().max()))


def check_own_resnets(folder: Path) -> None:
    """krepes' ResNets compute what torchvision's and timm's do with the same weights."""
    for kind, model in ((ResNet18, "resnet18"), (ResNet34, "resnet34"), (ResNet50, "resnet50")):
        own = theirs(f"torchvision:{model}", {}, ["fc"])
        for other in (kind().eval(), theirs(f"timm:{model}", {"num_classes": 0}, [])):
            other.load_state_dict(own.state_dict(), strict=True)
            with torch.no_grad():
                torch.testing.assert_close(other(images(2, 64)), own(images(2, 64)), rtol=1e-5, atol=1e-5)


def check_positional_names(folder: Path) -> None:
    """lightly's examples cut torchvision's ResNet: numbered names, output (B, d, 1, 1)."""
    cut = nn.Sequential(*list(theirs("torchvision:resnet18", {}, []).children())[:-1])
    head = projector(n_in=512)
    save(folder / "a.ckpt", {"state_dict": prefixed(backbone=cut, projection_head__layers=head)})
    found = build(Recipe(preset="lightly", checkpoint="a.ckpt"), folder)
    arch = {"name": "torchvision:resnet18", "identity": ["fc"]}
    by_library = build(Recipe(preset="lightly", checkpoint="a.ckpt", arch=arch), folder)
    with torch.no_grad():
        expected = head(cut(normalised(images(2, 64))).flatten(1))
        for one in (found, by_library):
            torch.testing.assert_close(one.module(images(2, 64)), expected)


def check_solo_learns_transformer(folder: Path) -> None:
    """args.json names vit_tiny, which is timm's."""
    args = {"img_size": 32, "patch_size": 4}
    own = theirs("timm:vit_tiny_patch16_224", {"num_classes": 0, **args}, [])
    save(folder / "w.ckpt", {"state_dict": prefixed(backbone=own, projector=projector(n_in=192))})
    said = {"backbone": {"name": "vit_tiny", "kwargs": args}, "method": "simclr", "data": {"dataset": "cifar10"}}
    (folder / "args.json").write_text(json.dumps(said))
    found = build(Recipe(preset="solo-learn", checkpoint="w.ckpt"), folder)
    x = normalised(images(2), (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
    with torch.no_grad():
        torch.testing.assert_close(found.module(images(2)), projector(n_in=192)(own(x)))


def check_classifiers(folder: Path) -> None:
    """A file without the classifier is answered with the way out."""
    for name, layer in (("torchvision:resnet18", "fc"), ("timm:vit_tiny_patch16_224", "head")):
        save(folder / "w.pt", theirs(name, {}, [layer]).state_dict())
        with pytest.raises(EncoderError, match=rf"say arch\.identity: \[{layer}\]"):
            build(Recipe(checkpoint="w.pt", arch=name), folder)


def check_sizes(folder: Path) -> None:
    """Transformers assert the images' size, and the recipe's is not known: said, no traceback."""
    for name in ("torchvision:vit_b_32", "timm:vit_tiny_patch16_224"):
        save(folder / "w.pt", theirs(name, {}, []).state_dict())
        with pytest.warns(KrepesWarning, match=r"no fingerprint of the outputs.*224.*Say the shape of a sample"):
            found = build(Recipe(checkpoint="w.pt", arch=name), folder)
        with pytest.raises(EncoderError, match=r"cannot process a batch of shape \(3, 3, 32, 32\)"):
            FrozenEncoder(found.module).check(images())


def check_no_downloads(folder: Path) -> None:
    """A segmentation network's backbone has weights of its own by default."""
    hub = importlib.import_module("torchvision.models._api")

    def download(*args, **kwargs):
        raise AssertionError("weights are downloaded")

    hub.load_state_dict_from_url = torch.hub.load_state_dict_from_url = download
    network(Architecture(name="torchvision:lraspp_mobilenet_v3_large"))


def check_mistakes(folder: Path) -> None:
    """Names and arguments that the libraries do not know."""
    for arch in ({"name": "timm:resnet1"}, {"name": "torchvision:resnet1"}, {"name": "timm:resnet18", "args": {"a": 1}},
                 {"name": "torchvision:resnet18", "args": {"a": 1}}):  # fmt: skip
        with pytest.raises(ConfigError, match=r"resnet1.*(Unknown model|unexpected keyword)"):
            network(Architecture(**arch))


CHECKS: dict[str, Callable[[Path], None]] = {
    **{f"loaded {name}": lambda folder, name=name: check_loaded(name, folder) for name in LOADED},
    **{f"kernel of {name}": lambda folder, name=name: check_kernel(name, folder) for name in AUDITED},
    **{f"audit of {name}": lambda folder, name=name: check_audit(name, folder) for name in AUDITED},
    "krepes' own ResNets": check_own_resnets, "positional names": check_positional_names,
    "solo-learn's transformer": check_solo_learns_transformer, "classifiers": check_classifiers,
    "sizes": check_sizes, "no downloads": check_no_downloads, "mistakes": check_mistakes,
}  # fmt: skip


def outcome(check: Callable[[Path], None]) -> str:
    """ "" if the check holds, else the traceback."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", KrepesWarning)
        try:
            check(Path(folder))
        except BaseException:
            return traceback.format_exc()
    return ""


if __name__ == "__main__":
    try:
        network(Architecture(name="torchvision:resnet18"))
    except ConfigError as error:
        if "torchvision is installed but cannot be imported: RuntimeError: operator" not in str(error):
            raise
        declare_operators()
    Path(sys.argv[1]).write_text(json.dumps({name: outcome(check) for name, check in CHECKS.items()}))
