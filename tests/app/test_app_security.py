"""Who is answered: the holder of the token, on a loopback name, from the app's own page."""

import asyncio
import re
import signal
import subprocess
import sys

import httpx2
import pytest
from starlette.testclient import TestClient

from krepes.app.security import Guard
from krepes.app.server import create_app
from krepes.app.state import State
from tests.app.runs import BASE, PORT, TOKEN


@pytest.fixture
def stranger(tables):
    """A client that has not entered."""
    return TestClient(create_app(State(tables), TOKEN, PORT), base_url=BASE, raise_server_exceptions=False)


PATHS = ("/", "/api/run", "/tiles/0/0/0.png", "/picture/0", "/export/selection.csv", "/report", "/static/app.js", "/x")


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_told(stranger, path):
    found = stranger.get(path)
    assert found.status_code == 401
    assert "start link" in found.json()["error"]


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", "%00", "ü", f"{TOKEN}&token=other"])
def test_a_wrong_token_gives_no_cookie(stranger, token):
    found = stranger.get(f"/?token={token}", follow_redirects=False)
    assert found.status_code == 401
    assert "set-cookie" not in found.headers


def test_the_start_link_becomes_a_cookie_that_scripts_and_other_sites_do_not_have(stranger):
    found = stranger.get(f"/?token={TOKEN}", follow_redirects=False)
    assert found.status_code == 303
    assert found.headers["location"] == "/"
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(found.headers["set-cookie"].split("; "))
    assert TOKEN not in stranger.get("/").text


@pytest.mark.parametrize("cookie", [f"krepes_{PORT + 1}={TOKEN}", f"krepes_{PORT}=wrong", f"krepes_{PORT}", "ü=1; =;;"])
def test_another_cookie_is_none(stranger, cookie):
    assert stranger.get("/api/run", headers={"Cookie": cookie.encode("latin-1")}).status_code == 401


def test_cookies_of_other_apps_do_not_hide_ours(stranger):
    cookie = f'theirs={{"a": [1]}}; krepes_{PORT}={TOKEN}; x'
    assert stranger.get("/api/run", headers={"Cookie": cookie}).status_code == 200


HOSTS = ("evil.example", f"evil.example:{PORT}", f"127.0.0.1.evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}",
         f"0.0.0.0:{PORT}", f"localhost:{PORT}@evil.example", "")  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_another_host_is_refused_with_the_cookie_and_with_the_token(asker, host):
    assert asker.get("/api/run", headers={"Host": host}).status_code == 403
    assert asker.get(f"/?token={TOKEN}", headers={"Host": host}).status_code == 403


def test_localhost_is_this_machine(asker):
    cookie = {"Cookie": f"krepes_{PORT}={TOKEN}", "Host": f"localhost:{PORT}"}
    assert asker.get("/api/run", headers=cookie).status_code == 200


def test_two_host_headers_are_refused():
    async def ask() -> int:
        sent = []

        async def send(message):
            sent.append(message)

        async def app(scope, receive, send):
            raise AssertionError("reached")

        hosts = [(b"host", f"127.0.0.1:{PORT}".encode()), (b"host", b"evil.example")]
        scope = {"type": "http", "method": "GET", "path": "/api/run", "query_string": b"", "headers": hosts}
        await Guard(app, TOKEN, PORT)(scope, None, send)  # pyright: ignore[reportArgumentType]
        return sent[0]["status"]

    assert asyncio.run(ask()) == 403


ORIGINS = (None, "null", "https://evil.example", f"http://127.0.0.1:{PORT + 1}", f"https://127.0.0.1:{PORT}",
           f"http://localhost:{PORT}")  # fmt: skip


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("path", ["/api/select", "/api/concept", "/api/counterfactual", "/api/upload"])
def test_what_asks_for_work_comes_from_the_apps_own_page(asker, path, origin):
    del asker.headers["Origin"]
    found = asker.post(path, json={"q": "row"}, headers={} if origin is None else {"Origin": origin})
    assert found.status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pictures_are_not_for_other_sites_pages(asker, site):
    embedded = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert asker.get("/tiles/0/0/0.png", headers=embedded).status_code == 403
    assert asker.get("/api/run", headers={**embedded, "Sec-Fetch-Mode": "navigate"}).status_code == 403
    assert asker.get("/", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "GET"])
def test_other_methods_are_refused(asker, method):
    found = asker.request(method, "/api/select")
    assert found.status_code == 405
    assert "error" in found.json()


@pytest.mark.parametrize("path", [*PATHS[:4], "/api/explain/x", "/nowhere"])
def test_every_answer_has_the_headers(asker, path):
    headers = asker.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_refusals_have_the_headers_too(stranger):
    assert "default-src 'none'" in stranger.get("/").headers["content-security-policy"]


def test_a_report_has_an_origin_of_its_own(tables, asker):
    (tables / "report.html").write_text("<script>1</script>")
    try:
        found = asker.get("/report")
    finally:
        (tables / "report.html").unlink()
    assert found.text == "<script>1</script>"
    policy = found.headers["content-security-policy"]
    assert policy.startswith("sandbox ")
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy  # default-src 'none' holds


TRAVERSALS = ("../server.py", "..%2fserver.py", "%2e%2e/server.py", "..%5cserver.py", "....//server.py",
              "/etc/passwd", "%00", "..%252fserver.py", "css/../../state.py", "a" * 5000)  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leaves_the_static_folder(asker, path):
    found = asker.get(f"/static/{path}")
    assert found.status_code in (404, 400), found.text[:200]
    assert "import" not in found.text


@pytest.mark.parametrize("position", ["../points.parquet", "..%2f..%2fetc%2fpasswd", "-1", "5000", "1e3", "9" * 5000,
                                      "0x1", "%F0%9D%9F%8F", "1.0", " 1", "", "%00"])  # fmt: skip
def test_a_picture_is_named_by_a_position_alone(asker, position):
    assert asker.get(f"/picture/{position}").status_code == 404


def test_a_mistake_of_our_own_tells_nothing_of_the_machine(asker, monkeypatch):
    def fail(position):
        raise RuntimeError("/home/user/secret/path")

    monkeypatch.setattr(asker.state, "explain", fail)
    found = asker.get("/api/explain/1")
    assert found.status_code == 500
    assert found.json() == {"error": "something went wrong inside krepes; the terminal says what"}
    assert "default-src 'none'" in found.headers["content-security-policy"]


def test_a_websocket_is_refused(asker):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), asker.websocket_connect("/"):
        pass


def test_the_command_prints_a_link_that_opens_the_page(tables):
    command = [sys.executable, "-u", "-m", "krepes", "serve", str(tables), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S{40,})", process.stdout.readline())
            assert found is not None
            with httpx2.Client(follow_redirects=True, timeout=60) as browser:
                page = browser.get(found[0])
                assert page.status_code == 200
                assert found[2] not in str(page.url)
                assert browser.get(f"http://127.0.0.1:{found[1]}/api/run").json()["n"] == 5000
            assert httpx2.get(f"http://127.0.0.1:{found[1]}/api/run").status_code == 401
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
