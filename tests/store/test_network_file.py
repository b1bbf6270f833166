"""The network file: good ones are read, and of bad ones every mistake is reported with its line.

`network_file_errors/*.toml` each have an expected message in the .txt beside them;
`XENFLOW_UPDATE=1 pytest` writes those anew, to be read by a person.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenflow.model.network import DatapathKind, NetworkError, Pipeline
from xenflow.store.network_file import load, load_with_lab, parse
from xenflow.store.network_text import to_text
from xenflow.store.toml_lines import locate, show

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ERRORS = sorted(p for p in (HERE / "network_file_errors").glob("*.toml") if p.name != "good.toml")
GOOD = (HERE / "network_file_errors" / "good.toml").read_text()


@pytest.mark.parametrize("path", ERRORS, ids=lambda path: path.stem)
def test_mistakes(path: Path) -> None:
    with pytest.raises(NetworkError) as raised:
        parse(path.read_text(), path.name)
    message = f"{raised.value}\n"
    for line in message.splitlines():
        assert re.fullmatch(rf"{path.name}:\d+: [^:]+: found .+, expected .+", line), line
    golden = path.with_suffix(".txt")
    if os.environ.get("XENFLOW_UPDATE"):
        golden.write_text(message)
    assert message == golden.read_text()


def test_the_paper_network() -> None:
    network, lab = load_with_lab(ROOT / "conf" / "paper.toml")
    assert network.name == "paper"
    assert network.controllers["edge"].openflow == ("10.254.1.3", 6633)
    assert network.datapaths["host-a"].dpid == 0xA1
    assert network.datapaths["host-a"].kind is DatapathKind.HOST
    assert network.datapaths["host-a"].pipeline is Pipeline.PROACTIVE
    assert network.datapaths["gen"].proof_bound_s == 0.35
    assert str(network.cables["gen-a"].b) == "host-a:to-gen"
    assert network.links["left"].access[0].macs == (0x020000000102,)
    assert network.routers["vr1"].on("right").mac == 0x020000010201
    assert lab["machines"]["gen"]["address"] == ["10.0.1.2/24", "2001:db8:1::2/64"]


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.toml")), ids=lambda p: p.stem)
def test_every_network_we_ship_is_good(path: Path) -> None:
    load(path)


def test_the_lab_table_is_not_judged() -> None:
    _, lab = parse(GOOD + "\n[lab]\nanything = 1\n", "f")
    assert lab["anything"] == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="expected a network file: No such file or directory"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(NetworkError, match="found byte 0xe9 at offset 5, expected UTF-8"):
        load(tmp_path / "latin.toml")


@pytest.mark.parametrize("value", ["1" * 5_000, "[" * 1_000, "[" * 5_000 + "]" * 5_000])
def test_what_the_parser_gives_up_is_a_network_error(value: str) -> None:
    with pytest.raises(NetworkError, match=r"^f:2: column \d+: found .+, expected TOML \(.+\)$"):
        parse(f"a = 1\nb = {value}", "f")


@settings(max_examples=300)
@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.text(max_size=12))
def test_any_damage_is_a_network_error(at: int, cut: int, noise: str) -> None:
    text = GOOD[:at] + noise + GOOD[at + cut :]
    try:
        parse(text, "f")
    except NetworkError as error:
        for line in str(error).split("\nf:"):
            assert ": found " in line and ", expected " in line


_VALUES = st.recursive(
    st.sampled_from([0, 1, 70000, True, 1.5, "", "h1", "h1:p1", "left", "02:00:00:01:01:01"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "link", "at", "macs", "id"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.data())
def test_any_value_anywhere_is_a_network_error_or_fine(data: st.DataObject) -> None:
    pairs = [m for m in re.finditer(r"(?m)^(\w+) = (.+)$", GOOD) if m.group(2) != "["]
    pair = data.draw(st.sampled_from(pairs))
    text = GOOD[: pair.start(2)] + _toml(data.draw(_VALUES)) + GOOD[pair.end(2) :]
    try:
        parse(text, "f")
    except NetworkError as error:
        assert str(error).startswith("f:")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    return str(value)


# --- lines ---------------------------------------------------------------------------------------

SHAPES = """\
top = 1  # a comment with [brackets] = and "quotes"
[a.b]
c = { d = 1, e = [1, 2] }
"quoted key" = 'x = 1'
f.g = 3
h = [
    # a comment
    { i = "]", j = 1 }, { i = "}" },

    "k", [
        1,
    ],
]
[[t]]
u = \"\"\"
v = 1
\\"\"\" \"\"\"
[[t]]
u = '''
w = 1'''
[t.x]
y = 1979-05-27 07:32:00
"""


def test_lines() -> None:
    found = {show(path): line for path, line in locate(SHAPES).items()}
    assert found == {
        "top": 1,
        "a": 2,
        "a.b": 2,
        "a.b.c": 3,
        "a.b.c.d": 3,
        "a.b.c.e": 3,
        "a.b.c.e[0]": 3,
        "a.b.c.e[1]": 3,
        "a.b.quoted key": 4,
        "a.b.f": 5,
        "a.b.f.g": 5,
        "a.b.h": 6,
        "a.b.h[0]": 8,
        "a.b.h[0].i": 8,
        "a.b.h[0].j": 8,
        "a.b.h[1]": 8,
        "a.b.h[1].i": 8,
        "a.b.h[2]": 10,
        "a.b.h[3]": 10,
        "a.b.h[3][0]": 11,
        "t": 14,
        "t[0]": 14,
        "t[0].u": 15,
        "t[1]": 18,
        "t[1].u": 19,
        "t[1].x": 21,
        "t[1].x.y": 22,
    }


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.toml")), ids=lambda p: p.stem)
def test_every_key_has_a_line_and_stands_there(path: Path) -> None:
    text = path.read_text()
    lines, rows = locate(text), text.splitlines()

    def check(where: tuple[str | int, ...], value: object) -> None:
        if where and isinstance(where[-1], str):
            assert where[-1] in rows[lines[where] - 1]
        if isinstance(value, dict):
            for key, inner in value.items():
                check((*where, key), inner)
        elif isinstance(value, list):
            for i, inner in enumerate(value):
                check((*where, i), inner)

    check((), tomllib.loads(text))


def test_a_text_too_deep_has_some_lines() -> None:
    assert locate("a = 1\nb = " + "[" * 5_000)[("a",)] == 1


@given(st.text())
def test_any_text_has_some_lines(text: str) -> None:
    locate(text)


def test_a_store_without_tls_is_the_labs_or_the_machines_own() -> None:
    there = 'store = ["tcp:10.0.0.1:6643"]'
    text = GOOD.replace("[network]", f"[network]\n{there}")
    with pytest.raises(NetworkError, match='expected "ssl:10.0.0.1:6643", and certificates'):
        parse(text, "f")
    assert parse(text + "\n[lab]\n", "f")[0].store == ("tcp:10.0.0.1:6643",)
    assert parse(text.replace("10.0.0.1:6643", "127.0.0.1:6643"), "f")[0].tls == ""
    by_tls = text.replace(there, 'store = ["ssl:10.0.0.1:6643"]\ntls = "/etc/xenflow/tls"')
    assert parse(by_tls, "f")[0].tls == "/etc/xenflow/tls"


def test_the_labs_network_may_have_an_open_store_without_its_lab() -> None:
    """As it is read where `[lab]` is left out: by the planner, from an export, after one change."""
    text = (ROOT / "conf" / "paper.toml").read_text()
    head = '[network]\nname = "paper"\nstore = ["tcp:10.254.1.2:6643"]'
    wanted = parse(text.replace('[network]\nname = "paper"', head), "a.toml")[0]
    assert wanted.store and parse(to_text(wanted), "b.toml")[0] == wanted
    elsewhere = to_text(wanted).replace("lab:tcp://10.254.1.2:6650", "xl:a=root@h")
    with pytest.raises(NetworkError, match="it is no loopback address"):
        parse(elsewhere, "b.toml")
