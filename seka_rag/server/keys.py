"""Keys of a server, by name, so that the log says whose request it was and one key can be revoked."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr

from seka_rag.errors import AccessError, SettingError
from seka_rag.server.errors import Unavailable, log
from seka_rag.server.settings import clean_key

_CHECK_EVERY = 1.0  # seconds between looks at the file


class Keys:
    """Who may ask: the key of the settings, which is named "default", and those of a file.

    Each line of the file is ``name key``; empty lines and lines that begin with # count for nothing. The file is read again
    when it has changed. As long as it cannot be read, nobody gets in.

    Raises:
        SettingError: a file that cannot be read or holds no key, or two of one name.
    """

    def __init__(self, api_key: SecretStr | None, file: Path | None) -> None:
        self._fixed = {} if api_key is None else {"default": api_key.get_secret_value()}
        self._file, self._stamp, self._looked = file, _stamp(file), time.monotonic()
        self._keys: Mapping[str, tuple[bytes, ...]] | None = self._read()

    @property
    def required(self) -> bool:
        return bool(self._fixed) or self._file is not None

    def name_of(self, authorization: bytes) -> str | None:
        """The name of the key in a header ``Authorization: Bearer KEY``; None where no key is required.

        Raises:
            AccessError: it is missing or wrong.
            Unavailable: the file of keys cannot be read at the moment.
        """
        if not self.required:
            return None
        self._look()
        if self._keys is None:
            raise Unavailable("the server's keys cannot be read; its log says why")
        scheme, _, value = authorization.partition(b" ")
        given = _digest(value.strip()) if scheme.lower() == b"bearer" else b""
        found = None
        for name, digests in self._keys.items():  # all of them, so that the time does not tell which
            for digest in digests:
                found = name if hmac.compare_digest(given, digest) else found
        if found is None:
            raise AccessError("this server wants its key, as the header Authorization: Bearer KEY")
        return found

    def _look(self) -> None:
        now = time.monotonic()
        if self._file is None or now - self._looked < _CHECK_EVERY:
            return
        self._looked, stamp = now, _stamp(self._file)
        if stamp != self._stamp or self._keys is None:
            self._stamp = stamp
            try:
                self._keys = self._read()
                log.info("keys read again: %s", ", ".join(self._keys))
            except SettingError as error:
                self._keys = None
                log.error("%s. Nobody gets in until it is mended", error)

    def _read(self) -> dict[str, tuple[bytes, ...]]:
        keys = dict(self._fixed)
        if self._file is not None:
            try:
                lines = self._file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingError(f"cannot read the file of keys {self._file}: {error}") from None
            for number, line in enumerate(lines, 1):
                name, *rest = line.split(maxsplit=1) or [""]
                if not name or name.startswith("#"):
                    continue
                where = f"the key in line {number} of {self._file}"
                if not re.fullmatch(r"[\w.-]{1,64}", name) or not rest:
                    raise SettingError(
                        f"line {number} of {self._file}: write a name of letters and digits, and the key"
                    )
                if name in keys:
                    raise SettingError(f"{self._file} has two keys of the name {name!r}")
                keys[name] = clean_key(rest[0], where)
            if not keys:
                raise SettingError(f"{self._file} holds no key: write one a line, as name and key")
        return {name: _forms(key) for name, key in keys.items()}


def _forms(key: str) -> tuple[bytes, ...]:
    """A header is bytes, and clients write characters beyond ASCII as UTF-8 or as Latin-1."""
    written = {key.encode("utf-8")}
    with suppress(UnicodeEncodeError):
        written.add(key.encode("latin-1"))
    return tuple(map(_digest, sorted(written)))


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()  # of one length, so that the time of a comparison tells nothing


def _stamp(file: Path | None) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file) if file is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)
