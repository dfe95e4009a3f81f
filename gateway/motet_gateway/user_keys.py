"""Keys of NATS users (nkeys): Ed25519, written as NATS writes them. The seed is the secret; the server has the rest."""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SEED: Final = 18 << 3
_USER: Final = 20 << 3
_SEED_OF_USER: Final = bytes([_SEED | _USER >> 5, (_USER & 31) << 3])
_SECRET_BYTES: Final = 32


def new_seed() -> bytes:
    """Return the seed of a new user: 58 characters that begin with SU."""
    return _written(_SEED_OF_USER + secrets.token_bytes(_SECRET_BYTES))


def public_key(seed: bytes) -> str:
    """Return what the server is told of a user: 56 characters that begin with U. Raises `ValueError` for no seed."""
    raw = base64.b32decode(seed.strip() + b"=" * (-len(seed.strip()) % 8))
    content, checksum = raw[:-2], raw[-2:]
    if not content.startswith(_SEED_OF_USER) or _checksum(content) != checksum:
        raise ValueError("not the seed of a user")
    key = Ed25519PrivateKey.from_private_bytes(content[len(_SEED_OF_USER) :]).public_key()
    return _written(bytes([_USER]) + key.public_bytes_raw()).decode()


def _written(content: bytes) -> bytes:
    return base64.b32encode(content + _checksum(content)).rstrip(b"=")


def _checksum(content: bytes) -> bytes:
    return binascii.crc_hqx(content, 0).to_bytes(2, "little")
