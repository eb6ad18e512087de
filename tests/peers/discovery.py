"""A node proxy's discovery stream as Istio's ztunnel keeps it: delta ADS, two types, ACK and NACK.

What was received outlives the stream, as it does there: the next one says what is known.
"""

import base64
import socket
import ssl
import threading
from urllib.parse import urlsplit

import protobuf
from messages import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    CONTENT,
    REQUEST,
    RESPONSE,
    name_of,
)
from session import Session

CALL = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
# Responses kept.
KEPT = 1000


class Discovery:
    """One proxy's view of the mesh and the stream that feeds it."""

    def __init__(self, url, root, token, node, cluster_id="Kubernetes", on_demand=False):
        self.url = url
        self.root = root
        self.token = token
        self.node = node
        self.cluster_id = cluster_id
        self.on_demand = on_demand
        self.known = {ADDRESS_TYPE: {}, AUTHORIZATION_TYPE: {}}
        self.held = {ADDRESS_TYPE: {}, AUTHORIZATION_TYPE: {}}
        self.rejected = {}
        # Types whose first response was clean: only then is such a proxy ready.
        self.clean = set()
        self.responses = []
        # Names that are refused, to see what a NACK leads to.
        self.refuse = set()
        self.not_found = []
        self.session = None
        self.stream = None
        self.failure = None
        self.changed = threading.Condition(threading.RLock())

    # The stream.

    def open(self, seconds=5):
        """Connects and subscribes; both types at once, addresses first."""
        address = urlsplit(self.url)
        context = ssl.create_default_context(cafile=self.root)
        context.set_alpn_protocols(["h2"])
        raw = socket.create_connection((address.hostname, address.port), timeout=seconds)
        tls = context.wrap_socket(raw, server_hostname=address.hostname)
        self.failure = None
        self.session = Session(tls, client=True, listener=self)
        with self.session.lock:
            self.stream = self.session.open(
                [
                    (":method", "POST"),
                    (":scheme", "https"),
                    (":authority", address.netloc),
                    (":path", CALL),
                    ("te", "trailers"),
                    ("content-type", "application/grpc"),
                    ("authorization", f"Bearer {self.token}"),
                    ("clusterid", self.cluster_id),
                ]
            )
            for type_url in (ADDRESS_TYPE, AUTHORIZATION_TYPE):
                self._ask(self._first(type_url))

    def _first(self, type_url):
        ask = {"node": self._node(), "type_url": type_url}
        if self.on_demand and type_url == ADDRESS_TYPE:
            # Nothing by itself, but the proxy's own node is sent without asking.
            ask["resource_names_subscribe"] = ["*"]
            ask["resource_names_unsubscribe"] = ["*"]
        if self.known[type_url]:
            ask["initial_resource_versions"] = dict(self.known[type_url])
        return ask

    def _node(self):
        pod, namespace, ip = self.node["pod"], self.node["namespace"], self.node["ip"]
        return {
            "id": f"ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local",
            "metadata": {
                "NAME": pod,
                "NAMESPACE": namespace,
                "INSTANCE_IPS": ip,
                "NODE_NAME": self.node["node"],
                "CLUSTER_ID": self.cluster_id,
                **self.node.get("metadata", {}),
            },
        }

    def _ask(self, request):
        if self.session.finished is None:
            self.session.send(self.stream, protobuf.grpc_frame(REQUEST.write(request)))

    def subscribe(self, names, unsubscribe=()):
        """Asks for addresses by name: `network/ip`, a uid, or `namespace/hostname`."""
        request = {"type_url": ADDRESS_TYPE, "resource_names_subscribe": list(names)}
        if unsubscribe:
            request["resource_names_unsubscribe"] = list(unsubscribe)
        with self.session.lock:
            self._ask(request)

    def close(self, abort=False):
        """Ends the stream; what is known stays."""
        self.session.close(abort=abort)

    def describe(self):
        """Everything that is known, for a JSON line."""
        return {
            "addresses": self.held[ADDRESS_TYPE],
            "policies": self.held[AUTHORIZATION_TYPE],
            "versions": {**self.known[ADDRESS_TYPE], **self.known[AUTHORIZATION_TYPE]},
            "rejected": self.rejected,
            "ready": len(self.clean) == len(CONTENT),
            "not_found": self.not_found,
            "responses": self.responses,
            "failure": self.failure,
            "headers": self.stream.headers if self.stream else None,
        }

    def wait(self, condition, seconds):
        """Waits until the condition holds."""
        with self.changed:
            return self.changed.wait_for(lambda: condition() or self.failure, seconds)

    # What the session calls, in its thread.

    def data(self, session, stream, data):
        """Responses arrived."""
        for message in protobuf.grpc_frames(stream.data):
            with self.changed:
                self._response(RESPONSE.read(message), len(message))
                self.changed.notify_all()

    def ended(self, session, stream):
        """The server ended the stream."""
        status = dict(stream.trailers or stream.headers or [])
        self._over(f"{status.get('grpc-status')}: {status.get('grpc-message', '')}")

    def reset(self, session, stream):
        """The server reset the stream."""
        self._over(f"reset {stream.reset_code}")

    def finished(self, session, why):
        """The connection is over."""
        self._over(why)

    def _over(self, why):
        with self.changed:
            self.failure = self.failure or why
            self.changed.notify_all()

    # The protocol.

    def _response(self, response, size):
        type_url = response.get("type_url", "")
        refusals = []
        for resource in response.get("resources", []):
            try:
                self._take(type_url, resource)
            except (ValueError, KeyError, UnicodeDecodeError) as error:
                name = resource.get("name", "")
                self.known.get(type_url, {}).pop(name, None)
                self.rejected[name] = str(error)
                refusals.append(f"{name}: {error}")
        for name in response.get("removed_resources", []):
            if self.held.get(type_url, {}).pop(name, None) is None:
                self.not_found.append(name)
            self.known.get(type_url, {}).pop(name, None)
        answer = {"type_url": type_url, "response_nonce": response.get("nonce", "")}
        if refusals:
            answer["error_detail"] = {"message": "; ".join(refusals)}
        else:
            self.clean.add(type_url)
        self._ask(answer)
        if len(self.responses) < KEPT:
            self.responses.append(
                {
                    "type_url": type_url,
                    "names": [one.get("name") for one in response.get("resources", [])],
                    "aliases": [one.get("aliases", []) for one in response.get("resources", [])],
                    "removed": response.get("removed_resources", []),
                    "nonce": response.get("nonce", ""),
                    "refused": refusals,
                    "bytes": size,
                    "unknown": response.get("?", []),
                }
            )

    def _take(self, type_url, resource):
        name, body = resource.get("name", ""), resource["resource"]
        if body["type_url"] != type_url:
            raise ValueError(f"a resource of type {body['type_url']}")
        if name in self.refuse:
            raise ValueError("unknown enum: unsupported by this proxy")
        content = CONTENT[type_url].read(base64.b64decode(body["value"]))
        check(content)
        if name_of(type_url, content) != name:
            raise ValueError(f"the content is of {name_of(type_url, content)}")
        self.rejected.pop(name, None)
        self.known[type_url][name] = resource.get("version", "")
        self.held[type_url][name] = content


def check(content):
    """What ztunnel refuses to take: words it does not know, and addresses that are none."""
    workload = content.get("workload", {})
    if workload.get("tunnel_protocol") == "LEGACY_ISTIO_MTLS":
        raise ValueError("unknown enum: unsupported tunnel protocol: legacy istio mtls")
    for words in (workload, content.get("service", {}), content):
        for field in ("tunnel_protocol", "workload_type", "status", "network_mode", "ip_families",
                      "scope", "action"):
            if isinstance(words.get(field), int):
                raise ValueError(f"unknown enum: {field} {words[field]}")
    addresses = list(workload.get("addresses", []))
    for address in content.get("service", {}).get("addresses", []):
        addresses.append(address.get("address", ""))
    for address in addresses:
        if len(address) not in (8, 32):
            raise ValueError(f"invalid address: {address!r}")
