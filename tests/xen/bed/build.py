"""Builds what a host boots: hypervisor, kernel, Domain 0's root image.

All of it comes from Debian packages, and XenFlow as `scripts/install-dom0` installs it.

Domain 0 runs Debian's generic kernel (the cloud one is built without CONFIG_XEN_DOM0).  Kernel and
hypervisor are unpacked here, because to unpack them under emulation takes long; QEMU's multiboot
loader takes the hypervisor as it is then.  What is of one host or network comes with each start
(`payload.py`).

Everything is done in a folder; nothing of this machine's own system is touched.  Needs root, and
the programs that `scripts/test-xen` installs.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import getsource
from pathlib import Path

from lab.namespace import LabError
from tests.xen.bed.cache import ROOT, piece
from xen.image import bzimage, debian

SUITE = "bookworm"
XEN = "4.17"
PACKAGES = (
    f"xen-utils-{XEN}",
    f"xen-hypervisor-{XEN}-amd64",
    "openvswitch-switch",
    "python3",
    # debootstrap does not resolve virtual packages: python3-zmq needs the second
    "python3-zmq",
    "python3-cffi-backend",
    "python3-netaddr",
    "openssh-server",
    "openssh-client",
    "socat",
    "iproute2",
    "iputils-ping",
    "kmod",
    "nftables",
    "ethtool",
    "tcpdump",
    "procps",
    "busybox-static",
)
MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "ext4",
    "crc32c_generic",
    "libcrc32c",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xenfs",
    "xen-netback",
    "openvswitch",
    "bridge",
    "8021q",
    "tun",
    "veth",
    "ifb",
    "sch_ingress",
    "sch_htb",
    "sch_netem",
    "sch_plug",
    "cls_matchall",
    "cls_u32",
    "act_mirred",
    "act_police",
    "nf_tables",
    "nft_objref",
    "nft_fwd_netdev",
)
INITRAMFS_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
INSTALLED = (
    "pox.py",
    "pox_ext",
    "runtime",
    "mgmt",
    "routerd",
    "lab",
    "xen",
    "conf",
    "scripts",
    "vendor",
)
"""What `scripts/install-dom0` copies: a change in it makes another image."""
_IMAGE_MIB = 800
_FILES = Path(__file__).resolve().parent / "boot"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_CONTAINED = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    f"{ROOT}/scripts/isolated",
    "--host-network",
)
"""What a program mounts and starts ends with it, and it with us."""
_LEFT_OUT = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/i18n",
    "var/cache/apt",
    "var/lib/apt",
    "boot",
)

Say = Callable[[str], None]


class BedBuildError(LabError):
    """A tool failed; the message is the end of what it said."""


@contextmanager
def bed_errors() -> Iterator[None]:
    """What `xen.image` cannot build is an error of the bed's.

    Raises BedBuildError.
    """
    try:
        yield
    except debian.BuildError as error:
        raise BedBuildError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Built:
    """The files that a host boots from, and the key that opens it."""

    xen: Path
    vmlinux: Path
    initramfs: Path
    image: Path
    ssh_key: Path
    ssh_host_key: Path


def build(say: Say) -> Built:
    """Everything, as far as it is not there already.

    Raises BedBuildError.
    """
    root = piece("dom0-root", [getsource(_make_root), SUITE, *PACKAGES], _make_root, say)
    kernel = piece("dom0-kernel", [getsource(_make_kernel), SUITE, *MODULES], _make_kernel, say)
    keys = piece("keys", [getsource(_make_keys)], _make_keys, say)
    boot = piece(
        "dom0-boot",
        [root.name, kernel.name, getsource(_make_boot), _FILES],
        partial(_make_boot, root=root, kernel=kernel),
        say,
    )
    image = piece(
        "dom0-image",
        [
            root.name,
            kernel.name,
            keys.name,
            getsource(_make_image),
            getsource(_install),
            _FILES,
            *(ROOT / name for name in INSTALLED),
        ],
        partial(_make_image, root=root, kernel=kernel, keys=keys),
        say,
    )
    return Built(
        boot / "xen",
        kernel / "vmlinux",
        boot / "initramfs",
        image / "dom0.img",
        keys / "client",
        keys / "host",
    )


# --- the root tree -------------------------------------------------------------------------------


def _make_root(folder: Path) -> None:
    packages = folder.parent / "packages"
    packages.mkdir(exist_ok=True)
    _run(
        *_CONTAINED,
        "debootstrap",
        "--variant=minbase",
        f"--cache-dir={packages}",
        f"--include={','.join(PACKAGES)}",
        SUITE,
        str(folder / "tree"),
        _mirror(),
    )


def _mirror() -> str:
    """The mirror that apt itself uses."""
    sites = _run(
        "apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"
    ).splitlines()
    found = [s.split()[0] for s in sites if not s.endswith(("-security", "-updates"))]
    if not found:
        raise BedBuildError("apt has no package lists: `apt-get update` first")
    return found[0]


# --- the kernel ----------------------------------------------------------------------------------


def _make_kernel(folder: Path) -> None:
    package = _fetch_kernel(folder)
    tree = folder / "package"
    _run("dpkg-deb", "-x", str(package), str(tree))
    release = next((tree / "lib/modules").iterdir()).name
    image = (tree / f"boot/vmlinuz-{release}").read_bytes()
    with bed_errors():
        (folder / "vmlinux").write_bytes(bzimage.vmlinux(image, _lz4))
    _run("depmod", "-b", str(tree), release)
    own = folder / "modules/lib/modules" / release
    own.mkdir(parents=True)
    for index in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(tree / "lib/modules" / release / index, own / index)
    for path in _with_dependencies(tree, release, MODULES):
        to = own / path.relative_to(tree / "lib/modules" / release)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    _run("depmod", "-b", str(folder / "modules"), release)
    (folder / "release").write_text(release)
    shutil.rmtree(tree)
    package.unlink()


def _fetch_kernel(folder: Path) -> Path:
    """Debian's current generic kernel of the suite, whatever release this machine runs."""
    apt = folder / "apt"
    (apt / "lists/partial").mkdir(parents=True)
    (apt / "cache/archives/partial").mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {SUITE} main\n")
    options = [
        "-q",
        "-o",
        f"Dir::Etc::SourceList={apt}/sources.list",
        "-o",
        "Dir::Etc::SourceParts=-",
        "-o",
        f"Dir::State::Lists={apt}/lists",
        "-o",
        f"Dir::State::status={apt}/status",
        "-o",
        f"Dir::Cache={apt}/cache",
        "-o",
        "APT::Sandbox::User=root",
        "-o",
        "APT::Architecture=amd64",
    ]
    _run("apt-get", *options, "update")
    depends = _run("apt-cache", *options, "depends", "linux-image-amd64")
    named = re.search(r"Depends: (linux-image-\d\S+)", depends)
    if named is None:
        raise BedBuildError(f"linux-image-amd64 of {SUITE} depends on no kernel:\n{depends}")
    _run("apt-get", *options, "download", named.group(1), cwd=folder)
    shutil.rmtree(apt)
    return next(folder.glob("linux-image-*.deb"))


def _lz4(_: bytes) -> bytes:
    raise BedBuildError("the kernel is packed with lz4; Debian's generic one was packed with xz")


def _with_dependencies(base: Path, release: str, names: Iterable[str]) -> list[Path]:
    """Module files in the order in which they must be loaded."""
    found: dict[Path, None] = {}
    for name in names:
        shown = _run("modprobe", "-d", str(base), "-S", release, "--show-depends", name)
        for line in shown.splitlines():
            if line.startswith("insmod "):
                found[Path(line.split()[1])] = None
    return list(found)


# --- keys ----------------------------------------------------------------------------------------


def _make_keys(folder: Path) -> None:
    for name in ("client", "host"):
        _run(
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            f"xenflow bed {name}",
            "-f",
            str(folder / name),
        )


# --- what is booted ------------------------------------------------------------------------------


def _make_boot(folder: Path, root: Path, kernel: Path) -> None:
    hypervisor = next((root / "tree/boot").glob(f"xen-{XEN}-amd64.gz"))
    (folder / "xen").write_bytes(gzip.decompress(hypervisor.read_bytes()))
    tree = folder / "tree"
    for name in ("bin", "dev", "proc", "sys", "root", "lib"):
        (tree / name).mkdir(parents=True)
    shutil.copy(root / "tree/bin/busybox", tree / "bin/busybox")
    shutil.copy(_FILES / "initramfs-init", tree / "init")
    (tree / "init").chmod(0o755)
    release = (kernel / "release").read_text()
    modules = _with_dependencies(kernel / "modules", release, INITRAMFS_MODULES)
    for module in modules:
        shutil.copy(module, tree / "lib")
    (tree / "lib/order").write_text("".join(f"{m.name}\n" for m in modules))
    names = "\n".join(str(p.relative_to(tree)) for p in sorted(tree.rglob("*")))
    with (folder / "initramfs").open("wb") as file:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"],
            cwd=tree,
            input=names.encode(),
            stdout=file,
            check=True,
        )
    shutil.rmtree(tree)


def _make_image(folder: Path, root: Path, kernel: Path, keys: Path) -> None:
    tree = folder / "tree"
    _run("cp", "-a", str(root / "tree"), str(tree))
    _run("cp", "-a", f"{kernel}/modules/lib/modules", str(tree / "usr/lib"))
    for name in _LEFT_OUT:
        shutil.rmtree(tree / name, ignore_errors=True)
    for name in ("bed-init", "bed-transport"):
        shutil.copy(_FILES / name, tree / "usr/sbin" / name)
        (tree / "usr/sbin" / name).chmod(0o755)
    shutil.copy(_FILES / "sshd_config", tree / "etc/ssh/sshd_config")
    _give_keys(keys, tree)
    _install(tree)
    schema = tree / "usr/share/openvswitch/vswitch.ovsschema"
    _run("ovsdb-tool", "create", str(tree / "etc/openvswitch/empty.db"), str(schema))
    # a loaded database forgets nothing from host to host: each begins with an empty one
    (tree / "etc/openvswitch/conf.db").unlink(missing_ok=True)
    image = folder / "dom0.img"
    with image.open("wb") as file:
        file.truncate(_IMAGE_MIB << 20)
    _run(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-O",
        "^has_journal,^metadata_csum",
        "-L",
        "dom0",
        "-d",
        str(tree),
        str(image),
    )
    shutil.rmtree(tree)


def _install(tree: Path) -> None:
    """XenFlow, by the project's own installer, run in the image's tree."""
    _run(
        *_CONTAINED,
        "sh",
        "-ec",
        'mount --bind -o ro "$1" "$2/mnt"; exec chroot "$2" /mnt/scripts/install-dom0 '
        "--no-packages --no-start",
        "install",
        str(ROOT),
        str(tree),
    )


def _give_keys(keys: Path, tree: Path) -> None:
    """Every host is the same one for ssh, and each may enter the others."""
    ssh, own = tree / "etc/ssh", tree / "root/.ssh"
    own.mkdir(mode=0o700, exist_ok=True)
    for old in ssh.glob("ssh_host_*"):
        old.unlink()
    _copy_key(keys / "host", ssh / "ssh_host_ed25519_key")
    _copy_key(keys / "client", own / "id_ed25519")
    shutil.copy(keys / "client.pub", own / "authorized_keys")
    (own / "known_hosts").write_text(f"* {(keys / 'host.pub').read_text()}")


def _copy_key(key: Path, to: Path) -> None:
    shutil.copy(key, to)
    to.chmod(0o600)
    shutil.copy(key.with_suffix(".pub"), to.with_suffix(".pub"))


def _run(*argv: str, cwd: Path | None = None) -> str:
    """Run a tool and return what it prints.

    Raises BedBuildError.
    """
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, cwd=cwd, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise BedBuildError(f"{argv[0]} is not installed: scripts/test-xen installs it") from None
    if done.returncode:
        last = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise BedBuildError(f"{' '.join(argv)} failed:\n  {last}")
    return done.stdout
