"""The model behind a run, rebuilt in the background; questions that the stored tables cannot answer need it."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from krepes.errors import ConfigError, DataError, KrepesError, RunFolderError
from krepes.stored import StoredRun

if TYPE_CHECKING:
    from torch import nn

    from krepes.app.points import Points
    from krepes.auditor import Auditor
    from krepes.data.source import Source
    from krepes.shown import Pictures

PATIENCE = 0.05  # seconds that an explanation waits for the model before it takes the stored scores
PLANE = 256  # samples at least from which the map's plane is found again
LARGEST_PLANE = 4096
CLOSE = 50  # samples on the map that an upload is compared with
NEAREST = 10  # that are told


class NotReadyError(KrepesError):
    """The model is not loaded, or busy."""


class Live:
    """The auditor of a run with its samples.

    Torch is used by one thread at a time: whoever computes holds `using()`.

    Attributes:
        state: "loading", "ready" or "unavailable".
        reason: why it is unavailable, or why counterfactuals are; None otherwise.

    Args:
        trust_run: the run is one's own: whatever its configuration names is loaded, as `krepes audit` would.
    """

    def __init__(self, run: StoredRun, trust_run: bool = False):
        self._run, self._trusted = run, trust_run
        self._lock, self._sources = threading.RLock(), threading.Lock()
        self.state, self.reason = "loading", None
        self._auditor: Auditor | None = None
        self._pictures: Pictures | None = None
        self._map: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def start(self) -> None:
        """Load in a thread."""
        threading.Thread(target=self.load, name="krepes-model", daemon=True).start()

    def load(self) -> None:
        """Load now; what fails is said in `reason`."""
        try:
            with self._lock:
                self._auditor, self.reason = opened(self._run, self._trusted)
            self.state = "ready"
        except (KrepesError, OSError, ImportError, MemoryError) as error:
            self.state, self.reason = "unavailable", str(error) or type(error).__name__
        except Exception:  # code of the encoder may raise anything; the stored tables are still shown
            logging.getLogger("krepes.app").exception("the model could not be loaded")
            self.state, self.reason = "unavailable", "the model could not be loaded; the terminal says why"

    def needed(self) -> "Auditor":
        """The auditor.

        Raises:
            NotReadyError: it is loading, or cannot be had; says why.
        """
        if self.state == "loading":
            raise NotReadyError("the model is being loaded; ask again in a moment")
        if self._auditor is None:
            raise NotReadyError(f"this needs the model, which is not available: {self.reason}")
        return self._auditor

    @contextmanager
    def using(self, patience: float = -1) -> "Iterator[Auditor]":
        """The auditor for this thread alone.

        Args:
            patience: seconds to wait for others; −1 for as long as it takes.

        Raises:
            NotReadyError: it cannot be had, or is busy for longer.
        """
        auditor = self.needed()
        if not self._lock.acquire(timeout=patience):
            raise NotReadyError("the model is busy with another question; ask again when that is answered")
        try:
            yield auditor
        finally:
            self._lock.release()

    def picture(self, position: int, name: str) -> bytes | None:
        """A sample as the bytes of a PNG or WebP file; None where the samples are no images, or the model is missing.

        Raises:
            DataError: the image cannot be read any more.
        """
        auditor = self._auditor
        if auditor is None or auditor.source_.kind != "image" or not _is(auditor.source_, position, name):
            return None
        from krepes.shown import Pictures

        with self._sources:
            if self._pictures is None:
                self._pictures = Pictures.of(auditor)
            return self._pictures(auditor.source_, position)

    def scores(self, position: int, name: str) -> "tuple[list[str], np.ndarray, np.ndarray] | None":
        """Landmarks' ids, influence and contribution for a sample; None where the model is missing or busy."""
        from krepes.app.explanations import of_model
        from krepes.data.source import Subset
        from krepes.influence import scored

        try:
            with self.using(PATIENCE) as auditor:
                if not _is(auditor.source_, position, name):
                    return None
                K, f = scored(auditor.fit_, Subset(auditor.source_, np.array([position])))
                return auditor.landmark_ids_, *of_model(K, f, auditor.dA_)
        except NotReadyError:
            return None

    def placed(self, auditor: "Auditor", f: np.ndarray, points: "Points") -> dict[str, Any]:
        """Where a representation lies on the map, and the samples that are nearest to it in representation space.

        The map is an affine function of f: it is found again from seeded samples whose places are known. The nearest
        are those of the largest cosine among these and among the nearest on the map.

        Args:
            f: of one sample (h,).

        Returns:
            x, y, and nearest: position and cosine, ten of them.
        """
        if self._map is None:
            self._map = _fitted_map(auditor, points, len(f))
        chosen, known, affine = self._map
        x, y = (np.append(f, 1.0) @ affine).tolist()
        close = np.setdiff1d(points.around(x, y, CLOSE), chosen)
        if len(close):
            chosen, known = np.append(chosen, close), np.concatenate([known, _represented(auditor, close)])
        cosine = known @ f / np.maximum(np.linalg.norm(known, axis=1) * np.linalg.norm(f), 1e-300)
        order = np.argsort(-cosine, kind="stable")[:NEAREST]
        nearest = [{"position": int(chosen[i]), "cosine": float(cosine[i])} for i in order]
        return {"x": x, "y": y, "nearest": nearest}


def _represented(auditor: "Auditor", positions: np.ndarray) -> np.ndarray:
    """f (k, h) of some samples."""
    from krepes.data.source import Subset

    return auditor.transform(Subset(auditor.source_, positions)).cpu().numpy()


def _fitted_map(auditor: "Auditor", points: "Points", h: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (k,), f (k, h) of seeded samples, and the affine map (h + 1, 2) from f to their places."""
    n = len(auditor.source_)
    wanted = min(n, max(PLANE, min(2 * (h + 1), LARGEST_PLANE)))
    chosen = np.sort(np.random.default_rng(auditor.settings.seed).permutation(n)[:wanted])
    xy = np.column_stack([points.x[chosen], points.y[chosen]]).astype(np.float64)
    chosen, xy = chosen[np.isfinite(xy).all(1)], xy[np.isfinite(xy).all(1)]
    known = _represented(auditor, chosen)
    affine = np.linalg.lstsq(np.column_stack([known, np.ones(len(known))]), xy, rcond=None)[0]
    return chosen, known, affine


def _is(source: "Source", position: int, name: str) -> bool:
    return position < len(source) and str(source.ids[position]) == name


def opened(run: StoredRun, trust_run: bool = False) -> "tuple[Auditor, str | None]":
    """The auditor with its samples and, where they can be had, its views; else why counterfactuals cannot be asked.

    Args:
        trust_run: load whatever the configuration names. Otherwise the folder may be a stranger's: `restricted` says
            what is loaded of it.

    Raises:
        RunFolderError, ConfigError, DataError, EncoderError: encoder or samples are not those of the run, or missing.
    """
    from krepes.app.restricted import offline

    with nullcontext() if trust_run else offline():
        return _opened(run, trust_run)


def _opened(run: StoredRun, trust_run: bool) -> "tuple[Auditor, str | None]":
    from krepes.results import load

    auditor = load(run.folder, encoder_of(run, trust_run))
    source, make_views = samples_of(run, trust_run)
    print_ = run.section("fingerprints").get("data")
    if source.fingerprint() != print_:
        raise DataError(
            f"the {len(source):,} samples that the run's configuration names are not those that were audited: their "
            "fingerprint differs. Restore them, or run the audit again."
        )
    auditor = auditor.with_samples(source)
    try:
        return auditor.with_samples(source, make_views()), None
    except KrepesError as error:
        return auditor, f"Counterfactuals need the views of the audit, which cannot be had: {error}"


def encoder_of(run: StoredRun, trust_run: bool) -> "nn.Module | None":
    """The network that the run's manifest describes; None where it was saved from Python, which `load` tells.

    Raises:
        RunFolderError: the description is of another version.
        ConfigError, EncoderError: it cannot be built, or would be by code that is not trusted.
    """
    from pydantic import ValidationError

    from krepes.app import restricted
    from krepes.config import EncoderConfig, build_encoder

    if "encoder" not in run.manifest:
        return None
    try:
        config = EncoderConfig.model_validate(run.manifest["encoder"])
    except ValidationError as error:
        raise RunFolderError(f"its encoder is of another version of krepes ({error.error_count()} keys)") from error
    if trust_run:
        return build_encoder(config, config_folder(run))
    return restricted.encoder_of(config, config_folder(run), run.folder)


def config_folder(run: StoredRun) -> Path:
    """Where relative paths of the run's configuration start."""
    return Path(str(run.manifest.get("config_folder", ".")))


def samples_of(run: StoredRun, trust_run: bool) -> "tuple[Source, Callable[[], Any]]":
    """The samples of a run's configuration, and what makes their views.

    Raises:
        RunFolderError: the run was made from Python, or its configuration is of another version.
        ConfigError: they would be read by code, from the network, or through a folder that is written.
    """
    from pydantic import ValidationError

    from krepes import demo
    from krepes.app.restricted import refuse_asking, refuse_views_of_code
    from krepes.config import Config, build_data, build_views

    config, encoder = run.section("config"), run.section("encoder")
    if "data" not in config:
        if encoder.get("weights") == demo.RECIPE["encoder"]["weights"]:
            return demo.auditor()[1], lambda: demo.VIEWS
        raise RunFolderError("the run was made from Python: its manifest does not say where its samples are")
    try:
        settings = Config.model_validate(config)
    except ValidationError as error:
        raise RunFolderError(
            f"its configuration is of another version of krepes ({error.error_count()} keys)"
        ) from error
    if not trust_run:
        refuse_asking(settings.data, config_folder(run))
    source = build_data(settings.data, config_folder(run))[0]

    def make_views() -> Any:
        if settings.views is None:
            raise ConfigError("the configuration names no views")
        if not trust_run:
            refuse_views_of_code(settings)
        return build_views(settings.views, source)

    return source, make_views
