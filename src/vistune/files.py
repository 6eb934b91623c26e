"""Files and folders that are complete or absent: atomic writes, commits by rename, locks; JSON, YAML and checksums."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import IO, Any, NoReturn, TypeAlias
from uuid import uuid4

import yaml

from vistune.errors import DataError, DiskError, RecipeError

JsonValue: TypeAlias = Any  # a parsed JSON or YAML value, whose form the caller checks


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that readers see either the old or the complete new file, even after a power cut."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to fill; it replaces `path` when the block ends without an error.

    Raises DiskError if it cannot be written; no part of the new file remains then.
    """
    draft: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.tmp-")
        draft = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)
        os.replace(draft, path)
        sync_folder(path.parent)
    except BaseException as error:
        if draft is not None:
            draft.unlink(missing_ok=True)
        if not isinstance(error, OSError) or isinstance(error, DiskError):
            raise
        raise DiskError(
            f"{path}: cannot be written: {error.strerror or error}",
            "free disk space or repair the disk, then run the same command again",
        ) from error


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def committed_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to fill; it is renamed to `path` when the block ends without an error.

    An older folder of that name is renamed first: after a kill at any moment, `path` is the old one, the new one or
    absent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.tmp-"))
    # mkdtemp makes private folders; new folders are readable.
    os.chmod(draft, 0o755)  # noqa: S103  # nosec B103
    older = draft.with_name(f"{draft.name}-old")
    try:
        yield draft
        for file in draft.rglob("*"):
            if file.is_file():
                with open(file, "rb") as written:
                    os.fsync(written.fileno())
        if path.is_dir():
            os.replace(path, older)
        os.replace(draft, path)
    except BaseException:
        if older.exists() and not path.exists():
            os.replace(older, path)
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(path.parent)
    if older.exists():
        shutil.rmtree(older)


class Lock:
    """A lock file: one process per folder. The kernel releases it when its process dies, so it is never stale."""

    def __init__(self, path: Path) -> None:
        self.file: IO[str] = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - held open as long as the lock
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # held on this machine or, on a network disk, on another one
            self.file.seek(0)
            holder = self.file.read().strip() or "another process"
            self.file.close()
            raise RecipeError(
                f"{path.parent}: in use by {holder}", "wait for it to end, or give another --out"
            ) from None
        self.file.truncate(0)
        self.file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self.file.flush()

    def release(self) -> None:
        self.file.truncate(0)
        self.file.close()


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a temporary folder in `parent` and remove it at the end.

    Folders that killed processes left there are removed too.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob("*.lock"):
        with suppress(RecipeError, OSError):  # in use
            _remove(left.with_suffix(""), Lock(left))
    folder = parent / uuid4().hex
    lock = Lock(folder.with_suffix(".lock"))  # before the folder exists: another process never removes a folder in use
    folder.mkdir()
    try:
        yield folder
    finally:
        _remove(folder, lock)


def _remove(folder: Path, lock: Lock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".lock").unlink(missing_ok=True)
    lock.release()


def refuse_overwrite(out: Path, name: str) -> None:
    """Raise RecipeError if `out` is a file, or a folder with a file `name` that an earlier call wrote."""
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out}: is a file, expected a folder", "give another folder")
    if (out / name).exists():
        raise RecipeError(f"{out}: already has {name}", "give another folder, or remove this one")


def write_json(path: Path, value: object) -> None:
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> JsonValue:
    """Read a JSON file. Raises DataError that names the file and line of a syntax error."""
    return parse_json(read_text(path), str(path), first_line=1)


def read_json_if_there(path: Path) -> JsonValue:
    """Read a JSON file; None if it does not exist."""
    return read_json(path) if path.is_file() else None


def read_jsonl(path: Path) -> Iterator[tuple[int, JsonValue]]:
    """Yield (line number, value) of every non-blank line. Raises DataError at the first bad one."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, parse_json(line, str(path), first_line=number)


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte-order mark."""
    return decoded(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read a user's file. Raises DataError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", "check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, expected a file", "name the file inside it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", "check the path and its permissions") from None


def decoded(content: bytes, path: Path) -> str:
    """Decode a file's bytes. Raises DataError that names the line that is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8 (byte {error.start})", "save the file as UTF-8") from None


def parse_json(text: str, name: str, *, first_line: int) -> JsonValue:
    """Parse strict JSON; NaN and Infinity are refused. `name` names the file in errors."""

    def refuse(constant: str) -> NoReturn:
        raise DataError(f"{name}:{first_line}: {constant} is not JSON", "write a number or null")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise DataError(
            f"{name}:{line}: not JSON at column {error.colno}: {error.msg}", "correct or remove the line"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise DataError(f"{name}:{first_line}: cannot be read as JSON: {str(error)[:80]}", "correct it") from None


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: only true/false are booleans, `1e-4` is a number; a repeated key is an error."""


_OTHER_SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OTHER_SCALARS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|nan)$"),
    list("-+.0123456789"),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[object, object]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key is a list or a mapping", key_node.start_mark)
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} occurs twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
# PyYAML reads 010 as an octal number, YAML 1.2 as ten and 0o10 as eight.
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(node.value, {"0o": 8, "0x": 16}.get(node.value[:2], 10)),
)


def parse_yaml(text: str, name: str) -> JsonValue:
    """Parse YAML strictly: YAML 1.2 scalars, no tags, no repeated key, no aliases (nested ones grow without bound).

    Raises RecipeError with `name` and the line.
    """
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
            raise RecipeError(f"{name}: YAML aliases (*name) are not read", "write the value out")
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{name}{line}: not YAML: {getattr(error, 'problem', error)}", "correct the line") from None
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # PyYAML's own constructors, on a tag that does not fit its value, a number of thousands of digits, or brackets
        # without end.
        raise RecipeError(
            f"{name}: cannot be read as YAML: {str(error)[:80]}",
            "use only mappings, lists, strings, numbers, true, false and null",
        ) from None


def user_cache() -> Path:
    """Return the cache folder: VISTUNE_CACHE, else `vistune` in XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get("VISTUNE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vistune"


@cache
def own_code(*paths: str) -> str:
    """Return a checksum of these files of the package.

    Caches use it as a key, so that another version of the code does not read them.

    Args:
        paths: Files or folders of the package, such as `processor` or `model/vision.py`.
    """
    digest = hashlib.sha256()
    for path in paths:
        named = resources.files("vistune").joinpath(path)
        entries = sorted(named.iterdir(), key=lambda entry: entry.name) if named.is_dir() else [named]
        for entry in entries:
            if entry.name.endswith((".py", ".json")):
                digest.update(entry.read_bytes())
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
