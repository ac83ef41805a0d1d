"""Requests to one server: with the key, tried again where that helps, and with its problems raised as errors.

Tried again are connections that could not be made or broke, and the answers 429, 502 and 503: after the time that the server names, or a random
one up to a bound that doubles (exponential back-off with full jitter). What must not be done twice is only sent again where it was not received.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
import warnings
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import quote

import httpx2

from cutaway.errors import CutawayError, InputError, ServiceError
from cutaway.remote.problem import raised

PATIENCE = 60.0
"""Seconds for which a request is tried again, unless told otherwise."""
AGAIN = (429, 502, 503)
FINAL = ("done", "failed", "cancelled", "expired")
"""States in which a job has ended."""
_FIRST, _LONGEST = 0.1, 10.0
_SILENCE = 30.0
"""Seconds without a byte after which a connection is given up."""
_LOCAL = ("127.0.0.1", "localhost", "::1")


@final
@dataclass(frozen=True)
class Event:
    """Something that happened to a job. type "state": data has `state`; "progress": `label`, `done`, `total`. time: seconds since 1970."""

    number: int
    type: str
    time: float
    data: Mapping[str, Any]


@final
class Connection:
    """Speaks to the server at `url`. The key is in no text that it makes. Any thread may use it."""

    def __init__(self, url: str, key: str | None = None, patience: float = PATIENCE) -> None:
        parsed = _address(url)
        self.url, self.patience = str(parsed).rstrip("/"), patience
        headers = {} if not key else {"Authorization": f"Bearer {_clean(key)}"}
        if key and parsed.scheme == "http" and parsed.host not in _LOCAL:
            warnings.warn(f"The key travels to {self.url} readable by everybody on the way: use https.", stacklevel=4)
        timeout = httpx2.Timeout(_SILENCE, connect=10.0)
        # a proxy of the environment does not stand between two programs of one machine
        self._client = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=parsed.host not in _LOCAL)
        self._drawn = random.Random()
        self._finalizer = weakref.finalize(self, self._client.close)

    def close(self) -> None:
        """Close the connections."""
        self._finalizer()

    def __repr__(self) -> str:
        return f"<Connection {self.url}>"

    def ask(
        self,
        verb: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        once: bool = False,
        wait: float = 0.0,
    ) -> httpx2.Response:
        """One request, and its answer.

        once: it must not be done twice. wait: seconds that the server may take on top of what is usual. Raises the error that the server tells of,
        or ServiceError.
        """
        until, tries = time.monotonic() + self.patience, 0
        while True:
            stated = 0.0
            try:
                timeout = httpx2.Timeout(_SILENCE + wait, connect=10.0)
                response = self._client.request(verb, path, params=params, content=content, headers=headers, timeout=timeout)
                if response.is_success:
                    return response
                stated = _after(response)
                error, again = _refusal(response, stated), response.status_code in AGAIN and not once
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as failure:
                error, again = self._unreached(failure), True
            except httpx2.HTTPError as failure:
                error, again = self._unreached(failure), not once
            pause = max(stated, self._drawn.uniform(0.0, min(_LONGEST, _FIRST * 2**tries)))
            if not again or time.monotonic() + pause > until:
                raise error from None  # what lies behind it holds the request, and that the key
            time.sleep(pause)
            tries += 1

    def json(self, verb: str, path: str, **options: Any) -> dict[str, Any]:
        """As `ask`: the answer's JSON object. Raises ServiceError for any other."""
        response = self.ask(verb, path, **options)
        with contextlib.suppress(ValueError):
            found = response.json()
            if isinstance(found, dict):
                return found
        raise ServiceError(f"Ask {self.url}{path}.", "an answer that is no JSON object", "the address of a Cutaway server")

    def events(self, job: str, after: int = 0) -> Iterator[Event]:
        """What happens to a job, from after an event on until it has ended; goes on where a connection breaks."""
        path, until = f"/v1/jobs/{quoted(job)}/events", time.monotonic() + self.patience
        while True:
            asked = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            with contextlib.suppress(httpx2.HTTPError), self._client.stream("GET", path, headers=asked) as response:
                if not response.is_success and response.status_code not in AGAIN:
                    response.read()
                    raise _refusal(response, 0.0)
                for event in _events(response.iter_lines()) if response.is_success else ():
                    after, until = event.number, time.monotonic() + self.patience
                    yield event
                    if event.type == "state" and event.data.get("state") in FINAL:
                        return
            if time.monotonic() > until:
                raise ServiceError(f"Follow a job of {self.url}.", "a connection that breaks", "to try again; the job goes on meanwhile")
            time.sleep(self._drawn.uniform(0.0, 2 * _FIRST))

    def _unreached(self, failure: Exception) -> ServiceError:
        found = (str(failure).strip() or type(failure).__name__).partition("\n")[0]
        return ServiceError(f"Reach {self.url}.", found, "the address that `cutaway serve` prints, and a network that leads there")


def quoted(name: str) -> str:
    """A name as a part of a path."""
    return "/".join(quote(part, safe="") for part in name.split("/"))


def _address(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url if "://" in url else f"http://{url}")
    except (httpx2.InvalidURL, TypeError):
        parsed = httpx2.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or parsed.query or parsed.fragment:
        asked = url if isinstance(url, str) and "@" not in url and "?" not in url else "that address"  # it may hold a secret
        raise InputError(f"Connect to {asked}.", works="http://127.0.0.1:8000, https://models.example.org; a key goes into key=")
    return parsed


def _clean(key: str) -> str:
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or " " in key:
        raise InputError("Use a key.", "one with spaces or other characters that no key has", "what `cutaway keys issue` printed: cut_...")
    return key


def _after(response: httpx2.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), 3_600.0) if text.isascii() and text.isdigit() else 0.0


def _refusal(response: httpx2.Response, retry_after: float) -> CutawayError:
    """The error of an answer that is none of success."""
    with contextlib.suppress(ValueError):
        fields = response.json()
        if isinstance(fields, dict) and "type" in fields:
            return raised(fields, retry_after or 1.0)
    found = f"{response.status_code} {response.reason_phrase}, which tells no more"
    return ServiceError(f"Ask {response.url.copy_with(query=None)}.", found, "the address of a Cutaway server")


def _events(lines: Iterator[str]) -> Iterator[Event]:
    """Server-sent events (the HTML standard's `text/event-stream`), as far as the server uses them."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if line and name:
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                data = json.loads(fields["data"])
                told = {name: entry for name, entry in data.items() if name != "time"}
                yield Event(int(fields["id"]), fields.get("event", ""), float(data["time"]), told)
            fields = {}
