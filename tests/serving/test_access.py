"""Who may ask: tokens, cookies, other sites, other names of this machine."""

import re

import pytest

from tipr_jax.serving.access import COOKIE, SESSION_S, Keys, check_exposure, is_loopback

TOKEN = "correct-horse-battery"


@pytest.fixture
def locked(start):
    service = start(TOKEN)
    service.worker.wait_until_ready()
    return service


PATHS = ["/api/gallery", "/api/items/1", "/api/items/1/thumbnail", "/metrics", "/openapi.json", "/"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"]
)
def test_without_the_token(locked, path, header):
    headers = {} if header is None else {"authorization": header}
    answer = locked.client.get(path, headers=headers)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization" in answer.json()["detail"]
    again = locked.client.get(path, headers={"authorization": f"Bearer {TOKEN}"})
    assert again.status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/login", "/static/style.css"])
def test_what_everyone_may_see(locked, path):
    assert locked.client.get(path).status_code == 200


def test_a_browser_signs_in_and_out(locked):
    client, html = locked.client, {"accept": "text/html"}
    assert client.get("/", headers=html).url.path == "/login"
    assert "not the token" in client.post("/login", data={"token": "wrong"}).text
    client.post("/login", data={"token": TOKEN}, follow_redirects=False)
    assert client.get("/", headers=html).url.path == "/"
    client.get("/?q=red", headers=html)
    assert '"who": "testclient by page"' in locked.audited()
    client.post("/logout")
    assert client.get("/", headers=html).url.path == "/login"


def test_the_cookie_is_for_this_page_alone(locked):
    answer = locked.client.post("/login", data={"token": TOKEN}, follow_redirects=False)
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= set(re.split("; ?", cookie)) and TOKEN not in cookie


def test_cookies_that_are_not_ours(locked):
    keys = Keys(TOKEN)
    good = keys.session()
    until, _, signature = good.partition(".")
    late = f"{int(until) + 1}.{signature}"
    expired = keys.session(now=-SESSION_S)
    for value in ("", "x", ".", late, expired, Keys(TOKEN + "x").session(), f".{signature}", TOKEN):
        locked.client.cookies.set(COOKIE, value)
        assert locked.client.get("/api/gallery").status_code == 401, value
    locked.client.cookies.set(COOKIE, good)
    assert locked.client.get("/api/gallery").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1.evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/items/1/delete", "/items", "/api/search", "/api/items"])
def test_other_sites_change_nothing(running, headers, path):
    assert running.client.post(path, headers=headers).status_code == 403
    assert running.client.delete("/api/items/1", headers=headers).status_code == 403
    assert running.client.get("/api/items/1").status_code == 200


def test_the_page_itself_may(running):
    headers = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}
    assert running.client.delete("/api/items/1", headers=headers).status_code == 204


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "10.0.0.1", "", "[", "a b"])
def test_without_a_token_the_name_must_be_of_this_machine(running, host):
    assert running.client.get("/api/gallery", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000", "127.9.9.9"])
def test_names_of_this_machine(running, host):
    assert running.client.get("/api/gallery", headers={"host": host}).status_code == 200


def test_addresses_beyond_this_machine_need_a_token():
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
        assert not is_loopback(host)
        with pytest.raises(ValueError, match="--token"):
            check_exposure(host, "")
        check_exposure(host, TOKEN)
    for host in ("127.0.0.1", "localhost", "::1"):
        check_exposure(host, "")
        with pytest.raises(ValueError, match="at least 16"):
            check_exposure(host, "short")


@pytest.mark.parametrize("path", ["/", "/api/gallery", "/static/style.css", "/nope", "/login"])
def test_headers_of_every_answer(running, path):
    headers = running.client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "no-store" in headers["cache-control"] or path.startswith("/static")
