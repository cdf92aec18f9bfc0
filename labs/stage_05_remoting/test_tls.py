"""TLS on the same port: who wants it gets it, who must have it is refused without, and names are checked."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from labs.stage_05_remoting.remoting_lab import ECHO, remoting_lab
from rocketmq_py.common.environment import Environment
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.tls import client_context, server_context


@dataclass
class Certificate:
    """A self-signed certificate for 127.0.0.1, as files."""

    certificate: str
    key: str


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder: Path = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a broker of the labs")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Certificate(str(folder / "cert.pem"), str(folder / "key.pem"))


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
