"""Files that fuzzing found (tests/fuzz/fuzz.py), valid ones, and a seeded few of their mutants: read, or refused."""

import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fuzz.readers import READERS, refused

DEEP, LONG = b"[" * 500 + b"]" * 500, b"1" * 5000
LAUGHS = b"\n".join(b"- &a%d [%s]" % (i, b", ".join([b"*a%d" % (i - 1)] * 9) if i else b"x") for i in range(9))


def of_pandas(said: dict) -> bytes:
    """A table with something else where pandas keeps its types."""
    table = pa.table({"column": ["job"], "gap": [0.1], "low": [0.0], "high": [0.2]})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(said)}), buffer := io.BytesIO())
    return buffer.getvalue()


# each once gave a traceback, or took all memory
FOUND = [
    ("recipe", b"a: !!float :+"),
    ("recipe", b"!!timestamp x"),
    ("recipe", b"!!int "),
    ("recipe", b"!!bool x"),
    ("recipe", b"space: \0"),
    ("recipe", b"remarks: [2026-13-01]"),
    ("recipe", b"allow: " + LONG),
    ("configuration", b"title: !!int \n"),
    ("configuration", b"title: \x07"),
    ("schema-json", LONG),
    ("schema-json", b'[{"name": "a", "kind": "numeric", "mean": 1' + b"0" * 400 + b"}]"),
    ("schema-json", b'[{"name": "a", "kind": "categorical", "categories": ' + DEEP + b"}]"),
    ("schema-yaml", LAUGHS),
    ("checkpoint", READERS["checkpoint"].seeds()[0].replace(b"_rebuild_", b"_rebuilt_")),  # another checksum
    ("idx", b"\0\0\x08\x03\0\0\0\0\xf9\xff\xff\xff\xf2\xfe\xff\xff"),  # no samples of more than a memory's size
    ("checkpoint", b"K" + READERS["checkpoint"].seeds()[0].replace(b"PK\x06\x07\0\0\0\0", b"PK\x06\x07\1\0\0\0")),
    ("gaps", of_pandas({"columns": [{"name": "gap"}], "index_columns": [], "column_indexes": []})),
    ("points", READERS["points"].seeds()[0].replace(b"landmarks", b"land\xffarks")),  # a name that is no text
    ("csv", b"\0\x02a,b\n1,2\n"),  # UTF-16 is asked for, and there is no mark
]

MUTANTS = 60  # of each valid file


@pytest.mark.parametrize("name", READERS)
def test_files_that_krepes_wrote_are_read(name, tmp_path):
    assert [refused(READERS[name], tmp_path, seed) for seed in READERS[name].seeds()] == [None] * len(
        READERS[name].seeds()
    )


@pytest.mark.parametrize(("name", "content"), FOUND, ids=[f"{name}-{i}" for i, (name, _) in enumerate(FOUND)])
def test_a_file_that_fuzzing_found_is_refused_in_words(name, content, tmp_path):
    assert refused(READERS[name], tmp_path, content)


def mutated(content: bytes, words: tuple[str, ...], draw: random.Random) -> bytes:
    """The bytes after one to four changes: a bit, a cut, a word, a repeated piece."""
    found = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, to = sorted(draw.choices(range(len(found) + 1), k=2))
        kind = draw.randrange(4)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del found[at : min(to, at + 20)]
        elif kind == 2:
            found[at:at] = draw.choice(words or ("0",)).encode()
        else:
            found[to:to] = found[at : min(to, at + 40)]
    return bytes(found)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_in_words(name, tmp_path):
    draw = random.Random(0)
    seen = [refused(READERS[name], tmp_path, mutated(seed, READERS[name].dictionary, draw))
            for seed in READERS[name].seeds() for _ in range(MUTANTS)]  # fmt: skip
    assert any(message is not None for message in seen)
