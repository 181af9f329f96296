"""Hugging Face transformers as encoders: token ids or pixels to one embedding per sample, without downloads."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from krepes.errors import ConfigError, EncoderError

POOLS = ("mean", "cls", "pooler")


class TokenEncoder(nn.Module):
    """A text transformer with pooled outputs.

    Args:
        model: gives `last_hidden_state` for `input_ids` and `attention_mask`.
        pool: "mean" over the tokens that are no padding, "cls" (the first token), or "pooler" (the model's own).
        pad_id: tokens with this id are padding, which attention does not see; none: all tokens count.
        token_types: the model takes `token_type_ids`; all are 0.
    """

    def __init__(self, model: nn.Module, pool: str = "mean", pad_id: int | None = None, token_types: bool = False):
        super().__init__()
        self.model, self.pool, self.pad_id, self.token_types = model, pool, pad_id, token_types

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) -> (B, d)."""
        mask = torch.ones_like(ids) if self.pad_id is None else (ids != self.pad_id).to(ids.dtype)
        # one row of types per sample: shared ones would hide from the kernel where the batch lies
        types = {"token_type_ids": torch.zeros_like(ids)} if self.token_types else {}
        out = self.model(input_ids=ids, attention_mask=mask, **types)
        if self.pool == "mean":
            weight = mask[..., None].to(out.last_hidden_state.dtype)  # (B, T, 1)
            return (out.last_hidden_state * weight).sum(1) / weight.sum(1).clamp_min(1)
        return out.last_hidden_state[:, 0] if self.pool == "cls" else out.pooler_output

    def extra_repr(self) -> str:
        """What its weights do not say."""
        return f"pool={self.pool}, pad_id={self.pad_id}"


class PixelEncoder(nn.Module):
    """A vision transformer with pooled outputs.

    Args:
        model: gives `last_hidden_state` for `pixel_values`.
        pool: "cls" (the first token), "mean" over all tokens but the first, or "pooler" (the model's own).
    """

    def __init__(self, model: nn.Module, pool: str = "cls"):
        super().__init__()
        self.model, self.pool = model, pool

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (B, C, H, W) -> (B, d)."""
        out = self.model(pixel_values=x)
        if self.pool == "mean":
            return out.last_hidden_state[:, 1:].mean(1)
        return out.last_hidden_state[:, 0] if self.pool == "cls" else out.pooler_output

    def extra_repr(self) -> str:
        """What its weights do not say."""
        return f"pool={self.pool}"


def transformer(
    name: str, config: dict[str, Any] | None = None, pool: str | None = None, pad_id: int | str | None = "config"
) -> TokenEncoder | PixelEncoder:
    """A wrapped transformer with random weights.

    Args:
        name: a local folder with config.json, a name in the local cache, or a model type (`bert`) with `config`.
        config: instead of a file: the configuration's fields.
        pool: mean, cls or pooler; default mean for tokens and cls for pixels.
        pad_id: of padding tokens; default the configuration's.

    Raises:
        ConfigError: transformers is not installed, or there is no such configuration here. Nothing is downloaded.
    """
    settings = read_settings(name, config)
    library = load_library()
    try:
        with quiet():
            model = library.AutoModel.from_config(settings, attn_implementation="eager", trust_remote_code=False)
    except Exception as error:  # the library's, for a configuration of any kind
        raise ConfigError(f"transformers:{name} cannot be built: {type(error).__name__}: {error}") from error
    return wrapped(model, settings, pool, pad_id, name)


def pretrained(
    folder: Path, name: str, args: dict[str, Any]
) -> tuple[TokenEncoder | PixelEncoder, dict[str, list[str]], dict[str, int]]:
    """A wrapped transformer with the weights of a folder, whose names the library may translate.

    Args:
        folder: config.json and .safetensors.
        name, args: as for `transformer`.

    Returns:
        the encoder; the library's lists `missing_keys`, `unexpected_keys`, `mismatched_keys`, `error_msgs`; and what
        the pooling leaves out of the file, name ↦ entries.

    Raises:
        EncoderError: the folder's weights cannot be read.
    """
    unknown = sorted(set(args) - {"config", "pool", "pad_id"})
    if unknown:
        raise ConfigError(f"arch.args.{unknown[0]} is unknown for transformers:{name}; expected config, pool or pad_id")
    if args.get("pool") is not None and args["pool"] not in POOLS:
        raise ConfigError(f"arch.args.pool={args['pool']!r} is unknown; expected one of {', '.join(POOLS)}")
    settings = read_settings(str(folder) if (folder / "config.json").is_file() else name, args.get("config"))
    library = load_library()
    try:
        with quiet():
            model, info = library.AutoModel.from_pretrained(
                str(folder), config=settings, attn_implementation="eager", local_files_only=True, use_safetensors=True,
                trust_remote_code=False, output_loading_info=True, dtype=torch.float32,
            )  # fmt: skip
    except Exception as error:  # the library's, for files of any kind
        raise EncoderError(
            f"transformers cannot load the weights in {folder}: {type(error).__name__}: {error}. Expected config.json "
            "and .safetensors (never a .bin, which is a pickle)."
        ) from error
    absent = set(info["missing_keys"])
    before = {n: t.numel() for n, t in model.state_dict().items() if n not in absent}
    encoder = wrapped(model, settings, args.get("pool"), args.get("pad_id", "config"), name)
    dropped = {n: k for n, k in before.items() if n not in encoder.model.state_dict()}
    return encoder, {k: sorted(str(x) for x in v) for k, v in info.items()}, dropped


def stored_types(folder: Path) -> list[str]:
    """Remarks about numbers that the folder's files hold in fewer bits than they are read as."""
    found: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as f:
            found |= {str(f.get_slice(n).get_dtype()) for n in f.keys()}  # noqa: SIM118  safe_open is no dict
    return [f"{kind} read as torch.float32" for kind in sorted(found & {"F16", "BF16", "F64"})]


def wrapped(model: nn.Module, settings: Any, pool: str | None, pad_id: int | str | None, name: str):
    """A model as a map to one embedding per sample, in eval mode."""
    pixels = hasattr(settings, "image_size") and not hasattr(settings, "vocab_size")
    pool = pool or ("cls" if pixels else "mean")
    if pool not in POOLS:
        raise ConfigError(f"arch.args.pool={pool!r} is unknown; expected one of {', '.join(POOLS)}")
    if pool == "pooler" and getattr(model, "pooler", None) is None:
        raise ConfigError(f"transformers:{name} has no pooler; take pool: mean or cls")
    if pool != "pooler" and isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None  # pyright: ignore[reportArgumentType]  its weights would enter the kernel as zeros
    if pixels:
        return PixelEncoder(model, pool).eval()
    pad = getattr(settings, "pad_token_id", None) if pad_id == "config" else pad_id
    if pad is not None and not isinstance(pad, int):
        raise ConfigError(f"arch.args.pad_id={pad!r}; expected a token's id, or null where nothing is padded")
    return TokenEncoder(model, pool, pad, getattr(settings, "type_vocab_size", 0) > 0).eval()


def read_settings(name: str, config: dict[str, Any] | None) -> Any:
    """A configuration from fields, a folder or the local cache."""
    library = load_library()
    try:
        if config is not None:
            fields = dict(config)
            kind = fields.pop("model_type", None) or name
            return library.AutoConfig.for_model(kind, **fields)
        return library.AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library's, for names and files of any kind
        raise ConfigError(
            f"transformers:{name}: no usable configuration on this machine ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}). krepes downloads nothing: name a folder with config.json, fetch the model "
            f"first (hf download {name}), or give arch.args.config with its model_type."
        ) from error


def load_library() -> Any:
    """transformers, imported now."""
    from krepes.encoders.names import extra

    return extra("transformers", "hub")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the library's load reports: the account says it."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
