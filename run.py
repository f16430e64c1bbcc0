#!/usr/bin/env python3
"""Starts samband from a checkout with nothing but Python: ``python3 run.py demo``, ``python3 run.py test``.

The first call makes ``.venv`` beside this file and installs samband, its plugins and (for ``test`` and ``check``) the
tools these need, at the versions that ``constraints.txt`` names. Later calls start at once, until one of those files
changes. ``test`` runs pytest (without arguments the whole suite, in several processes), ``check`` runs
``scripts/check``; everything else goes to the ``samband`` command as it stands. uv is used when it is on the PATH, and
is not needed (``SAMBAND_NO_UV=1`` leaves it alone).

This file must stay readable for old interpreters, so that they can say what is wrong instead of a syntax error.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - this is the line that tells people about it
    sys.exit(
        "samband needs Python 3.11 or newer, and this is Python %d.%d. "  # noqa: UP031
        "Install a newer one and start it by its name, for instance: python3.12 run.py demo" % sys.version_info[:2]
    )

import tomllib
import venv

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = ENVIRONMENT / "samband.stamp"
CONSTRAINTS = ROOT / "constraints.txt"
LEVELS = ["run", "test", "check"]  # each installs what the one before it does, and more


def main(arguments: list[str]) -> None:
    """Makes the environment fit, then becomes the command that was asked for."""
    level = arguments[0] if arguments[:1] in (["test"], ["check"]) else "run"
    with _one_at_a_time():
        _prepare(level)
    if level == "run":
        if not Path("plugins.toml").exists():  # started from somewhere else than the checkout
            os.environ.setdefault("SAMBAND_PLUGINS_FILE", str(ROOT / "plugins.toml"))
        _become([str(PYTHON), "-m", "samband", *arguments])
    os.chdir(ROOT)
    if level == "test":
        _become([str(PYTHON), "-m", "pytest", *(arguments[1:] or _side_by_side())])
    _become([str(ROOT / "scripts" / "check"), *arguments[1:]])


def _side_by_side() -> list[str]:
    """Gives the options of a whole run: the tests wait for servers and disks more than they compute."""
    return ["--numprocesses", str(max(2, os.cpu_count() or 1)), "--dist", "worksteal"]


@contextlib.contextmanager
def _one_at_a_time():
    """Keeps two calls from filling the environment at once, by a lock on this very file."""
    with open(__file__, "rb") as handle:
        # Windows has no fcntl; there, two first starts at once are a person's own doing.
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _prepare(level: str) -> None:
    wanted = _fingerprint()
    have = STAMP.read_text(encoding="utf-8").split() if STAMP.exists() and _answers(PYTHON) else []
    if have[:1] == [wanted] and level in have[1:]:
        return
    sys.stderr.write(f"Setting up {ENVIRONMENT} (once; about half a minute) …\n")
    STAMP.unlink(missing_ok=True)
    _install(_requirements(level))
    STAMP.write_text(" ".join([wanted, *LEVELS[: LEVELS.index(level) + 1]]), encoding="utf-8")


def _fingerprint() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in (CONSTRAINTS, ROOT / "pyproject.toml", *_plugin_files()):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _plugin_files() -> list[Path]:
    return sorted(ROOT.glob("plugins/*/pyproject.toml"))


def _requirements(level: str) -> list[str]:
    """Gives what pip is to install: this checkout and its plugins, editable, and the tools the level needs."""
    extras = "postgres" if level == "run" else "postgres,testing"
    wanted = ["-e", f"{ROOT}[{extras}]"]
    for path in _plugin_files():
        wanted += ["-e", str(path.parent)]
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    return wanted + _group(groups, {"run": "", "test": "test", "check": "dev"}[level])


def _group(groups: dict, name: str) -> list[str]:
    """Gives the requirements of a dependency group, which pip itself reads only since 25.1."""
    found = []
    for entry in groups.get(name, ()):
        if isinstance(entry, dict):
            found += _group(groups, entry["include-group"])
        elif not entry.startswith("samband"):
            found.append(entry)
    return found


def _install(wanted: list[str]) -> None:
    uv = None if os.environ.pop("SAMBAND_NO_UV", "") else shutil.which("uv")
    if not _answers(PYTHON):
        _make_environment(with_pip=uv is None)
    if uv:
        command = [uv, "pip", "install", "--quiet", "--python", str(PYTHON)]
    else:
        if not _answers(PYTHON, "-m", "pip", "--version"):  # uv makes environments without pip
            _make_environment(with_pip=True)
        command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["-c", str(CONSTRAINTS), *wanted]
    done = subprocess.run(command, cwd=ROOT, check=False)  # noqa: S603 - fixed programs, no shell, here and below
    if done.returncode:
        sys.exit(f"The installation into {ENVIRONMENT} failed; the lines above say why. Mend it and run this again.")


def _make_environment(with_pip: bool) -> None:
    if with_pip and not _answers(Path(sys.executable), "-c", "import ensurepip"):
        sys.exit(
            "This Python lacks the modules that make virtual environments. On Debian and Ubuntu run: "
            "apt install python3-venv (or put uv on the PATH), then run this again."
        )
    venv.create(ENVIRONMENT, with_pip=with_pip, clear=not _answers(PYTHON), symlinks=os.name != "nt")


def _answers(program: Path, *arguments: str) -> bool:
    """Says whether a program runs; an environment whose interpreter was removed or upgraded does not."""
    try:
        command = [str(program), *(arguments or ("-c", "import sys; sys.exit(sys.version_info < (3, 11))"))]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False


def _become(command: list[str]) -> None:
    """Replaces this process, so that signals and the exit code are the command's own."""
    if os.name == "nt":
        sys.exit(subprocess.run(command, check=False).returncode)  # noqa: S603
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
