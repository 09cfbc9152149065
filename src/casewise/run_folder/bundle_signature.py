"""The signature of a bundle: Ed25519 over its manifest, which has the checksum of every other file.

With the public key, signatures can be checked and not made; with a secret of both sides, who checks could also sign.
Keys are files of OpenSSH, without a passphrase: `ssh-keygen -t ed25519 -N "" -f KEY` writes KEY and KEY.pub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from casewise.errors import CasewiseError, RunError, cut
from casewise.files import json_text, parsed_json, read_regular
from casewise.run_folder.bundle_folder import LARGEST_MANIFEST, BundleFolder

LARGEST = 2**14
# Signed before the manifest, so that no signature of another kind of text is one of a bundle.
_PURPOSE = b"casewise bundle\n"


def signature_of(bundle: BundleFolder, key: Path) -> str:
    """The content of `signature.json` for a bundle, by a private key.

    Raises:
        CasewiseError: the file holds no private key that can be used, or `cryptography` is not installed.
    """
    private = _key(key, "--sign", "private")
    return json_text({"ed25519": private.sign(_PURPOSE + bundle.manifest_path.read_bytes()).hex()})


def check_signature(bundle: BundleFolder, where: Path, key: Path) -> None:
    """Check that a verified bundle was signed with the private key that belongs to a public one, and has no other file.

    Raises:
        RunError: it has no signature, or one of another key or content, or a file that its manifest does not list.
        CasewiseError: the file holds no public key, or `cryptography` is not installed.
    """
    public = _key(key, "--trust", "public")
    try:
        text = read_regular(bundle.signature_path, LARGEST)
    except OSError as error:
        raise RunError(
            f"{where} is not signed: its {bundle.signature_path.name} cannot be read ({error.strerror or error}). Ask "
            "for a bundle that was written with `casewise bundle --sign`, or leave out --trust."
        ) from error
    from cryptography.exceptions import InvalidSignature

    try:
        signature = bytes.fromhex(parsed_json(text)["ed25519"])
        public.verify(signature, _PURPOSE + read_regular(bundle.manifest_path, LARGEST_MANIFEST))
    except (InvalidSignature, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{where}: {bundle.signature_path.name} is not the signature of this bundle by the key {key}. Do not use "
            "the bundle, or give the public key of those who signed it."
        ) from error
    own = {*bundle.manifest()["files"], bundle.manifest_path.name, bundle.signature_path.name}
    files = (
        path.relative_to(bundle.path).as_posix()
        for path in bundle.path.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )
    if extra := next((name for name in files if name not in own), None):
        raise RunError(f"{where} has a file that its signed manifest does not list: {cut(extra)}. Do not use it.")


def _key(path: Path, option: str, side: str) -> Any:
    """The private or public key of a file.

    Raises:
        CasewiseError: the file holds no such key, or `cryptography` is not installed.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ed25519
        from cryptography.hazmat.primitives.serialization import ssh
    except ImportError as error:
        raise CasewiseError(f"{option} needs an optional part of casewise: `pip install 'casewise[sign]'`.") from error
    try:
        data = read_regular(path, LARGEST)
        key = ssh.load_ssh_private_key(data, None) if side == "private" else ssh.load_ssh_public_key(data)
    except OSError as error:
        raise CasewiseError(f"{option}: {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey if side == "private" else ed25519.Ed25519PublicKey):
        raise CasewiseError(
            f"{option}: {path} is not a {side} key of the kind ed25519 without a passphrase. `ssh-keygen -t ed25519 -N "
            "'' -f KEY` writes the private one as KEY and the public one as KEY.pub."
        )
    return key
