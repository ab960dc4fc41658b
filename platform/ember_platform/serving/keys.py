"""Bearer keys: several, hashed at rest, revocable while the server runs, each with its rate and quota.

    python -m ember_platform.serving.keys create --file keys.yaml --name "warehouse" --rate 600 --quota 100000
    python -m ember_platform.serving.keys list --file keys.yaml
    python -m ember_platform.serving.keys revoke --file keys.yaml --id 1a2b3c4d

`create` prints the key once; the file holds only its sha256. A secret has 256 random bits, so that a slow hash would
add nothing: there is no list of likely secrets to try.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import logging
import os
import re
import secrets
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from ember_platform.config_data import Section
from ember_platform.serving.problems import ProblemError

logger = logging.getLogger(__name__)

_TOKEN = re.compile(r"ember_([0-9a-f]{8})_([A-Za-z0-9_-]{20,100})")
_NOBODY = hashlib.sha256(b"nobody").hexdigest()


class KeyFileError(ValueError):
    """A key file that cannot be used. The message names it and what is wrong."""


class Key(Section):
    """One key as the file holds it."""

    id: str = Field(pattern=r"^[0-9a-f]{8}$", description="eight hex digits, part of the key, no secret")
    name: str = Field(min_length=1, max_length=100, description="whose it is, for people")
    owner: str = Field(default="", max_length=100, description="keys of one owner share fleets; empty: the id")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the secret")
    rate_per_minute: int | None = Field(default=None, ge=1, description="questions a minute, or null: no limit")
    quota_per_day: int | None = Field(default=None, ge=1, description="questions a day (UTC), or null: no limit")
    expires: datetime | None = Field(default=None, description="ISO 8601 with a time zone, or null: never")
    revoked: bool = Field(default=False, description="true: no longer valid")

    @property
    def tenant(self) -> str:
        """Whose fleets it sees."""
        return self.owner or self.id

    def valid_at(self, when: datetime) -> bool:
        """Whether it opens anything at that time."""
        return not self.revoked and (self.expires is None or when < self.expires)


class KeyRing(Section):
    """The content of a key file."""

    keys: list[Key] = Field(default=[], description="all keys, revoked ones included")


#: Who asks where no keys are asked for.
ANYONE = Key(id="00000000", name="anyone", owner="anyone", sha256=_NOBODY)


class Keys:
    """The keys of a file, read again when it changes. Without a file everyone is `ANYONE`.

    Raises:
        KeyFileError: at the start, where the file cannot be used. Later the last good content stays in force.
    """

    def __init__(self, path: str | None) -> None:
        self.path = Path(path) if path else None
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}
        if self.path is not None:
            self._stamp = _stamp(self.path)
            self._keys = {key.id: key for key in read_keys(self.path).keys}

    @property
    def required(self) -> bool:
        """Whether a key is asked for."""
        return self.path is not None

    def __len__(self) -> int:
        return len(self._keys)

    def refresh(self) -> None:
        """Read the file again where it has changed."""
        if self.path is None:
            return
        try:
            stamp = _stamp(self.path)
            if stamp == self._stamp:
                return
            self._keys = {key.id: key for key in read_keys(self.path).keys}
            self._stamp = stamp
            logger.info("keys: read again, %d in the file", len(self._keys))
        except KeyFileError as error:
            logger.error("keys: the file was changed and cannot be used, the keys read before stay in force: %s", error)

    def identify(self, authorization: str | None) -> Key:
        """The key of an `Authorization` header.

        Raises:
            ProblemError: there is none, or none that is valid; not told apart for the caller.
        """
        if not self.required:
            return ANYONE
        scheme, _, token = (authorization or "").partition(" ")
        match = _TOKEN.fullmatch(token.strip()) if scheme.lower() == "bearer" else None
        key = self._keys.get(match[1]) if match else None
        given = hashlib.sha256((match[2] if match else "").encode()).hexdigest()
        # Compared whether or not the id is known, so that time tells nothing about ids.
        same = hmac.compare_digest(given, key.sha256 if key else _NOBODY)
        if key is None or not same or not key.valid_at(datetime.now(UTC)):
            raise ProblemError("unauthorized", "Send a valid key: Authorization: Bearer ember_…")
        return key


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read ({error.strerror})") from error
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_keys(path: Path) -> KeyRing:
    """The keys of a YAML or JSON file.

    Raises:
        KeyFileError: cannot be read, or is not as described.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        ring = KeyRing.model_validate(data if data is not None else {})
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path}: not valid YAML") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors(include_input=False))
        raise KeyFileError(f"{path}: {faults}") from error
    ids = [key.id for key in ring.keys]
    if len(set(ids)) != len(ids):
        raise KeyFileError(f"{path}: two keys have the same id")
    for key in ring.keys:
        if key.expires is not None and key.expires.tzinfo is None:
            raise KeyFileError(f"{path}: key {key.id}: expires has no time zone; write 2030-01-31T00:00:00Z")
    return ring


def write_keys(path: Path, ring: KeyRing) -> None:
    """Write a key file at once, readable by its owner only."""
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(ring.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    part.replace(path)


def new_key(
    name: str, owner: str = "", rate: int | None = None, quota: int | None = None, days: float | None = None
) -> tuple[Key, str]:
    """A key and the text that its holder sends; the text is not kept anywhere."""
    secret = secrets.token_urlsafe(32)
    key = Key(
        id=secrets.token_hex(4),
        name=name,
        owner=owner,
        sha256=hashlib.sha256(secret.encode()).hexdigest(),
        rate_per_minute=rate,
        quota_per_day=quota,
        expires=None if days is None else datetime.now(UTC) + timedelta(days=days),
    )
    return key, f"ember_{key.id}_{secret}"


# ---------------------------------------------------------------- rates and quotas

#: Key id → (what window, questions in it), per kind of window.
Counts = dict[str, dict[str, tuple[int, int]]]
WINDOWS = {"minute": 60, "day": 86_400}


class Usage:
    """Questions per key in the running minute and day.

    A replica counts its own at once and learns of the others' when it syncs, so that a request waits for nobody. What
    several replicas let through together may exceed a limit by what arrives within one sync interval.
    """

    def __init__(self) -> None:
        self._total: Counts = {}
        self._unsent: Counts = {}

    def take(self, key: Key, questions: int, now: float | None = None) -> dict[str, str]:
        """Count questions, and give the headers that tell what is left.

        Raises:
            ProblemError: the minute's rate or the day's quota does not allow so many.
        """
        now = time.time() if now is None else now
        headers = {}
        for kind, limit, slug in (
            ("minute", key.rate_per_minute, "rate-limited"),
            ("day", key.quota_per_day, "quota-exhausted"),
        ):
            if limit is None:
                continue
            window, seconds = int(now // WINDOWS[kind]), WINDOWS[kind]
            left = (
                limit - self._count(self._total, key.id, kind, window) - self._count(self._unsent, key.id, kind, window)
            )
            reset = (window + 1) * seconds - now
            if kind == "minute":
                headers = {
                    "RateLimit-Limit": str(limit),
                    "RateLimit-Remaining": str(max(0, left - questions)),
                    "RateLimit-Reset": str(int(reset) + 1),
                }
            if questions > left:
                text = f"This key may ask {limit} questions a {kind}; {max(0, left)} are left."
                raise ProblemError(slug, text, retry_after_s=reset, headers=headers)
        for kind, seconds in WINDOWS.items():
            window = int(now // seconds)
            count = self._count(self._unsent, key.id, kind, window)
            self._unsent.setdefault(key.id, {})[kind] = (window, count + questions)
        return headers

    @staticmethod
    def _count(counts: Counts, key: str, kind: str, window: int) -> int:
        at, count = counts.get(key, {}).get(kind, (window, 0))
        return count if at == window else 0

    def unsent(self) -> Counts:
        """What was counted since the last call, to be added to the others'; it counts as total from now on."""
        sent, self._unsent = self._unsent, {}
        self._total = added(self._total, sent)
        return sent

    def learn(self, total: Counts) -> None:
        """Take over what all replicas have counted together."""
        self._total = total


def added(counts: Counts, more: Counts) -> Counts:
    """Two counts as one; of different windows the later one counts."""
    result = {key: dict(kinds) for key, kinds in counts.items()}
    for key, kinds in more.items():
        for kind, (window, count) in kinds.items():
            at, before = result.get(key, {}).get(kind, (window, 0))
            if at > window:
                continue
            result.setdefault(key, {})[kind] = (window, count + (before if at == window else 0))
    return result


# ---------------------------------------------------------------- the command line


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    program = argparse.ArgumentParser(prog="python -m ember_platform.serving.keys", description="The endpoint's keys.")
    commands = program.add_subparsers(dest="command", required=True)
    for name, text in (("create", "make a key and print it once"), ("list", "list them"), ("revoke", "end one")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--file", type=Path, required=True, help="the key file (serving.keys)")
        if name == "revoke":
            command.add_argument("--id", required=True, help="its eight hex digits")
        if name == "create":
            command.add_argument("--name", required=True, help="whose it is")
            command.add_argument("--owner", default="", help="keys of one owner share registered fleets")
            command.add_argument("--rate", type=int, help="questions a minute (default: no limit)")
            command.add_argument("--quota", type=int, help="questions a day (default: no limit)")
            command.add_argument("--days", type=float, help="days until it expires (default: never)")
    return program


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        ring = read_keys(args.file) if args.command != "create" or args.file.exists() else KeyRing()
        if args.command == "create":
            key, text = new_key(args.name, args.owner, args.rate, args.quota, args.days)
            write_keys(args.file, KeyRing(keys=[*ring.keys, key]))
            print(text)
        elif args.command == "revoke":
            if args.id not in {key.id for key in ring.keys}:
                raise KeyFileError(f"{args.file}: no key has the id {args.id}")
            keys = [key.model_copy(update={"revoked": True}) if key.id == args.id else key for key in ring.keys]
            write_keys(args.file, KeyRing(keys=keys))
        else:
            now = datetime.now(UTC)
            for key in ring.keys:
                print(f"{key.id}  {'valid' if key.valid_at(now) else 'ended'}  {key.name}")
    except (KeyFileError, ValidationError) as error:
        print(f"keys: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
