"""DERP's keys: from files, kept over reloads, and shown in TLS."""

import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from fallbacks.derp.box import ServerBox
from masque_relay.config.derp import MAX_MESH_SERVERS, DerpSection, split_server_url
from masque_relay.contract.errors import ConfigError
from masque_relay.server.derp_keys import load_derp_keys, note_certificate

KEY = "0f" * 32


def written(path: Path, text: str) -> Path:
    file = path / "key"
    file.write_text(text)
    return file


def test_without_derp_there_is_no_key() -> None:
    assert load_derp_keys(DerpSection()) is None


def test_without_a_file_the_key_survives_a_reload() -> None:
    section = DerpSection(enabled=True)
    assert load_derp_keys(section) == load_derp_keys(section)


def test_a_key_file_that_changes_counts_at_the_next_start_only(tmp_path: Path) -> None:
    section = DerpSection(enabled=True, key_file=written(tmp_path, KEY))
    before = load_derp_keys(section)
    written(tmp_path, "ee" * 32)
    assert load_derp_keys(section) == before


@pytest.mark.parametrize("text", [KEY + "\n", json.dumps({"PrivateKey": "privkey:" + KEY})])
def test_a_key_is_read_as_digits_or_as_derper_keeps_it(tmp_path: Path, text: str) -> None:
    keys = load_derp_keys(DerpSection(enabled=True, key_file=written(tmp_path, text)))
    assert keys is not None
    assert keys.private_key == bytes.fromhex(KEY)
    assert keys.mesh_key is None
    assert KEY not in repr(keys)


def test_the_mesh_key_counts_in_lower_case(tmp_path: Path) -> None:
    file = written(tmp_path, KEY.upper())
    keys = load_derp_keys(DerpSection(enabled=True, mesh_key_file=file))
    assert keys is not None
    assert keys.mesh_key == KEY


@pytest.mark.parametrize(
    "text", ["", "0f" * 31, "zz" * 32, "{", "[]", '{"PrivateKey": 7}', "a" * 9000]
)
@pytest.mark.parametrize("name", ["key_file", "mesh_key_file"])
def test_a_file_without_a_key_is_refused_with_its_name(
    tmp_path: Path, name: str, text: str
) -> None:
    section = DerpSection.model_validate({"enabled": True, name: written(tmp_path, text)})
    with pytest.raises(ConfigError, match=f"derp.{name}"):
        load_derp_keys(section)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load_derp_keys(DerpSection(enabled=True, key_file=tmp_path / "none"))


@pytest.mark.filterwarnings("ignore:Attribute's length:UserWarning")
def test_the_note_names_key_and_version() -> None:
    keys = load_derp_keys(DerpSection(enabled=True))
    assert keys is not None
    note = x509.load_pem_x509_certificate(note_certificate(keys))
    name = note.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    assert name == "derpkey" + ServerBox(keys.private_key).public_key.hex()
    assert note.serial_number == 2


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://other.example/derp", ("other.example", 443, "/derp")),
        ("https://other.example", ("other.example", 443, "/derp")),
        ("https://192.0.2.1:8443/x/derp", ("192.0.2.1", 8443, "/x/derp")),
        ("https://[2001:db8::1]:8443/", ("2001:db8::1", 8443, "/derp")),
    ],
)
def test_a_server_of_the_mesh_is_named_by_its_url(url: str, where: tuple[str, int, str]) -> None:
    assert split_server_url(url) == where


@pytest.mark.parametrize(
    "url",
    [
        "other.example",
        "http://other.example/derp",
        "https://a:b@c/derp",
        "https://a/d?e=f",
        "https://a/derp\r\nx: y",
        "https://a/d\N{LATIN SMALL LETTER E WITH ACUTE}rp",
    ],
)
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not https://HOST"):
        DerpSection(mesh_key_file=Path("mesh.key"), mesh_with=(url,))


def test_no_server_is_named_twice() -> None:
    servers = ("https://a.example", "https://a.example:443/derp")
    with pytest.raises(ValueError, match="twice"):
        DerpSection(mesh_key_file=Path("mesh.key"), mesh_with=servers)


def test_not_more_servers_are_named_than_a_region_may_have() -> None:
    servers = tuple(f"https://s{number}.example" for number in range(MAX_MESH_SERVERS + 1))
    with pytest.raises(ValueError, match="at most"):
        DerpSection(mesh_key_file=Path("mesh.key"), mesh_with=servers)


@pytest.mark.parametrize("path", ["derp", "/derp/", "/{x}"])
def test_a_path_that_routes_can_not_have_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path must"):
        DerpSection(path=path)
