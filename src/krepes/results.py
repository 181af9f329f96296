"""The run folder: written file by file, atomically, and read back with checks."""

import json
import platform
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

import krepes
from krepes import objectives, pipeline
from krepes.audit.selection import positions_of
from krepes.audit.trust import TrustGate
from krepes.data.source import Source
from krepes.data.stream import spread_out
from krepes.engine import Engine
from krepes.errors import KrepesError, RunFolderError
from krepes.files import sha256_file, write_atomically, write_json
from krepes.kernel.ntk import NTK, KernelError, KernelRows, gradient_map
from krepes.nystrom import Nystrom
from krepes.remote import local_run
from krepes.seen import Seen, behaviour
from krepes.solver import Newton, Outcome, Step

MANIFEST, MODEL = "manifest.json", "model.safetensors"


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {
        "krepes": krepes.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "threads": str(torch.get_num_threads()),
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        RunFolderError: there is none, or it is no valid JSON object.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise RunFolderError(f"{folder} holds no {MANIFEST}: it is not a krepes run folder")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged ({error}); run the audit again into another folder") from error
    if not isinstance(manifest, dict):
        raise RunFolderError(f"{path} holds a {type(manifest).__name__}; expected an object")
    return manifest


def own_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that is about to be written to.

    Raises:
        RunFolderError: it cannot be read, or is another program's.
    """
    manifest = read_manifest(folder)
    if "format" not in manifest:
        raise RunFolderError(f"the {MANIFEST} in {folder} is not of a krepes run. Choose another folder.")
    return manifest


# ---------------------------------------------------------------- settings


def describe(value: Any) -> Any:
    """Settings as JSON: dataclasses by their fields, with the name of what they are."""
    if is_dataclass(value) and not isinstance(value, type):
        plain = {f.name: describe(getattr(value, f.name)) for f in fields(value)}
        name = getattr(value, "name", type(value).__name__)
        return {"name": name, **plain} if isinstance(name, str) else plain
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str | dict) else repr(value)


def describe_settings(settings: pipeline.Settings) -> dict[str, Any]:
    """Settings as JSON."""
    return {f.name: describe(getattr(settings, f.name)) for f in fields(settings)}


def settings_in(manifest: dict[str, Any]) -> dict[str, Any]:
    """A run's settings; one that came later has the value that the run was made with."""
    return {"landmark_rows": "samples"} | manifest["settings"]


def config_in(manifest: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration, likewise."""
    config = manifest.get("config", {})
    landmarks = config.get("landmarks")
    if isinstance(landmarks, dict) and "sampler" in landmarks:  # of a file; the demo's are an Auditor's settings
        return config | {"landmarks": {"rows": "samples"} | landmarks}
    return config


def _restore_settings(plain: dict[str, Any], indices: list[int]) -> pipeline.Settings:
    def keep(cls, values):
        return {f.name: values[f.name] for f in fields(cls) if f.name in values}

    kernel = keep(NTK, plain["kernel"])
    if isinstance(kernel.get("params"), list):
        kernel["params"] = tuple(kernel["params"])
    objective = dict(plain["objective"])
    return pipeline.Settings(
        objective=objectives.by_name(objective.pop("name"), **objective),
        kernel=NTK(**kernel),
        landmarks=indices,
        newton=Newton(**keep(Newton, plain["newton"])),
        n_components=plain["n_components"],
        rank_tolerance=plain["rank_tolerance"],
        seed=plain["seed"],
        engine=Engine(**keep(Engine, plain.get("engine", {}))),
        landmark_rows=plain["landmark_rows"],
    )


# ------------------------------------------------------------ save and load


def save_auditor(
    auditor: "krepes.Auditor", folder: Path, extra: dict[str, Any] | None = None, prints: dict[str, str] | None = None
) -> Path:
    """Model and manifest of a fitted auditor.

    Args:
        folder: made if needed; one that holds another encoder's or data set's run is refused.
        extra: more entries of the manifest.
        prints: the fingerprints, where they are known already.
    """
    fit, encoder = auditor.fit_, auditor.encoder
    training, views = auditor.seen_.given()
    prints = prints or {"encoder": encoder.fingerprint(), "data": training.fingerprint()}
    settings = describe_settings(auditor.settings)
    if not (folder / MANIFEST).exists() and (folder / MODEL).exists():
        raise RunFolderError(f"{folder} holds a {MODEL} and no {MANIFEST}: no krepes run. Choose another folder.")
    if (folder / MANIFEST).exists():
        there = own_manifest(folder)
        refuse_foreign(folder, there, prints)
        differing = [k for k, v in settings.items() if "settings" in there and settings_in(there).get(k) != v]
        if differing or there.get("landmark_ids", auditor.landmark_ids_) != auditor.landmark_ids_:
            raise RunFolderError(
                f"{folder} holds a run with other {', '.join(differing) or 'landmarks'}. Choose another folder, or "
                "remove this one."
            )
    tensors = {
        "landmarks": fit.samples,
        "A0": fit.A0,
        "dA": fit.dA,
        "gamma": torch.zeros(fit.nystrom.h, dtype=torch.float64),
        "U": fit.nystrom.U,
        "eigenvalues": fit.nystrom.eigenvalues,
        "dB": fit.step.dB,
        "K_mm": fit.rows.K_mm,
    }
    if auditor.settings.landmark_rows == "views":
        tensors["landmark_views"] = fit.rows.landmarks
    if fit.moments is not None:
        tensors |= {f"moments.{k}": v for k, v in fit.moments.tensors().items()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    if (folder / MODEL).exists() and read_manifest(folder).get("status") == "complete":
        refuse_another_fit(folder, tensors)
    write_atomically(folder / MODEL, lambda p: save_file(tensors, p))
    manifest = {
        "format": 1,
        "status": "complete",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "settings": settings,
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "fingerprints": prints,
        "samples": len(training),
        "moments_n": fit.moments.n if fit.moments is not None else None,
        "landmark_positions": fit.indices if training is auditor.source_ else places(training, auditor.landmark_ids_),
        "behaviour": behaviour(auditor.settings, encoder, training, views),
        "landmark_ids": auditor.landmark_ids_,
        "outcome": fit.step.outcome.as_plain(),
        "memory": asdict(fit.memory) if fit.memory else None,
        "kernel_error": asdict(fit.kernel_error) if fit.kernel_error else None,
        "timings_seconds": {k: round(v, 3) for k, v in auditor.progress.timings.items()},
        "sha256": {MODEL: sha256_file(folder / MODEL)},
        **(extra or {}),
    }
    write_json(folder / MANIFEST, manifest)
    return folder


def load(
    folder: str | Path, encoder: nn.Module | None = None, device: str | torch.device | None = None
) -> "krepes.Auditor":
    """A fitted auditor from a run folder, without its samples: `Auditor.with_samples` gives them to it.

    Args:
        folder: what `Auditor.save` or `krepes audit` wrote; its URL, if it is kept at one.
        encoder: the audited network in eval mode. It may be left out when the run was made from a configuration
            file, which says how to build it.
        device: where it computes from now on; default CPU.

    Raises:
        RunFolderError: the folder is damaged or incomplete, the encoder is another one, or none is given where
            the folder cannot tell how to build it.
    """
    folder = local_run(folder)
    manifest = read_manifest(folder)
    if manifest.get("status") != "complete":
        raise RunFolderError(
            f"the run in {folder} is not complete (status {manifest.get('status')!r}, stage "
            f"{manifest.get('stage')!r}); run the same command again"
        )
    try:
        return _load(folder, manifest, encoder, torch.device(device or "cpu"))
    except KrepesError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunFolderError(f"{folder / MANIFEST} lacks or misstates {error}; run the audit again") from error
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"a file of the run in {folder} is missing or damaged: {error}") from error
    except (IndexError, RuntimeError) as error:  # tensors of other shapes than the settings say
        raise RunFolderError(f"{folder / MODEL} does not fit its manifest ({error}); run the audit again") from error


def _load(folder: Path, manifest: dict[str, Any], encoder: nn.Module | None, device: torch.device) -> "krepes.Auditor":
    if encoder is None:
        if "encoder" not in manifest:
            raise RunFolderError(
                f"{folder} was saved from Python and does not hold the encoder's code; call "
                "krepes.load(folder, encoder=...) with the same network"
            )
        from krepes.config import EncoderConfig, build_encoder

        config = EncoderConfig.model_validate(manifest["encoder"])
        encoder = build_encoder(config, Path(manifest["config_folder"]), modules_only=True, run_folder=folder)
    if sha256_file(folder / MODEL) != manifest["sha256"][MODEL]:
        raise RunFolderError(f"{folder / MODEL} does not have the checksum in the manifest: it is damaged")
    with safe_open(folder / MODEL, framework="pt") as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  safe_open is no dict
    tensors = {k: t if k in ("landmarks", "landmark_views") else t.to(device) for k, t in tensors.items()}
    known, viewed = settings_in(manifest), "landmark_views" in tensors
    if known["landmark_rows"] != ("views" if viewed else "samples"):
        raise RunFolderError(
            f"landmark_rows is {known['landmark_rows']!r} in {folder / MANIFEST}, but {folder / MODEL} holds "
            f"{'' if viewed else 'no '}views of landmarks: one of them is damaged; run the audit again"
        )
    settings = _restore_settings(known, manifest["landmark_positions"])
    auditor = krepes.Auditor(
        encoder,
        settings.objective,
        settings.kernel,
        manifest["landmark_positions"],
        settings.newton,
        settings.n_components,
        settings.seed,
        device,
        getattr(torch, manifest["dtype"]),
        settings.rank_tolerance,
        engine=settings.engine,
        landmark_rows=settings.landmark_rows,
    )
    refuse_foreign(folder, manifest, {"encoder": auditor.encoder.fingerprint()})
    precision, standing = settings.engine.precision, tensors["landmark_views" if viewed else "landmarks"]
    gradients = gradient_map(settings.kernel, auditor.encoder, spread_out(tensors["landmarks"]))
    rows = KernelRows(settings.kernel, gradients, standing, manifest["landmark_ids"], precision=precision)
    error = manifest.get("kernel_error")
    if (rows.K_mm - tensors["K_mm"]).norm() > 1e-3 * tensors["K_mm"].norm():
        raise RunFolderError(
            f"this encoder has the weights of the run in {folder} but another kernel on its landmarks: its forward "
            "pass (stride, padding, activation, preprocessing) differs"
        )
    nystrom = Nystrom(tensors["U"], tensors["eigenvalues"], tensors["A0"].shape[1])
    moments = None
    if manifest["moments_n"] is not None:
        sums = {k.removeprefix("moments."): v for k, v in tensors.items() if k.startswith("moments.")}
        moments = objectives.Moments(manifest["moments_n"], **sums)
    step = Step(tensors["dB"], Outcome.of_plain(manifest["outcome"]))
    fit = pipeline.Fit(
        manifest["landmark_positions"], tensors["landmarks"], rows, nystrom, moments, step, tensors["A0"],
        tensors["dA"], kernel_error=KernelError(**error) if error else None,
    )  # fmt: skip
    prints, trust = manifest.get("fingerprints") or {}, None
    trusted = (manifest.get("outputs") or {}).get("trust.json")
    if trusted and (folder / "trust.json").is_file() and sha256_file(folder / "trust.json") == trusted:
        trust = TrustGate.of_dict(json.loads((folder / "trust.json").read_text(encoding="utf-8")))
    seen = Seen(None, None, None, settings.seed, prints.get("data"), manifest.get("behaviour"))
    return auditor.with_fit(fit, seen, manifest["landmark_ids"], trust)


def refuse_another_fit(folder: Path, tensors: dict[str, Any]) -> None:
    """A complete run is only written again by the same fit: its tables and its trust belong to it."""
    try:
        with safe_open(folder / MODEL, framework="pt") as f:
            same = torch.allclose(f.get_tensor("dA"), tensors["dA"], rtol=1e-3, atol=1e-8)
    except (SafetensorError, OSError, RuntimeError):
        return  # damaged: nothing to lose
    if not same:
        raise RunFolderError(
            f"{folder} holds another fit with the same settings: its views differ, or samples were removed. Choose "
            "another folder, or remove this one."
        )


def places(training: Source, landmark_ids: list[str]) -> list[int]:
    """The landmarks' positions among the training samples, −1 for those that are none."""
    known = positions_of(training.ids, set(landmark_ids))
    return [known.get(name, -1) for name in landmark_ids]


def refuse_foreign(folder: Path, manifest: dict[str, Any], prints: dict[str, str]) -> None:
    """Raise RunFolderError when the folder's fingerprints differ, naming which."""
    old = manifest.get("fingerprints") or {}
    differing = [k for k, v in prints.items() if k in old and old[k] != v]
    if differing:
        what = " and ".join({"encoder": "another encoder", "data": "another data set"}.get(k, k) for k in differing)
        detail = "; ".join(f"{k}: {old[k][:12]}… there, {prints[k][:12]}… here" for k in differing)
        raise RunFolderError(f"{folder} belongs to {what} ({detail}). Choose another folder, or remove this one.")
