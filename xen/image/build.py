"""Builds the virtual router's image: a kernel, and the first file system it unpacks.

    vmlinuz-router   Debian's cloud kernel as raw ELF
    initrd-router    busybox, three modules, and the root file system as one squashfs

The root file system holds BIRD, iproute2, busybox, and Python with what routerd needs and no more.
It stays packed in memory: a page of it is unpacked when it is used.  docs/xen.md says why this
kernel and what the sizes are.  Called by `scripts/router-image`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path

from lab.own_folder import NotOurFolderError, take
from xen.image import bzimage, debian
from xen.image.cpio import Archive
from xen.image.debian import BuildError, UnpackedPackages, run

ROOT = Path(__file__).resolve().parents[2]
GUEST = Path(__file__).resolve().parent / "guest"
KERNEL, INITRD = "vmlinuz-router", "initrd-router"
KERNEL_META = "linux-image-cloud-amd64"
IN_ROUTER = ("bird2", "busybox-static", "iproute2", "python3-minimal", "python3-zmq")
FOR_BUILDING = ("lz4", "squashfs-tools")
# fmt: off
WITHOUT = frozenset((
    "perl", "perl-base", "debconf", "cdebconf", "debconf-2.0", "ucf", "adduser", "dpkg", "mailcap",
    "init-system-helpers", "media-types", "python3-cffi-backend", "python3-py", "sensible-utils",
    "python3-pkg-resources", "install-info", "libpam0g", "libpam-modules", "libpam-modules-bin",
))
"""What packages depend on for their installation, or for features that are not used here."""
# fmt: on
FIRST_MODULES = ("loop", "squashfs")
MODULES = ("xen-netfront",)
PROGRAMS = {"bird": "usr/sbin/bird", "birdc": "usr/sbin/birdc", "ip": "bin/ip"}
# fmt: off
STDLIB_UNUSED = (
    "asyncio", "cgi", "cgitb", "config-*", "ctypes/macholib", "curses", "dbm", "distutils",
    "doctest", "email", "ensurepip", "ftplib", "html", "http", "idlelib", "imaplib",
    "importlib/metadata", "lib-dynload", "lib2to3", "mailbox", "multiprocessing", "nntplib",
    "optparse", "pdb", "pickletools", "plistlib", "poplib", "pydoc", "pydoc_data", "_pydecimal",
    "_pyio", "smtpd", "smtplib", "sqlite3", "statistics", "_strptime", "_sysconfigdata*", "tarfile",
    "telnetlib", "test", "tkinter", "tomllib", "turtle", "turtledemo", "unittest", "urllib/request",
    "venv", "webbrowser", "wsgiref", "xml", "xmlrpc", "zipfile", "zoneinfo", "LICENSE*",
)
# fmt: on
EXTENSIONS = ("_ctypes", "_json", "_opcode", "_queue", "mmap")
"""Of the standard library's extension modules, those that are used and not built in."""
_MARK = "CACHEDIR.TAG"
ZMQ_UNUSED = ("tests", "green", "eventloop", "auth", "devices", "log", "ssh", "asyncio")


class Builder:
    """One build; `cache` keeps the downloaded packages, `out` gets the two files."""

    def __init__(self, cache: Path, out: Path, say: Callable[[str], None]) -> None:
        self._debs = cache / "debs"
        self._work = cache / "router-build"
        self._out = out
        self._say = say

    def build(self, *, again: bool = False) -> None:
        """Make both files, unless they are what this build would make.

        Raises BuildError, and leaves what was there.
        """
        stamp = self._out / "built-from"
        wanted = sources()
        if (
            not again
            and all((self._out / name).exists() for name in (KERNEL, INITRD))
            and stamp.exists()
            and stamp.read_text() == wanted
        ):
            self._say(f"{self._out}: up to date")
            return
        try:
            take(self._work, _MARK, ("*",))
        except NotOurFolderError as error:
            raise BuildError(str(error)) from None
        tree = self._unpacked()
        kernel = self._kernel(tree)
        initrd = self._initrd(tree, self._root(tree))
        self._out.mkdir(parents=True, exist_ok=True)
        for name, content in ((KERNEL, kernel), (INITRD, initrd), (stamp.name, wanted.encode())):
            new = self._out / f".{name}.new"
            new.write_bytes(content)
            new.rename(self._out / name)
        shutil.rmtree(self._work)
        self._say(f"{KERNEL}: {len(kernel) >> 10} KiB, {INITRD}: {len(initrd) >> 10} KiB")

    def _unpacked(self) -> UnpackedPackages:
        packages = debian.closure([*IN_ROUTER, *FOR_BUILDING], WITHOUT)
        packages.append(debian.kernel_package(KERNEL_META))
        self._say(f"{len(packages)} Debian packages")
        files = debian.download(packages, self._debs)
        tree = UnpackedPackages(self._work / "tree")
        debian.unpack(files, tree.root)
        return tree

    def _kernel(self, tree: UnpackedPackages) -> bytes:
        (image,) = (tree.root / "boot").glob("vmlinuz-*")

        def lz4(packed: bytes) -> bytes:
            before, after = self._work / "vmlinux.lz4", self._work / "vmlinux"
            before.write_bytes(packed)
            run(*tree.command(tree.root / "usr/bin/lz4"), "-q", "-d", "-f", before, after)
            return after.read_bytes()

        return bzimage.vmlinux(image.read_bytes(), lz4)

    def _module(self, name: str) -> Path:
        found = list((self._work / "tree/lib/modules").rglob(f"{name}.ko"))
        if len(found) != 1:
            raise BuildError(f"the kernel's package has {len(found)} modules {name}.ko")
        return found[0]

    # the root file system

    def _root(self, tree: UnpackedPackages) -> Path:
        root = self._work / "root"
        for name in ("dev", "proc", "sys", "run", "etc", "bin", "sbin", "usr/lib", "lib/modules"):
            (root / name).mkdir(parents=True)
        for name, target in (("usr/bin", "../bin"), ("usr/sbin", "../sbin"), ("tmp", "run/tmp")):
            (root / name).symlink_to(target)
        self._busybox(tree, root)
        for name, path in PROGRAMS.items():
            for folder in ("bin", "sbin"):  # busybox has some of these as well
                (root / folder / name).unlink(missing_ok=True)
            shutil.copy2(tree.root / path, root / "bin" / name)
        for name in MODULES:
            shutil.copy2(self._module(name), root / "lib/modules")
        for name in ("start", "again", "routerd", "www", "state", "forwarding"):
            _program(GUEST / name, root / "sbin" / name)
        shutil.copy(GUEST / "inittab", root / "etc/inittab")
        (root / "etc/passwd").write_text("root::0:0:root:/run:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        self._python(tree, root)
        self._libraries(tree, root)
        return root

    def _busybox(self, tree: UnpackedPackages, root: Path) -> None:
        _program(tree.root / "bin/busybox", root / "bin/busybox")
        for applet in run(root / "bin/busybox", "--list-full").split():
            place = root / applet.removeprefix("usr/")
            if place.parent.name in ("bin", "sbin") and not place.exists():
                place.symlink_to("/bin/busybox")

    def _python(self, tree: UnpackedPackages, root: Path) -> None:
        found = (tree.root / "usr/bin").glob("python3.*")
        (python,) = (path for path in found if re.fullmatch(r"python3\.\d+", path.name))
        shutil.copy2(python, root / "bin/python3")
        library = root / "usr/lib" / python.name
        _copy(tree.root / "usr/lib" / python.name, library, STDLIB_UNUSED)
        (library / "lib-dynload").mkdir()
        for name in EXTENSIONS:
            for file in (tree.root / "usr/lib" / python.name / "lib-dynload").glob(f"{name}.*.so"):
                shutil.copy2(file, library / "lib-dynload")
        own = root / "usr/lib/router"
        _copy(tree.root / "usr/lib/python3/dist-packages/zmq", own / "zmq", ZMQ_UNUSED)
        _copy(ROOT / "routerd", own / "routerd")
        _copy(ROOT / "pox_ext/xenflow/routes", own / "xenflow/routes")
        (own / "xenflow/__init__.py").write_text('"""The part that is shared with routers."""\n')
        # Compiled by the same Python, in place of the sources: nothing is compiled at each boot.
        run(
            *("env", f"PYTHONHOME={tree.root}/usr", *tree.command(python), "-S", "-m"),
            *("compileall", "-q", "-b", "--invalidation-mode", "unchecked-hash", "-s", root),
            *(library, own),
        )
        for source in (*library.rglob("*.py"), *own.rglob("*.py")):
            source.unlink()

    def _libraries(self, tree: UnpackedPackages, root: Path) -> None:
        programs = [root / "bin" / name for name in ("python3", *PROGRAMS)]
        needed: set[Path] = set()
        for program in (*programs, *root.rglob("*.so")):
            needed.update(tree.libraries(program))
        folder = root / "lib/x86_64-linux-gnu"
        folder.mkdir()
        for library in needed:
            shutil.copy(library, folder / library.name)
        (root / "lib64").mkdir()
        loader = tree.root / "lib64/ld-linux-x86-64.so.2"
        shutil.copy(loader, root / "lib64" / loader.name)

    # what the kernel unpacks

    def _initrd(self, tree: UnpackedPackages, root: Path) -> bytes:
        packed = self._work / "root.squashfs"
        run(
            *(*tree.command(tree.root / "usr/bin/mksquashfs"), root, packed),
            *("-quiet", "-no-progress", "-noappend", "-all-root", "-no-xattrs"),
            *("-mkfs-time", "0", "-all-time", "0", "-comp", "zstd", "-Xcompression-level", "19"),
        )
        archive = Archive()
        for name in ("bin", "dev", "modules", "root"):
            archive.folder(name)
        archive.file("init", (GUEST / "init").read_bytes(), program=True)
        archive.file("bin/busybox", (tree.root / "bin/busybox").read_bytes(), program=True)
        for name in FIRST_MODULES:
            archive.file(f"modules/{name}.ko", self._module(name).read_bytes())
        archive.file("root.squashfs", packed.read_bytes())
        return archive.octets()


def sources() -> str:
    """Stands for all that the image is made of, but for Debian's packages."""
    total = hashlib.sha256()
    for folder in (GUEST.parent, GUEST, ROOT / "routerd", ROOT / "pox_ext/xenflow/routes"):
        for file in sorted(file for file in folder.iterdir() if file.is_file()):
            total.update(f"{file.name}\n".encode() + file.read_bytes())
    return total.hexdigest() + "\n"


def _program(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    shutil.copy(source, target)
    target.chmod(0o755)


def _copy(source: Path, target: Path, without: Iterable[str] = ()) -> None:
    """Copy a package; `without` are patterns of modules and folders in it."""

    def unwanted(folder: str, names: list[str]) -> list[str]:
        inside = Path(folder).relative_to(source)
        return [
            name
            for name in names
            if name == "__pycache__"
            or any(fnmatch(str(inside / name).removesuffix(".py"), pattern) for pattern in without)
        ]

    shutil.copytree(source, target, ignore=unwanted)
