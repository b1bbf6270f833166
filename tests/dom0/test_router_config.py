"""A router's domain and its archive: what the kernel and xl will read."""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from xen.image import __main__ as router_image
from xen.image import bzimage, router_config
from xen.image.build import INITRD, KERNEL
from xen.image.cpio import Archive
from xen.image.debian import BuildError
from xen.image.router_config import ConfigError
from xenflow.model.network import Network
from xenflow.store.network_file import load

ROOT = Path(__file__).resolve().parents[2]
ADDRESSES = {"eth0": "10.0.1.1/24", "eth1": "10.0.2.1/24"}


@pytest.fixture(scope="module")
def network() -> Network:
    return load(ROOT / "conf" / "paper.toml")


def unpacked(octets: bytes, folder: Path) -> Path:
    """As the kernel reads archives (init/initramfs.c): heads in hexadecimal, parts padded to 4."""
    at = 0
    while True:
        assert octets[at : at + 6] == b"070701", "a newc archive"
        fields = [int(octets[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = octets[at + 110 : at + 110 + length]
        assert name.endswith(b"\0")
        begin = -(-(at + 110 + length) // 4) * 4
        if name == b"TRAILER!!!\0":
            assert not octets[begin:].strip(b"\0")
            return folder
        path = folder / name[:-1].decode()
        if stat.S_ISDIR(mode):
            path.mkdir()
        else:
            path.write_bytes(octets[begin : begin + size])
            path.chmod(stat.S_IMODE(mode))
        at = -(-(begin + size) // 4) * 4


@pytest.mark.parametrize(
    ("memory_mib", "said"), [(96, "1536 3072 6144"), (1024, "16384 32768 65536")]
)
def test_room_for_neighbours_grows_with_the_memory(
    network: Network, memory_mib: int, said: str
) -> None:
    guest = router_config.guest(network, "vr1", ADDRESSES, memory_mib=memory_mib)
    assert router_config.neighbours(guest) == said + "\n"
    assert f"{said}\n".encode() in router_config.archive(guest)


def test_archive(network: Network, tmp_path: Path) -> None:
    guest = router_config.guest(network, "vr1", ADDRESSES)
    folder = unpacked(router_config.archive(guest), tmp_path) / "router"
    assert (folder / "name").read_text() == "vr1\n"
    assert (folder / "interfaces").read_text() == (
        "ctl0 02:58:46:01:00:01 fe80::1:1/64\n"
        "eth0 02:00:00:01:01:01 10.0.1.1/24\n"
        "eth1 02:00:00:01:02:01 10.0.2.1/24\n"
    )
    assert "--control ctl0 --router vr1" in (folder / "routerd").read_text()
    bird = (folder / "bird.conf").read_text()
    assert "router id 10.0.1.1;" in bird
    assert "check link no" in bird


def test_it_tells_of_itself_only_where_it_is_asked_to(network: Network, tmp_path: Path) -> None:
    for http in (False, True):
        guest = router_config.guest(network, "vr1", ADDRESSES, http=http)
        (tmp_path / str(http)).mkdir()
        folder = unpacked(router_config.archive(guest), tmp_path / str(http)) / "router"
        assert (folder / "http").exists() == http


def test_what_may_hold_passwords_is_for_root_alone(network: Network, tmp_path: Path) -> None:
    for name in (KERNEL, INITRD):
        (tmp_path / name).write_bytes(b"image")
    (tmp_path / "vr1.initrd").touch(0o644)
    guest = router_config.guest(network, "vr1", ADDRESSES, "# password")
    config, ramdisk = router_config.write(network, guest, tmp_path, tmp_path)
    assert stat.S_IMODE(ramdisk.stat().st_mode) == 0o600
    assert ramdisk.read_bytes() == b"image" + router_config.archive(guest)
    assert f'ramdisk = "{ramdisk}"' in config.read_text()
    assert {p.name for p in tmp_path.iterdir()} == {KERNEL, INITRD, "vr1.cfg", "vr1.initrd"}


def test_default_configuration_is_one_that_bird_takes(network: Network, tmp_path: Path) -> None:
    if shutil.which("bird") is None:
        pytest.skip("bird is not installed")
    file = tmp_path / "bird.conf"
    file.write_text(router_config.guest(network, "vr1", ADDRESSES).bird)
    done = subprocess.run(["bird", "-p", "-c", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_domain_names_every_vif_as_the_network_does(network: Network) -> None:
    guest = router_config.guest(network, "vr1", ADDRESSES, memory_mib=96)
    values: dict[str, object] = {}
    text = router_config.domain(network, guest, "/k", "/r")
    exec(compile(text, "vr1.cfg", "exec"), {}, values)  # xl's form is, for these, Python's
    assert values["name"] == "vr1"
    assert values["memory"] == values["maxmem"] == 96
    assert values["kernel"] == "/k" and values["ramdisk"] == "/r"
    assert values["vif"] == [
        "mac=02:00:00:01:01:01,bridge=xenflow0.101,script=vif-xenflow,vifname=vr1.0",
        "mac=02:00:00:01:02:01,bridge=xenflow0.102,script=vif-xenflow,vifname=vr1.1",
        "mac=02:58:46:01:00:01,bridge=xenflow-control,script=vif-xenflow,vifname=vr1.ctl",
    ]
    assert "@" not in text


@pytest.mark.parametrize(
    ("router", "addresses", "said"),
    [
        ("vr9", ADDRESSES, "no router vr9"),
        ("vr1", {"eth0": "10.0.1.1/24"}, "no address for eth1"),
        ("vr1", {**ADDRESSES, "eth7": "10.0.1.1/24"}, "no interface eth7"),
        ("vr1", {**ADDRESSES, "eth1": "10.0.2.1/99"}, "eth1"),
        ("vr1", {**ADDRESSES, "eth1": "fe80::1/64"}, "eth1"),
    ],
)
def test_what_does_not_fit_is_refused(
    network: Network, router: str, addresses: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        router_config.guest(network, router, addresses)


def test_without_an_image_nothing_is_written(network: Network, tmp_path: Path) -> None:
    guest = router_config.guest(network, "vr1", ADDRESSES)
    with pytest.raises(ConfigError, match="no image"):
        router_config.write(network, guest, tmp_path / "image", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_installed_one_keeps_the_image_where_an_upgrade_leaves_it() -> None:
    assert router_image.cache_of(Path("/opt/xenflow")) == Path("/var/lib/xenflow")
    assert router_image.cache_of(ROOT) == ROOT / ".cache"


@pytest.mark.parametrize("memory", ["-5", "95", "128M", ""])
def test_too_little_memory_is_refused(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        router_image.main(["--config", "vr1", "--memory", memory])
    assert end.value.code == 2
    assert f"--memory: {memory}: a router needs 96 MiB at least" in capsys.readouterr().err


def test_an_archive_may_be_followed_by_another(tmp_path: Path) -> None:
    def made() -> bytes:
        archive = Archive()
        archive.folder("a")
        archive.file("a/one", b"1" * 1001, program=True)
        return archive.octets()

    assert made() == made()
    assert len(made()) % 512 == 0
    folder = unpacked(made(), tmp_path)
    assert (folder / "a/one").read_bytes() == b"1" * 1001
    assert (folder / "a/one").stat().st_mode & 0o777 == 0o755


# --- the kernel -----------------------------------------------------------------------------------

ELF = b"\x7fELF" + bytes(range(256)) * 20


def image(payload: bytes, version: int = 0x20F) -> bytes:
    """As small as a bzImage can be.  Gzip has the unpacked size at its end already."""
    if not payload.startswith(b"\x1f\x8b"):
        payload += struct.pack("<I", len(ELF))
    setup = bytearray(5 * 512)
    setup[0x1F1] = 4
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<II", setup, 0x248, 64, len(payload))
    return bytes(setup) + bytes(64) + payload + b"rest"


def no_lz4(_: bytes) -> bytes:
    raise AssertionError("this one is not packed by lz4")


def test_kernels_are_unpacked() -> None:
    assert bzimage.vmlinux(image(lzma.compress(ELF)), no_lz4) == ELF
    assert bzimage.vmlinux(image(gzip.compress(ELF)), no_lz4) == ELF
    lz4 = b"\x02\x21\x4c\x18" + b"packed"
    assert bzimage.vmlinux(image(lz4), lambda data: ELF if data == lz4 else b"") == ELF


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (b"#!/bin/sh\n" * 100, "no bzImage"),
        (image(lzma.compress(ELF), 0x205), "older than 2.08"),
        (image(b"BZh9" + bytes(99)), "unknown way"),
        (image(lzma.compress(b"no kernel")), "not ELF"),
        (image(lzma.compress(ELF)[:40] + bytes(60)), "cannot be unpacked"),
        (image(gzip.compress(ELF)[:60]), "cannot be unpacked"),
    ],
)
def test_what_is_no_kernel_is_said_so(what: bytes, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        bzimage.vmlinux(what, no_lz4)
