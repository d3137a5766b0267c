"""Tokens of an OpenID provider by the grant `client_credentials` (RFC 6749, section 4.4).

A token is kept until it is about to expire. Nothing here writes the client's secret or a token into an error.
"""

import base64
import contextlib
import http.client
import ipaddress
import json
import os
import random
import re
import socket
import ssl
import threading
import time
import traceback
import urllib.parse
from typing import NamedTuple

from ._nodes import MaxineError

_ANSWER_MAX_S = 5.0
_ANSWER_MAX_BYTES = 1 << 20
_BACKOFF_S, _BACKOFF_MAX_S = 0.5, 30.0
# A token whose answer does not say how long it is valid.
_LIFETIME_S = 60.0
_RENEW_BEFORE_MAX_S = 60.0
# A younger token that a node refuses is not replaced: the next one would be refused too.
_REFUSED_AFTER_S = 5.0


class _Held(NamedTuple):
    value: str
    fetched_at: float
    renew_at: float
    expires_at: float


class _Endpoint(NamedTuple):
    url: str
    post: bool


class _NoToken(MaxineError):
    """There is no token. Unless it is `final`, another attempt may succeed soon."""

    def __init__(self, message, final=True, retry_after_s=0.0):
        super().__init__(0, f"no token: {message}")
        self.final, self.retry_after_s = final, retry_after_s


class ClientCredentials:
    """Fetches tokens, and keeps each until it is about to expire. Several clients and threads may share it.

    `issuer` is the URL of the provider, whose `/.well-known/openid-configuration` names the token endpoint; `token_url` is
    the endpoint itself. The client's secret is in `client_secret_file`, which is read for each fetch, or in the environment
    variable that `client_secret_env` names. `scope` has scopes, separated by spaces. For whom the token is: `audience` or
    `resource` (RFC 8707), whichever the provider reads. `ca_file` has the certificates that the provider is checked with.
    `on_error` gets the errors of fetches while the former token is still valid.
    """

    def __init__(self, client_id, *, issuer=None, token_url=None, client_secret_file=None, client_secret_env=None,
                 scope=None, audience=None, resource=None, ca_file=None, on_error=None):
        if not client_id:
            raise ValueError("client_id is needed")
        if bool(issuer) == bool(token_url):
            raise ValueError("either issuer or token_url is needed")
        if bool(client_secret_file) == bool(client_secret_env):
            raise ValueError("either client_secret_file or client_secret_env is needed")
        if not _is_safe(issuer or token_url):
            name = "issuer" if issuer else "token_url"
            raise ValueError(f"{name} must be an https URL, or http on a loopback address")
        self._client_id, self._issuer, self._token_url = client_id, issuer, token_url
        self._secret_file, self._secret_env = client_secret_file, client_secret_env
        self._wanted = {"scope": scope, "audience": audience, "resource": resource}
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._on_error = on_error or (lambda error: None)
        self._changed = threading.Condition()
        self._held, self._fetching, self._endpoint = None, False, None
        self._failures, self._not_before, self._last = 0, 0.0, None

    def token(self, timeout_s=10.0):
        """A token that is valid now. It is fetched if none is held; the time for that is limited by `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                now = time.monotonic()
                if self._held and now < self._held.expires_at:
                    # The old token is good while the new one is on its way.
                    if now >= max(self._held.renew_at, self._not_before):
                        self._renew()
                    return self._held.value
                left, wait = deadline - now, 0.0 if self._fetching else self._not_before - now
                if left <= 0 or wait > 0 and (self._last.final or wait >= left):
                    message = self._last.message if self._last else "no token: the provider has not answered in time"
                    raise MaxineError(0, message) from self._last
                if wait <= 0:
                    self._renew()
                self._changed.wait(wait if wait > 0 else left)

    def refused(self, token):
        """A node has refused this token. Tells whether to ask again, with a new one."""
        with self._changed:
            if self._held is None or token != self._held.value:
                return True
            if time.monotonic() - self._held.fetched_at < _REFUSED_AFTER_S:
                return False
            self._held = None
            return True

    def _renew(self):
        """One fetch at a time. The caller has the lock."""
        if not self._fetching:
            self._fetching = True
            threading.Thread(target=self._run, name="maxine-token", daemon=True).start()

    def _run(self):
        held, failed = None, None
        try:
            held = self._fetch()
        except _NoToken as error:
            failed = error
        except Exception as error:  # Whoever waits must learn of it.
            failed = _NoToken(f"{type(error).__name__}")
            failed.__cause__ = error
        with self._changed:
            self._fetching, self._last = False, failed
            if held:
                self._held, self._failures, self._not_before = held, 0, 0.0
            else:
                limit = min(_BACKOFF_MAX_S, _BACKOFF_S * 2 ** min(self._failures, 10))
                self._failures += 1
                self._not_before = time.monotonic() + max(limit * random.uniform(0.5, 1), failed.retry_after_s)
                self._endpoint = None  # The provider may have moved.
            has_token = self._held is not None and time.monotonic() < self._held.expires_at
            self._changed.notify_all()
        if failed and has_token:
            try:
                self._on_error(failed)
            except Exception:
                traceback.print_exc()

    def _fetch(self):
        secret = self._secret()
        if self._endpoint is None:
            self._endpoint = _Endpoint(self._token_url, False) if self._token_url else self._discover()
        url, post = self._endpoint
        form = {"grant_type": "client_credentials", **{name: value for name, value in self._wanted.items() if value}}
        headers = {"content-type": "application/x-www-form-urlencoded"}
        # As a form has it, which RFC 6749 asks for in section 2.3.1.
        pair = f"{urllib.parse.quote_plus(self._client_id)}:{urllib.parse.quote_plus(secret)}"
        basic = base64.b64encode(pair.encode("ascii")).decode("ascii")
        if post:
            form.update(client_id=self._client_id, client_secret=secret)
        else:
            headers["authorization"] = f"Basic {basic}"
        fetched_at = time.monotonic()
        sent = urllib.parse.urlencode(form).encode("ascii")
        answer = self._ask("POST", url, headers, sent, (secret, urllib.parse.quote_plus(secret), basic))
        value, lifetime = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value):
            raise _NoToken(f"{url}: the answer has no access_token")
        if str(answer.get("token_type")).lower() != "bearer":
            raise _NoToken(f"{url}: the token_type is not Bearer")
        with contextlib.suppress(TypeError, ValueError):
            lifetime = float(lifetime)
        if not isinstance(lifetime, float) or not 0 < lifetime < float("inf"):
            lifetime = _LIFETIME_S
        # Clients that start together do not renew together.
        margin = min(_RENEW_BEFORE_MAX_S, lifetime / 5) * random.uniform(1, 1.5)
        return _Held(value, fetched_at, fetched_at + lifetime - margin, fetched_at + lifetime)

    def _secret(self):
        """Read for each fetch, so that a replaced secret is used at once."""
        if self._secret_env:
            secret = os.environ.get(self._secret_env)
            if not secret:
                raise _NoToken(f"the environment variable {self._secret_env} has no client secret")
            return secret
        try:
            with open(self._secret_file, encoding="utf-8") as file:
                secret = file.read().strip()
        except OSError as error:
            raise _NoToken(f"the client secret cannot be read: {error}") from error
        except UnicodeDecodeError:  # Its text has a part of the file.
            raise _NoToken(f"the client secret in {self._secret_file} is not UTF-8") from None
        if not secret:
            raise _NoToken(f"{self._secret_file} has no client secret")
        return secret

    def _discover(self):
        url = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        found = self._ask("GET", url, {})
        if found.get("issuer") != self._issuer:
            raise _NoToken(f"{url}: the issuer in the answer is another one")
        endpoint = found.get("token_endpoint")
        if not isinstance(endpoint, str) or not _is_safe(endpoint, _is_loopback(self._issuer)):
            raise _NoToken(f"{url}: the token_endpoint must be an https URL")
        methods = found.get("token_endpoint_auth_methods_supported") or []
        return _Endpoint(endpoint, "client_secret_post" in methods and "client_secret_basic" not in methods)

    def _ask(self, method, url, headers, body=None, secrets=()):
        """The JSON object of an answer with status 200. Redirects are not followed: they could take the secret elsewhere."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(parts.netloc, timeout=_ANSWER_MAX_S, context=self._tls)
        else:
            connection = http.client.HTTPConnection(parts.netloc, timeout=_ANSWER_MAX_S)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request(method, path, body, {"accept": "application/json", **headers})
            answer = connection.getresponse()
            text = answer.read(_ANSWER_MAX_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            why = "no answer in time" if isinstance(error, socket.timeout) else str(error) or type(error).__name__
            raise _NoToken(f"{url}: {why}", final=False) from error
        finally:
            connection.close()
        got = None
        with contextlib.suppress(ValueError):
            got = json.loads(text) if len(text) <= _ANSWER_MAX_BYTES else None
        if answer.status == 200 and isinstance(got, dict):
            return got
        said = [got.get(name) for name in ("error", "error_description")] if isinstance(got, dict) else []
        said = ": ".join(one for one in said if isinstance(one, str))
        for secret in secrets:  # A provider may repeat what was sent to it.
            said = said.replace(secret, "***")
        said = re.sub(r"[^\x20-\x7e]+", " ", said)[:300] or "the answer is not what a provider answers"
        retry_after = answer.headers.get("retry-after", "")
        raise _NoToken(
            f"{url} answers {answer.status}: {said}",
            final=answer.status < 500 and answer.status not in (408, 429),
            retry_after_s=float(retry_after) if re.fullmatch(r"[0-9]{1,4}", retry_after) else 0.0,
        )


def _is_loopback(url):
    host = urllib.parse.urlsplit(url).hostname
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_safe(url, plain_on_loopback=True):
    """Whether a secret may be sent to this URL."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    if not parts.hostname or "@" in parts.netloc or re.search(r"[\x00-\x20\x7f-\U0010ffff]", url):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and plain_on_loopback and _is_loopback(url))
