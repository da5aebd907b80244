"""The store of several health services: etcd keeps the state and says who leads.

The leader holds a key that is bound to a lease. Every write is a transaction that holds only while that very
key is still there (its creation revision is the fencing token) and the epoch is the one the writer knew: a
leader that was paused or cut off cannot write over its successor.
"""

import base64
import contextlib
import json
import zlib
from typing import Any, NamedTuple

import etcd3gw
from etcd3gw.exceptions import Etcd3Exception

from fastcache.errors import ConfigurationError
from fastcache.health.store import DeposedError, Stored

# Errors of the client that mean: etcd cannot be reached or does not agree with itself.
FAULTS = (Etcd3Exception, OSError)


class Credentials(NamedTuple):
    """Files: whom we trust, and who we are."""

    authority: str
    certificate: str
    key: str


class EtcdStore:
    """One of several services; `url` is how the others and clients reach us when we lead."""

    def __init__(
        self, endpoint: str, cluster: str, url: str, lease_seconds: float, tls: Credentials | None = None
    ) -> None:
        protocol, _, rest = endpoint.rstrip("/").rpartition("://")
        host, _, port = rest.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigurationError(f"etcd-endpoint: {endpoint} is no URL like http://127.0.0.1:2379")
        self.url = url
        self.seconds = max(2, round(lease_seconds))
        # A call that waits longer than the lease would outlive our lead.
        self.client = etcd3gw.client(
            host=host.strip("[]"),
            port=int(port),
            protocol=protocol or "http",
            timeout=self.seconds / 2,
            ca_cert=tls.authority if tls else None,
            cert_cert=tls.certificate if tls else None,
            cert_key=tls.key if tls else None,
        )
        # Neither a proxy nor another list of authorities, which an environment may name, is for our own etcd.
        self.client.session.trust_env = False
        root = f"/fastcache/{cluster}/"
        self.leader_key, self.state_key, self.epoch_key = root + "leader", root + "state", root + "epoch"
        self.ledger_key, self.audit_root = root + "ledger", root + "audit/"
        self.lease: Any = None
        self.token = 0

    def campaign(self) -> bool:
        """Refresh our lease, or try to take the key when nobody holds it."""
        if self.token:
            if self.lease.refresh() > 0 and self.held():
                return True
            self.token = 0
        lease = self.client.lease(ttl=self.seconds)
        won = self.client.transaction(
            {
                "compare": [created(self.leader_key, 0)],
                "success": [put(self.leader_key, self.url.encode(), lease.id)],
                "failure": [],
            }
        )
        if not won.get("succeeded"):
            lease.revoke()
            return False
        self.lease = lease
        self.token = int(won["header"]["revision"])
        return True

    def held(self) -> bool:
        """Whether the leader's key is still the one we made."""
        return self.revision(self.leader_key) == self.token

    def revision(self, key: str) -> int:
        """The revision at which a key was created; 0 when it is not there or not ours."""
        found = self.client.get(key, metadata=True)
        if not found or found[0][0] != self.url.encode():
            return 0
        return int(found[0][1]["create_revision"])

    def leader(self) -> str:
        """Whoever holds the key."""
        found = self.client.get(self.leader_key)
        return found[0].decode() if found else ""

    def epoch(self) -> int:
        """The epoch of what was saved last, without fetching the rest."""
        found = self.client.get(self.epoch_key)
        return int(found[0]) if found else 0

    def load(self) -> Stored | None:
        """The state as one value, so that its parts cannot be of different times."""
        found = self.client.get(self.state_key)
        return unpacked(found[0]) if found else None

    def save(self, stored: Stored, after: int) -> None:
        """Only while our key stands and the epoch is the one we knew."""
        if not self.token or stored.epoch <= after:
            raise DeposedError("this service does not lead")
        known = (
            {"key": b64(self.epoch_key), "result": "EQUAL", "target": "VALUE", "value": b64(str(after))}
            if after
            else created(self.epoch_key, 0)
        )
        done = self.client.transaction(
            {
                "compare": [created(self.leader_key, self.token), known],
                "success": [
                    put(self.epoch_key, str(stored.epoch).encode()),
                    put(self.state_key, packed(stored)),
                ],
                "failure": [],
            }
        )
        if not done.get("succeeded"):
            with contextlib.suppress(*FAULTS):  # a lease that ran out cannot be revoked, nor need it be
                self.resign()
            raise DeposedError("another health service leads or has written since")

    def ledger(self) -> bytes:
        """As whoever led last left it."""
        found = self.client.get(self.ledger_key)
        return bytes(found[0]) if found else b""

    def keep_ledger(self, ledger: bytes, entry: tuple[int, bytes] | None) -> None:
        """Only while our key stands, and no entry is ever written over."""
        if not self.token:
            raise DeposedError("this service does not lead")
        compare, success = [created(self.leader_key, self.token)], [put(self.ledger_key, ledger)]
        if entry:
            key = self.audit_key(entry[0])
            compare.append(created(key, 0))
            success.append(put(key, entry[1]))
        done = self.client.transaction({"compare": compare, "success": success, "failure": []})
        if not done.get("succeeded"):
            raise DeposedError("another health service leads or has written since")

    def audit_key(self, number: int) -> str:
        """Numbers of one length stand in the order of their keys."""
        return f"{self.audit_root}{number:012d}"

    def entries(self, after: int, limit: int) -> list[bytes]:
        """A range of keys."""
        found = self.client.get(
            self.audit_key(after + 1),
            range_end=self.audit_root[:-1] + "0",  # the character behind the slash
            limit=limit,
            sort_order="ascend",
            sort_target="key",
        )
        return [bytes(value) for value in found]

    def resign(self) -> None:
        """Revoke the lease: the key goes with it."""
        if self.token:
            self.token = 0
            self.lease.revoke()

    def close(self) -> None:
        """Close the connections."""
        self.client.session.close()


def created(key: str, revision: int) -> dict[str, str]:
    """The condition that a key was created at this revision; 0: that it does not exist."""
    return {
        "key": b64(key),
        "result": "EQUAL",
        "target": "CREATE",
        "create_revision": str(revision),
    }


def put(key: str, value: bytes, lease: int | None = None) -> dict[str, dict[str, str]]:
    """The request to set a key."""
    body = {"key": b64(key), "value": base64.b64encode(value).decode()}
    if lease is not None:
        body["lease"] = str(lease)
    return {"request_put": body}


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def packed(stored: Stored) -> bytes:
    """Compressed: etcd takes requests of 1.5 MB, and a topology of thousands of nodes comes near it."""
    parts = {
        "epoch": stored.epoch,
        "members": stored.members.decode(),
        "orders": stored.orders.decode(),
        "topology": stored.topology.decode(),
    }
    return zlib.compress(json.dumps(parts).encode(), 6)


def unpacked(value: bytes) -> Stored:
    parts = json.loads(zlib.decompress(value))
    orders = parts.get("orders", "").encode()
    return Stored(parts["epoch"], parts["topology"].encode(), parts["members"].encode(), orders)
