"""Debian packages, downloaded by apt and unpacked beside the system, which is left alone.

Called by `build`.  Nothing is installed and no root is needed; which release it is, is decided by
what apt is set up for on the building machine.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory


class BuildError(Exception):
    """The image cannot be built here; the message says why and what to do."""


def run(*command: str | Path, where: Path | None = None) -> str:
    """What a command prints.

    Raises BuildError with what it said where it fails or does not exist.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=where, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(f"{words[0]} is not installed") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()[-5:] or [f"exit status {done.returncode}"]
        raise BuildError(f"{' '.join(words[:4])}: " + "\n  ".join(said))
    return done.stdout


def closure(seeds: Iterable[str], without: Collection[str]) -> list[str]:
    """The packages and everything they depend on, sorted; `without` and what only they need are
    left out."""
    seeds = list(seeds)
    wanted = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    options = [f"--no-{word}" for word in wanted]
    said = run("apt-cache", "depends", "--recurse", *options, *seeds)
    needs: dict[str, list[str]] = {}
    here: list[str] = []
    for line in said.splitlines():
        if not line.startswith((" ", "|")):
            here = needs.setdefault(line.strip(), [])
        elif found := re.fullmatch(r" +(?:Pre)?Depends: ([^<>]+)", line):
            here.append(found.group(1))
    if missing := [name for name in seeds if name not in needs]:
        raise BuildError(f"apt knows no package {', '.join(missing)}: apt-get update")
    chosen: set[str] = set()
    waiting = seeds
    while waiting:
        name = waiting.pop()
        if name in needs and name not in chosen and name not in without:
            chosen.add(name)
            waiting += needs[name]
    return sorted(chosen)


def kernel_package(meta: str) -> str:
    """The package with the kernel itself that `meta` stands for, as linux-image-amd64 does."""
    found = re.findall(r"Depends: (linux-image-[0-9]\S+)", run("apt-cache", "depends", meta))
    if not found:
        raise BuildError(f"apt knows no kernel for {meta}: apt-get update")
    return str(found[0])


def download(packages: Collection[str], into: Path) -> list[Path]:
    """The packages' files, in `into`; those that are there already are not fetched again."""
    into.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as empty:  # apt names only what is not in the folder yet
        said = run("apt-get", "download", "-q", "--print-uris", *packages, where=Path(empty))
    names = re.findall(r"^'\S+' (\S+\.deb) ", said, re.M)
    if len(names) < len(packages):
        raise BuildError(f"apt offers {len(names)} of {len(packages)} packages: apt-get update")
    if not all((into / name).exists() for name in names):
        run("apt-get", "download", "-q", *packages, where=into)
    return [into / name for name in names]


def unpack(files: Iterable[Path], into: Path) -> None:
    """Unpack packages into one tree."""
    for file in files:
        run("dpkg-deb", "--extract", file, into)


class UnpackedPackages:
    """Unpacked packages whose programs can be run where they are, by their own loader."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._libraries = ":".join(
            str(root / folder) for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
        )

    def command(self, program: Path, *, listing: bool = False) -> list[str | Path]:
        """How to run a program of the tree; `listing`: have its libraries listed instead."""
        loader = self.root / "lib64/ld-linux-x86-64.so.2"
        options = ["--list"] if listing else []
        return [loader, "--library-path", self._libraries, *options, program]

    def libraries(self, program: Path) -> list[Path]:
        """The shared libraries a program or library needs, its loader among them."""
        said = run(*self.command(program, listing=True))
        if missing := re.findall(r"(\S+) => not found", said):
            raise BuildError(f"{program.name} needs {', '.join(missing)}: no package brings it")
        return [Path(name) for name in re.findall(r"=> (/\S+)", said)]
