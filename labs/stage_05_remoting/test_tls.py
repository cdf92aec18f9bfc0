"""TLS on the same port: who wants it gets it, who must have it is refused without, and names are checked."""

from __future__ import annotations

import ssl

import pytest

from labs.stage_05_remoting.certificates import Certificate, make_certificate
from labs.stage_05_remoting.remoting_lab import ECHO, remoting_lab
from rocketmq_py.common.config import Setting, apply_properties, to_properties
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import ConfigError
from rocketmq_py.common.tls_settings import TlsMode, TlsSettings
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.tls import client_context, client_tls, server_context, server_tls


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def test_one_port_serves_plain_and_encrypted_clients(environment: Environment, certificate: Certificate) -> None:
    tls = server_context(certificate.certificate, certificate.key)
    async with remoting_lab(environment, tls=tls) as lab:
        secure = RemotingClient(environment.clock, tls=client_context(certificate.certificate))
        body = bytes(range(256)) * 2_000
        answer = await secure.request(lab.address, RemotingCommand.create_request(ECHO, body=body), 10)
        assert bytes(answer.body) == body
        assert (await lab.ask(ECHO)).remark == "echo"
        assert len(lab.server.connections) == 2
        await secure.close()


async def test_a_server_that_enforces_tls_takes_no_plain_client(
    environment: Environment, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    tls = server_context(certificate.certificate, certificate.key)
    async with remoting_lab(environment, tls=tls, requires_tls=True) as lab:
        with pytest.raises(RemotingError, match="was lost"):
            await lab.ask(ECHO)
        assert "takes TLS connections only" in caplog.text


async def test_a_certificate_of_an_unknown_authority_or_for_another_name_is_refused(
    environment: Environment, certificate: Certificate
) -> None:
    tls = server_context(certificate.certificate, certificate.key)
    async with remoting_lab(environment, tls=tls) as lab:
        stranger = RemotingClient(environment.clock, tls=client_context())
        with pytest.raises(RemotingError, match="self-signed certificate"):
            await stranger.request(lab.address, RemotingCommand.create_request(ECHO), 5)
        misnamed = RemotingClient(
            environment.clock, tls=client_context(certificate.certificate), tls_hostname="other.example"
        )
        with pytest.raises(RemotingError, match=r"other\.example"):
            await misnamed.request(lab.address, RemotingCommand.create_request(ECHO), 5)
        await stranger.close()
        await misnamed.close()


async def test_a_tls_client_at_a_plain_port_learns_that_there_is_no_tls(
    environment: Environment, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    async with remoting_lab(environment) as lab:
        secure = RemotingClient(environment.clock, tls=client_context(certificate.certificate))
        with pytest.raises(RemotingError, match="handshake was not completed"):
            await secure.request(lab.address, RemotingCommand.create_request(ECHO), 5)
        assert "TLS is not enabled here" in caplog.text
        await secure.close()


# --- settings ---------------------------------------------------------------------------------------------------------


def settings_of(**lines: str) -> TlsSettings:
    settings = TlsSettings()
    apply_properties({key.replace("_", "."): Setting(value, "broker.conf") for key, value in lines.items()}, settings)
    return settings


def test_without_a_certificate_a_server_is_permissive_and_plain() -> None:
    assert TlsSettings().tls_server_mode is TlsMode.PERMISSIVE
    assert server_tls(TlsSettings()) is None
    assert client_tls(TlsSettings()) is None


def test_settings_become_contexts(certificate: Certificate) -> None:
    server = settings_of(
        tls_server_mode="enforcing",
        tls_server_certPath=certificate.certificate,
        tls_server_keyPath=certificate.key,
        tls_server_need_client_auth="require",
        tls_server_trustCertPath=certificate.certificate,
    )
    client = settings_of(tls_enable="true", tls_client_trustCertPath=certificate.certificate)
    careless = settings_of(tls_enable="true", tls_client_authServer="false")

    assert server_tls(server).verify_mode is ssl.CERT_REQUIRED
    assert client_tls(client).verify_mode is ssl.CERT_REQUIRED
    assert client_tls(client).check_hostname
    assert client_tls(careless).verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ({"tls_server_mode": "enforcing"}, "TLS needs a certificate and its key: tls.server.certPath is ''"),
        ({"tls_server_mode": "maybe"}, "'maybe'; it is one of disabled, permissive, enforcing"),
        ({"tls_server_certPath": "/nowhere/cert.pem"}, "tls.server.keyPath is ''"),
        (
            {"tls_server_certPath": "/nowhere/cert.pem", "tls_server_keyPath": "/nowhere/key.pem"},
            r"tls\.server\.certPath=/nowhere/cert\.pem.*No such file",
        ),
        ({"tls_server_certPath": "KEY", "tls_server_keyPath": "CERT"}, "are certificate and key a pair"),
        (
            {"tls_server_certPath": "CERT", "tls_server_keyPath": "KEY", "tls_server_need_client_auth": "optional"},
            r"need\.client\.auth=optional needs tls\.server\.trustCertPath",
        ),
        ({"tls_enable": "true", "tls_client_trustCertPath": "KEY"}, r"tls\.client\.trustCertPath="),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(
    certificate: Certificate, lines: dict[str, str], text: str
) -> None:
    files = {"CERT": certificate.certificate, "KEY": certificate.key}
    with pytest.raises(ConfigError, match=text):
        settings = settings_of(**{key: files.get(value, value) for key, value in lines.items()})
        server_tls(settings)
        client_tls(settings)


def test_passwords_are_never_shown() -> None:
    settings = settings_of(tls_server_keyPassword="Swordfish", tls_server_certPath="/etc/cert.pem")
    assert settings.tls_server_key_password == "Swordfish"
    shown = to_properties(settings)
    assert shown["tls.server.certPath"] == "/etc/cert.pem"
    assert shown["tls.server.keyPassword"] == "********"
    assert shown["tls.client.keyPassword"] == ""
