#!/usr/bin/env python3
"""Tries sign-in and workload tokens with a real Keycloak, which it starts on loopback: scripts/interop.sh keycloak.

Keycloak comes from Maven Central by name and version, and needs Java 17 or later. Everything ends with the script.
"""

import html
import http.cookiejar
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile

from ports import free_port

VERSION = "26.0.7"
ARTIFACT = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
SECRET = "a secret: with % and spaces"
PASSWORD = "only-for-this-test"


class Unfollowed(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


class Browser:
    """Keeps cookies, follows redirects, and sends the first form of each page."""

    def __init__(self, name):
        self.name = name
        policy = http.cookiejar.DefaultCookiePolicy(secure_protocols=("http", "https"))
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar(policy))
        self.opener = urllib.request.build_opener(jar, Unfollowed)

    def ask(self, url, form=None):
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        try:
            return self.opener.open(urllib.request.Request(url, data), timeout=30)
        except urllib.error.HTTPError as answer:
            return answer

    def go(self, url, end):
        form = None
        for _ in range(20):
            if url.startswith(end):
                return url
            answer = self.ask(url, form)
            form = None
            location = answer.headers.get("location")
            if location:
                url = urllib.parse.urljoin(url, location)
                continue
            page = answer.read().decode()
            found = re.search(r'<form[^>]*action="([^"]+)"', page)
            if not found:
                return url
            form = {}
            for field in re.findall(r"<input[^>]*>", page):
                name = re.search(r'name="([^"]+)"', field)
                value = re.search(r'value="([^"]*)"', field)
                if name:
                    form[name[1]] = html.unescape(value[1]) if value else ""
            form.pop("cancel", None)
            form.update({key: value for key, value in (("username", self.name), ("password", PASSWORD)) if key in form})
            url = urllib.parse.urljoin(url, html.unescape(found[1]))
        raise AssertionError(f"too many pages, the last is {url}")


def call(url, token=None, body=None, form=None):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    data = None
    if body is not None:
        data, headers["content-type"] = json.dumps(body).encode(), "application/json"
    if form is not None:
        data = urllib.parse.urlencode(form).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait(url, process, seconds):
    for _ in range(seconds * 2):
        assert process.poll() is None, f"{process.args[0]} has ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} does not answer")


def realm(callback, home):
    mappers = [{
        "name": "groups", "protocol": "openid-connect", "protocolMapper": "oidc-group-membership-mapper",
        "config": {"claim.name": "groups", "full.path": "false", "id.token.claim": "true"},
    }]
    audience = [{
        "name": "audience", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
        "config": {"included.custom.audience": "maxine-api", "access.token.claim": "true"},
    }]

    def user(name, group):
        return {
            "username": name, "enabled": True, "email": f"{name}@example.com", "emailVerified": True, "firstName": name,
            "lastName": "X", "groups": [group], "credentials": [{"type": "password", "value": PASSWORD}],
        }

    return {
        "realm": "corp", "enabled": True, "sslRequired": "none",
        "groups": [{"name": "platform-admins"}, {"name": "engineering"}, {"name": "visitors"}],
        "users": [user("ada", "/platform-admins"), user("bob", "/engineering"), user("eve", "/visitors")],
        "clients": [
            {
                "clientId": "maxine", "secret": SECRET, "protocol": "openid-connect", "standardFlowEnabled": True,
                "redirectUris": [callback, "http://127.0.0.1/*"], "protocolMappers": mappers,
                "attributes": {"oauth2.device.authorization.grant.enabled": "true", "post.logout.redirect.uris": home},
            },
            {
                "clientId": "orders", "secret": SECRET, "protocol": "openid-connect", "serviceAccountsEnabled": True,
                "standardFlowEnabled": False, "protocolMappers": audience,
            },
        ],
    }


def main():
    binary = os.environ.get("MAXINE_BIN", "target/debug/maxine")
    store = pathlib.Path.home() / ".m2/repository/org/keycloak/keycloak-quarkus-dist" / VERSION
    archive = store / f"keycloak-quarkus-dist-{VERSION}.zip"
    if not archive.exists():
        print(f"fetching {ARTIFACT}", file=sys.stderr)
        get = ["mvn", "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:get", "-Dtransitive=false", f"-Dartifact={ARTIFACT}"]
        subprocess.run(get, check=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="maxine-keycloak-"))
    processes = []
    try:
        run(binary, archive, folder, processes)
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def run(binary, archive, folder, processes):
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    home = folder / f"keycloak-{VERSION}"
    node_port, port = free_port(), free_port()
    node = f"http://127.0.0.1:{node_port}"
    issuer = f"http://127.0.0.1:{port}/realms/corp"
    start = f"{node}/api/v1/session/providers/corp"
    (home / "data/import").mkdir(parents=True)
    (home / "data/import/corp.json").write_text(json.dumps(realm(f"{start}/callback", f"{node}/")))

    def spawn(args, log, **env):
        output = open(folder / log, "w")
        settings = {"cwd": folder, "stdout": output, "stderr": output, "start_new_session": True}
        processes.append(subprocess.Popen(args, env={**os.environ, **env}, **settings))
        return processes[-1]

    keycloak = spawn(
        ["bash", str(home / "bin/kc.sh"), "start-dev", "--import-realm", "--http-host=127.0.0.1", f"--http-port={port}"],
        "keycloak.log", JAVA_OPTS_KC_HEAP="-Xmx512m", KC_BOOTSTRAP_ADMIN_USERNAME="root", KC_BOOTSTRAP_ADMIN_PASSWORD=PASSWORD,
    )
    wait(f"{issuer}/.well-known/openid-configuration", keycloak, 300)
    (folder / "secret").write_text(SECRET)
    (folder / "identities.toml").write_text(f"""
public_url = "{node}"
[[provider]]
name = "corp"
issuer = "{issuer}"
client_id = "maxine"
client_secret_file = "secret"
roles = {{ admin = ["platform-admins"], viewer = ["engineering"] }}
[[issuer]]
name = "keycloak"
issuer = "{issuer}"
audiences = ["maxine-api"]
[[issuer.rule]]
role = "operator"
claims = {{ azp = "orders" }}
""")
    args = [str(pathlib.Path(binary).resolve()), "serve", "--port", str(node_port), "--data-dir", str(folder / "data")]
    server = spawn(args, "node.log", MAXINE_IDENTITIES_FILE=str(folder / "identities.toml"))
    wait(f"{node}/api/v1/ready", server, 60)
    version = subprocess.run([args[0], "--version"], capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
    print(f"Keycloak {VERSION} with {version}, {time.strftime('%F', time.gmtime())}")

    def sign_in(name):
        browser = Browser(name)
        back = browser.go(f"{start}/start", f"{start}/callback")
        return browser, browser.ask(back).headers["location"]

    def me(browser):
        answer = browser.ask(f"{node}/api/v1/me")
        return json.loads(answer.read()) if answer.status == 200 else answer.status

    ada, location = sign_in("ada")
    assert location == "/" and me(ada)["user"] == "corp/ada" and me(ada)["role"] == "admin", (location, me(ada))
    assert me(sign_in("bob")[0])["role"] == "viewer"
    eve, location = sign_in("eve")
    assert location == "/?sign_in=no_role" and me(eve) == 401, (location, me(eve))
    print("dashboard: groups give roles; whoever has no group stays outside")

    def command(*words):
        env = {**os.environ, "MAXINE_SERVER": node, "MAXINE_SESSION_FILE": str(folder / "session.json")}
        return subprocess.Popen([args[0], *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    for flags, pattern in (["--no-browser"], r"(http:\S+/auth\?\S+)"), (["--device"], r"Or open (http:\S+)"):
        login = command("login", "--provider", "corp", *flags)
        said = ""
        for line in login.stdout:
            said += line
            found = re.search(pattern, said)
            if found:
                break
        Browser("ada").go(found[1], "nowhere")
        said += login.stdout.read()
        assert login.wait() == 0 and "signed in as corp/ada (admin)" in said, said
        assert (folder / "session.json").stat().st_mode & 0o777 == 0o600
        users = command("user", "list")
        assert "corp/bob" in users.communicate()[0] and users.returncode == 0
        assert command("logout").wait() == 0
        print(f"command line: login {flags[0]}, a command with the session, logout")

    def token():
        form = {"grant_type": "client_credentials", "client_id": "orders", "client_secret": SECRET}
        return call(f"{issuer}/protocol/openid-connect/token", form=form)[1]["access_token"]

    def known(bearer):
        for _ in range(20):
            status, answer = call(f"{node}/api/v1/me", bearer)
            if status != 503:
                return status, answer
            time.sleep(0.5)
        raise AssertionError("the keys were not fetched")

    status, mine = known(token())
    assert status == 200 and mine["via"] == "jwt" and mine["role"] == "operator", mine
    print(f"workload: the token of a service account is {mine['user']}")

    # A new key signs from now on. Keys are fetched again at most every five seconds.
    root = f"http://127.0.0.1:{port}"
    form = {"grant_type": "password", "client_id": "admin-cli", "username": "root", "password": PASSWORD}
    admin = call(f"{root}/realms/master/protocol/openid-connect/token", form=form)[1]["access_token"]
    corp = call(f"{root}/admin/realms/corp", admin)[1]["id"]
    key = {
        "name": "new", "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider", "parentId": corp,
        "config": {"priority": ["200"], "enabled": ["true"], "active": ["true"], "keySize": ["2048"], "algorithm": ["RS256"]},
    }
    before = token().split(".")[0]
    assert call(f"{root}/admin/realms/corp/components", admin, key)[0] == 201
    assert token().split(".")[0] != before, "another key signs"
    time.sleep(6)
    assert known(token())[0] == 200
    assert me(sign_in("ada")[0])["role"] == "admin"
    print("a new key of the provider: accepted, for sign-ins and for workloads")

    out = ada.go(f"{start}/sign-out", f"{node}/?")
    print(f"sign-out at the provider ends at {urllib.parse.urlparse(out)._replace(query='').geturl()}")
    keycloak.send_signal(signal.SIGTERM)
    os.killpg(keycloak.pid, signal.SIGTERM)
    keycloak.wait()
    processes.remove(keycloak)
    assert me(ada)["user"] == "corp/ada", "a session is Maxine's own"
    print("Keycloak is away: sessions go on")


if __name__ == "__main__":
    main()
