"""Downloading a file over HTTP: resumable, with retries, and never half written under its own name.

The bytes that have arrived are in ``NAME.part``; ``NAME.part.json`` says which version of which file they belong to
(address, length, ETag or date). Both stay after an interruption. A download is continued with `If-Range`: a file that
has changed on the server starts from the beginning instead of being appended to the old part.
"""

from __future__ import annotations

import errno
import http.client
import json
import logging
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mltrain.errors import DataError
from mltrain.progress import Meter, amount

log = logging.getLogger(__name__)

BLOCK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)
PASSING = (408, 425, 429)  # temporary errors, as are all from 500: worth another try
OTHER_VERSION = "the server has another version of the file than the part that was here"


class _Cut(Exception):
    """The connection failed; another try may succeed. `hopeless`: not if nothing has ever arrived."""

    def __init__(self, reason: str, *, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


class _Refused(Exception):
    """The server does not have the file, or refuses to send it."""


class _Version(NamedTuple):
    """The file, and its version, that a partial file belongs to."""

    url: str
    size: int | None
    mark: str | None
    """ETag or date, for If-Range"""


def download(
    urls: Sequence[str],
    place: Path,
    *,
    timeout: float = 30.0,
    tries: int = 8,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Download a file from the first of `urls` that has it to `place`, whose folder exists.

    A try that brings no byte is followed by a pause of 1, 2, 4 ... 60 seconds; after `tries` of them in a row the next
    address follows. An address that has never answered and whose host name is unknown gets no second try.

    Args:
        urls: addresses of the same file, http or https.
        place: path of the file; it is replaced if it exists.
        timeout: seconds without a byte after which a connection counts as lost.
        tries: number of tries in a row without a byte, per address.
        sleep: waits between tries.

    Raises:
        DataError: no address gives the file (the message has the reason of each), or the disk is full. The bytes that
            have arrived stay.
    """
    reasons = []
    for url in urls:
        try:
            _download_from(url, place, timeout, tries, sleep)
        except (_Cut, _Refused) as error:
            reasons.append(f"  {url}: {error}")
            continue
        except OSError as error:
            raise disk_error(error, place) from error
        return
    have = _size(_part(place))
    kept = f"; the {amount(have)} that arrived are kept and continued" if have else ""
    proxy = "set http_proxy and https_proxy if this machine needs a proxy" if not have else "check the connection"
    raise DataError(
        f"{place.name} could not be downloaded:\n"
        + "\n".join(reasons)
        + f"\nRepeat the command later{kept}; {proxy}. Or bring the file from elsewhere: {place.absolute()}"
    )


def disk_error(error: OSError, place: Path, key: str = "dataset.root=FOLDER") -> DataError:
    """Return the error for a failure to write `place`; `key` is the option that chooses another place."""
    if error.errno in FULL:
        free = shutil.disk_usage(place.parent).free
        return DataError(
            f"{place}: the disk is full ({amount(free)} free). Finished work stays: free some space and repeat the "
            f"command, or choose another disk with {key}"
        )
    return DataError(f"{place}: cannot be written ({error.strerror or error}); choose another place with {key}")


def _part(place: Path) -> Path:
    return place.with_name(place.name + ".part")


def _note(place: Path) -> Path:
    """Return the path of the note on what a part is a part of."""
    return place.with_name(place.name + ".part.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download_from(url: str, place: Path, timeout: float, tries: int, sleep: Callable[[float], None]) -> None:
    part = _part(place)
    failed = 0
    arrived = False
    with Meter(place.name, None) as meter:
        while True:
            before = _size(part)
            try:
                _try(url, place, timeout, meter)
                return
            except _Cut as cut:
                now = _size(part)
                arrived = arrived or now > before
                failed = 0 if now > before else failed + 1
                if failed >= tries or (cut.hopeless and not arrived):
                    raise
                pause = min(2.0 ** max(failed - 1, 0), 60.0)
                log.info("%s: %s; %s so far, trying again in %.0f s", place.name, cut, amount(now), pause)
            sleep(pause)


def _try(url: str, place: Path, timeout: float, meter: Meter) -> None:
    """Send one request; the file is in its place when this returns."""
    part, note = _part(place), _note(place)
    known = _noted(note)
    have = _size(part)
    if known is None or known.url != url:
        have = 0  # the part may belong to another file
    headers = {"User-Agent": "mltrain", "Accept-Encoding": "identity"}
    if have and known is not None:
        headers["Range"] = f"bytes={have}-"
        if known.mark:
            headers["If-Range"] = known.mark
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and known is not None and have:
            if _range(error)[1] == have == known.size:
                _finish(part, note, place)
                return
            part.unlink()
            raise _Cut(OTHER_VERSION) from error
        if error.code in PASSING or error.code >= 500:
            raise _Cut(f"the server says {error.code} {error.reason}") from error
        raise _Refused(f"the server says {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _failure(error) from error
    with response:
        first: int | None = 0
        length = response.headers.get("Content-Length")
        size = int(length) if length and length.isdigit() else None
        if response.status == 206:
            first, size = _range(response)
            if first != have or known is None or size != known.size:
                part.unlink(missing_ok=True)
                raise _Cut(OTHER_VERSION)
        elif have:
            log.info("%s: the server cannot continue a download, or has a new version; from the beginning", place.name)
        have_now = first or 0
        if not have_now:
            part.unlink(missing_ok=True)
            etag = response.headers.get("ETag", "")
            mark = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
            note.write_text(json.dumps(_Version(url, size, mark)._asdict()), encoding="utf-8")
        require_space(str(place), place.parent, (size or 0) - have_now)
        meter.restart(have_now, size)
        with part.open("ab") as stream:
            _receive(response, stream, meter)
    got = part.stat().st_size
    if size is not None and got < size:
        raise _Cut(f"the connection closed after {amount(got)} of {amount(size)}")
    _finish(part, note, place)


def _receive(response: Any, stream: BinaryIO, meter: Meter) -> None:
    while True:
        try:
            block = response.read1(BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _failure(error) from error
        if not block:
            return
        stream.write(block)
        meter.add(len(block))


def _finish(part: Path, note: Path, place: Path) -> None:
    part.replace(place)
    note.unlink(missing_ok=True)


def forget_part(place: Path) -> None:
    """Remove what a download that was killed just before its end has left beside the finished file."""
    _note(place).unlink(missing_ok=True)


def require_space(what: str, folder: Path, needed: int) -> None:
    """Raise DataError unless `folder` has room for `needed` more bytes of `what`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{what} needs {amount(needed)} in {folder}, and {amount(free)} are free; free some space and "
            "repeat the command, or choose another disk with dataset.root=FOLDER"
        )


def _noted(note: Path) -> _Version | None:
    try:
        data = json.loads(note.read_text(encoding="utf-8"))
        return _Version(str(data["url"]), data["size"], data["mark"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _range(response: Any) -> tuple[int | None, int | None]:
    """Return the first byte of a response and the size of the whole file, as far as its Content-Range has them."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", response.headers.get("Content-Range", ""))
    first, total = found.groups() if found else (None, None)
    return None if first is None else int(first), None if total is None else int(total)


def _failure(error: Exception) -> _Cut | _Refused:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _Refused(f"its certificate is not valid ({cause.verify_message})")
    if isinstance(cause, socket.gaierror):
        return _Cut(f"the name is not known ({cause.strerror}): no connection to the internet?", hopeless=True)
    if isinstance(cause, TimeoutError):
        return _Cut("no answer in time")
    if isinstance(cause, ConnectionRefusedError):
        return _Cut("the connection was refused", hopeless=True)
    if isinstance(cause, OSError) and cause.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return _Cut(f"{cause.strerror}: no connection to the internet?", hopeless=True)
    text = cause.strerror or str(cause) if isinstance(cause, OSError) else f"{type(cause).__name__} {cause}"
    return _Cut(text.strip())
