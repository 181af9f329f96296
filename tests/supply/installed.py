"""An installed krepes used from outside its checkout: `python -I tests/supply/installed.py CHECKOUT`.

It audits an array by the command line, loads the run again and fetches the local web app's files over HTTP.
"""

import http.cookiejar
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from importlib.resources import files
from pathlib import Path

import numpy as np
import yaml
from safetensors.torch import save_file

import krepes
from krepes.encoders import MLP

KREPES = str(Path(sys.executable).with_name("krepes"))
CONFIG = {
    "encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": 6, "hidden": [16], "n_out": 4},
                "weights": "weights.safetensors"},
    "data": {"array": "x.npy"}, "views": {"name": "gaussian", "std": 0.3}, "objective": {"name": "barlow_twins"},
    "landmarks": {"m": 30}, "newton": {"damping": 1.0}, "output": "run",
    "audit": {"automatic_concepts": False, "attribution": 0}, "trust": {"refits": False},
}  # fmt: skip


def audit(folder: Path) -> None:
    save_file(MLP(6, (16,), 4).state_dict(), folder / "weights.safetensors")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32))
    (folder / "audit.yaml").write_text(yaml.safe_dump(CONFIG))
    subprocess.run([KREPES, "audit", "audit.yaml"], cwd=folder, check=True)
    assert "Can this explanation be trusted?" in (folder / "run" / "report.html").read_text()
    assert len(krepes.load(folder / "run").landmark_ids_) == 30


def app(folder: Path) -> list[str]:
    """The page and each file that it names, fetched with the link's token; their names."""
    command = [KREPES, "serve", "run", "--no-open"]
    with subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "300"},
    ) as server:
        try:
            said = ""
            while (link := re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", said)) is None:
                line = server.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]
                assert line, f"krepes serve ended:\n{said}"
                said += line
            jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
            ask = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar).open
            page = ask(link[0]).read().decode()
            names = re.findall(r'(?:src|href)="(/[^"]+\.(?:js|css))"', page)
            for name in names:
                assert ask(link[0].split("/?")[0] + name).read(), name
        finally:
            server.terminate()
    return names


def main(checkout: Path) -> None:
    place = Path(krepes.__file__).resolve()
    assert not place.is_relative_to(checkout / "src"), f"krepes was imported from the checkout: {place}"
    assert files("krepes").joinpath("py.typed").is_file()
    said = subprocess.run([KREPES, "--version"], capture_output=True, text=True, check=True).stdout
    assert said == f"krepes {krepes.__version__}\n", said
    with tempfile.TemporaryDirectory() as name:
        audit(Path(name))
        names = app(Path(name))
    assert names, "the app's page names no script"
    print(f"{said.strip()} in {place.parent}: an audit, its run loaded, {len(names)} files of the app served")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
