"""Coverage-guided fuzzing of one reader: `python tests/fuzz/fuzz.py recipe --executions 100000` (needs `atheris`).

It goes on after a bug; each kind of bug is kept once, its bytes in FOUND/, and becomes a line in test_fuzz_found.py.
"""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["krepes", "yaml", "json", "csv", "numpy.lib"]):
    from tests.fuzz.readers import READERS, Reader, refused

SLOW = 5  # seconds of computing for a small file, which is a bug, too


def place_of(error: Exception) -> str:
    """What tells two bugs apart: the kind of error, and the last line of krepes that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    last = ([f for f in frames if "src/krepes" in f.filename] or frames)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def watched(name: str, reader: Reader, folder: Path, found: Path) -> Callable[[bytes], None]:
    """One execution; a bug of a new kind is printed and its bytes are kept."""
    seen: set[str] = set()

    def once(content: bytes) -> None:
        start, bug, said = time.process_time(), None, ""
        try:
            refused(reader, folder, content)
        except Exception as error:
            bug, said = place_of(error), str(error)[:150]
        if time.process_time() - start > SLOW:
            bug, said = "slow", f"{time.process_time() - start:.0f} s"
        if bug and bug not in seen:
            seen.add(bug)
            print(f"BUG {name}: {bug}: {said!r} from {content[:120]!r}", flush=True)
            (found / f"{name}-{len(seen)}").write_bytes(content)

    return once


def prepared(reader: Reader, place: Path) -> None:
    """The corpus and the dictionary that libFuzzer starts from; valid files have to be read."""
    for name in ("corpus", "read"):
        (place / name).mkdir()
    for i, seed in enumerate(reader.seeds()):
        why = refused(reader, place / "read", seed)
        assert why is None, why
        (place / "corpus" / f"seed-{i}").write_bytes(seed)
    words = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in reader.dictionary)
    (place / "words").write_text("".join(f'"{word}"\n' for word in words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--executions", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=0, help="Stop earlier; 0 does not.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"))
    options = parser.parse_args()
    reader = READERS[options.reader]
    options.found.mkdir(exist_ok=True)
    memory = Path("/dev/shm")  # files in memory, where the system has them
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        place = Path(folder)
        prepared(reader, place)
        longest = max(4096, 2 * max(len(seed) for seed in reader.seeds()))
        flags = [
            f"-runs={options.executions}", f"-max_total_time={options.seconds}", f"-seed={options.seed}",
            f"-max_len={longest}", "-timeout=1000", "-rss_limit_mb=3000", "-print_final_stats=1",
            f"-artifact_prefix={options.found}/", *([f"-dict={place / 'words'}"] if reader.dictionary else []),
        ]  # fmt: skip
        once = watched(options.reader, reader, place / "read", options.found)
        atheris.Setup([sys.argv[0], *flags, str(place / "corpus")], once, enable_python_coverage=True)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
