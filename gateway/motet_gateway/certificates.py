"""A private certificate authority, and the server certificates that it signs."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from motet_schemas import InvalidInputError

AUTHORITY_DAYS: Final = 3_650
SERVER_DAYS: Final = 730
_ALWAYS: Final = ("localhost", "127.0.0.1", "::1")
_DNS_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})(?:\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*")
_SLACK: Final = timedelta(hours=1)


def make_authority() -> tuple[bytes, bytes]:
    """Return the certificate of a new authority and its private key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Motet private authority")
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key, now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)


def issue_server_certificate(authority: bytes, authority_key: bytes, hosts: Sequence[str]) -> tuple[bytes, bytes]:
    """Return a server certificate for `hosts` (localhost is always among them) and its private key, as PEM.

    Raises `InvalidInputError` for a host that is neither a DNS name nor an IP address, or an authority that is none.
    """
    try:
        issuer = x509.load_pem_x509_certificate(authority)
        issuer_key = serialization.load_pem_private_key(authority_key, password=None)
    except ValueError as error:
        raise InvalidInputError("authority: these files hold no certificate and private key", field="tls") from error
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise InvalidInputError("authority: its key is of another kind than Motet makes", field="tls")
    names = [_alternative(host) for host in dict.fromkeys([*_ALWAYS, *hosts])]
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name("nats-server"), issuer.subject, key, datetime.now(UTC), SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)


def hosts_of(certificate: bytes) -> tuple[str, ...]:
    """Return the names and addresses that a certificate (PEM) is good for."""
    found = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return tuple(str(name.value) for name in found.value)


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _DNS_NAME.fullmatch(host):
            return x509.DNSName(host)
    raise InvalidInputError(f"host: {host!r} is neither a DNS name nor an IP address", field="host", value=host)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
