"""Seals API keys with the operator's secrets.

AES-256-GCM under a key derived from a secret (HKDF-SHA256, RFC 5869), a fresh 12-byte
nonce each time. The secret's id, the task id and the provider are authenticated with it, so
that a sealed key that is moved to another task does not open. The first secret seals, all of
them open: secrets can be replaced one after the other.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from pdf_processor.errors import KeyUnreadable
from pdf_processor.keys.inbox import ApiKey

NONCE_BYTES = 12


class KeySealer:
    """Seals with the first secret, opens with any.

    A sealed key is a JSON object: `secret` (which one sealed it), `provider`, `sealed`
    (base64 of nonce and ciphertext).
    """

    def __init__(self, secrets: Sequence[SecretStr]) -> None:
        ids = [_derive(secret, purpose=b"id", length=8).hex() for secret in secrets]
        self._sealing_id = ids[0]
        self._ciphers = {
            secret_id: AESGCM(_derive(secret, purpose=b"sealing", length=32))
            for secret_id, secret in zip(ids, secrets, strict=True)
        }

    def seal(self, task_id: str, key: ApiKey) -> bytes:
        """Seal a key for a task; another result each time."""
        nonce = os.urandom(NONCE_BYTES)
        plain = key.secret.get_secret_value().encode()
        bound_to = _bound_to(self._sealing_id, task_id, key.provider)
        ciphertext = self._ciphers[self._sealing_id].encrypt(nonce, plain, bound_to)
        return orjson.dumps(
            {
                "secret": self._sealing_id,
                "provider": key.provider,
                "sealed": b64encode(nonce + ciphertext).decode(),
            }
        )

    def open(self, task_id: str, sealed: bytes) -> ApiKey:
        """Open a key that was sealed for this task.

        Raises:
            KeyUnreadable: no secret here fits, or it was sealed for another task or provider.
        """
        secret_id, provider, nonce, ciphertext = _parse(sealed)
        cipher = self._ciphers.get(secret_id)
        if cipher is None:
            raise KeyUnreadable
        try:
            plain = cipher.decrypt(nonce, ciphertext, _bound_to(secret_id, task_id, provider))
        except InvalidTag:
            raise KeyUnreadable("The stored API key was not sealed for this task") from None
        return ApiKey(provider, SecretStr(plain.decode()))


def _derive(secret: SecretStr, *, purpose: bytes, length: int) -> bytes:
    info = b"pdf-processor api key " + purpose
    hkdf = HKDF(algorithm=SHA256(), length=length, salt=None, info=info)
    return hkdf.derive(secret.get_secret_value().encode())


def _bound_to(secret_id: str, task_id: str, provider: str) -> bytes:
    """What is authenticated; a JSON list, so that no two triples look alike."""
    return orjson.dumps([secret_id, task_id, provider])


def _parse(sealed: bytes) -> tuple[str, str, bytes, bytes]:
    try:
        parts: dict[str, Any] = orjson.loads(sealed)
        box = b64decode(parts["sealed"], validate=True)
        return str(parts["secret"]), str(parts["provider"]), box[:NONCE_BYTES], box[NONCE_BYTES:]
    except (ValueError, KeyError, TypeError):
        raise KeyUnreadable("The stored API key is damaged: provide it again") from None
