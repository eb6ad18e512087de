"""Istio's control plane as a node proxy sees it: delta discovery and certificates on one port.

It pushes what it is told to, in the protocol's words, and checks its callers as istiod does.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import socket
import ssl
import threading
import time

from cryptography import x509

import protobuf
from issuer import Issuer, problem_of
from messages import CONTENT, REQUEST, RESPONSE, Struct
from session import Session, describe_error

DISCOVERY = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
CERTIFICATES = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
OK, PERMISSION_DENIED, UNIMPLEMENTED, UNAUTHENTICATED = 0, 7, 12, 16
# Longest life of a certificate, in seconds.
LONGEST = 86_400


class Istiod:
    """One server. `accounts`: `namespace/name` of node proxies that may ask for others."""

    def __init__(self, directory, address, port, names, accounts, audience):
        self.issuer = Issuer()
        self.accounts = set(accounts)
        self.audience = audience
        self.secret = secrets.token_bytes(32)
        # (node, namespace, account) of every pod.
        self.pods = set()
        # Resources by type and name: (version, bytes).
        self.resources = {type_url: {} for type_url in CONTENT}
        self.log = []
        self.sessions = []
        self.streams = []
        self.lock = threading.RLock()
        key, chain = self.issuer.serving(names)
        base = os.path.join(directory, f"istiod-{port}")
        with open(f"{base}.pem", "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(key + chain)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(f"{base}.pem")
        self.context.set_alpn_protocols(["h2"])
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((address, port))
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        sock.settimeout(10)
        try:
            tls = self.context.wrap_socket(sock, server_side=True)
        except (OSError, ssl.SSLError) as error:
            self.note(event="tls-failed", error=describe_error(error))
            sock.close()
            return
        Session(tls, client=False, listener=self, among=self.sessions)

    def note(self, **event):
        """Writes an event down."""
        with self.lock:
            self.log.append(event)

    # Tokens, as the API server projects them into pods.

    def token(self, namespace, account, pod, node, audience, seconds=43_200):
        """The token of a pod; signed, so that nobody makes his own."""
        claims = {
            "aud": [audience],
            "exp": int(time.time()) + seconds,
            "iss": "https://kubernetes.default.svc.cluster.local",
            "kubernetes.io": {
                "namespace": namespace,
                "node": {"name": node},
                "pod": {"name": pod, "uid": f"uid-of-{pod}"},
                "serviceaccount": {"name": account},
            },
            "sub": f"system:serviceaccount:{namespace}:{account}",
        }
        head = _segment(json.dumps({"alg": "HS256"}).encode())
        body = f"{head}.{_segment(json.dumps(claims).encode())}"
        return f"{body}.{self._signature(body)}"

    def _signature(self, body):
        return _segment(hmac.new(self.secret, body.encode(), hashlib.sha256).digest())

    def _claims(self, headers):
        scheme, _, token = headers.get("authorization", "").partition(" ")
        body, _, signature = token.rpartition(".")
        if scheme != "Bearer" or not hmac.compare_digest(signature, self._signature(body)):
            raise Refusal(UNAUTHENTICATED, "no valid token")
        text = body.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if self.audience not in claims["aud"]:
            raise Refusal(UNAUTHENTICATED, f"token audiences {claims['aud']}")
        if claims["exp"] < time.time():
            raise Refusal(UNAUTHENTICATED, "the token has expired")
        return claims["kubernetes.io"]

    # Calls, in the session's thread.

    def request(self, session, stream):
        """A call begins."""
        stream.path = dict(stream.headers).get(":path", "")
        stream.names = [name for name, _ in stream.headers]
        stream.claims = None
        try:
            stream.claims = self._claims(dict(stream.headers))
            if stream.path not in (DISCOVERY, CERTIFICATES):
                service = stream.path.split("/")[1]
                raise Refusal(UNIMPLEMENTED, f"unknown service {service}")
        except Refusal as refusal:
            self._refuse(session, stream, refusal)
            return
        if stream.path == DISCOVERY:
            session.answer(stream, [(":status", "200"), ("content-type", "application/grpc")])
            conversation = Conversation(self, session, stream)
            stream.conversation = conversation
            with self.lock:
                self.streams.append(conversation)

    def data(self, session, stream, data):
        """A part of a call arrives."""
        if stream.path == DISCOVERY and stream.claims is not None:
            for message in protobuf.grpc_frames(stream.data):
                try:
                    stream.conversation.request(REQUEST.read(message))
                except Refusal as refusal:
                    self._refuse(session, stream, refusal)

    def ended(self, session, stream):
        """The caller has said everything."""
        if stream.path != CERTIFICATES or stream.claims is None:
            return
        try:
            chain = self._certificate(stream)
        except Refusal as refusal:
            self._refuse(session, stream, refusal)
            return
        message = b"".join(protobuf.bytes_field(1, one) for one in chain)
        session.answer(stream, [(":status", "200"), ("content-type", "application/grpc")])
        session.send(stream, protobuf.grpc_frame(message))
        session.answer(stream, [("grpc-status", "0")], end=True)

    def reset(self, session, stream):
        """The caller gave up."""
        self._forget(lambda one: one.stream is stream)

    def finished(self, session, why):
        """The connection is over."""
        self._forget(lambda one: one.session is session)
        if session in self.sessions:
            self.sessions.remove(session)

    def _forget(self, gone):
        with self.lock:
            self.streams = [one for one in self.streams if not gone(one)]

    def _refuse(self, session, stream, refusal):
        self.note(event="refused", path=stream.path, status=refusal.status, why=refusal.why)
        self._forget(lambda one: one.stream is stream)
        if stream.end_sent:
            return
        trailers = [("grpc-status", str(refusal.status)), ("grpc-message", refusal.why)]
        head = [(":status", "200"), ("content-type", "application/grpc")]
        begun = stream.path == DISCOVERY and getattr(stream, "conversation", None)
        session.answer(stream, trailers if begun else head + trailers, end=True)

    # Certificates.

    def _certificate(self, stream):
        message = protobuf.grpc_message(bytes(stream.data))
        fields = dict(protobuf.fields(message))
        metadata = Struct.read(fields.get(4, b""))
        wanted = metadata.get("ImpersonatedIdentity", "")
        claims = stream.claims
        caller = f"{claims['namespace']}/{claims['serviceaccount']['name']}"
        node = claims["node"]["name"]
        if caller not in self.accounts:
            raise Refusal(UNAUTHENTICATED, f"{caller} is no trusted node account")
        parts = wanted.split("/")
        known = len(parts) == 7 and (node, parts[4], parts[6]) in self.pods
        if not known:
            raise Refusal(UNAUTHENTICATED, f"no pod of {wanted} on {node}")
        request = x509.load_pem_x509_csr(fields[1])
        problem = problem_of(request)
        seconds = min(fields.get(3, LONGEST), LONGEST)
        self.note(
            event="certificate",
            node=node,
            identity=wanted,
            caller=caller,
            headers=stream.names,
            clusterid=dict(stream.headers).get("clusterid"),
            fields=sorted(fields),
            metadata=sorted(metadata),
            asked_seconds=fields.get(3),
            problem=problem,
        )
        return self.issuer.chain(self.issuer.sign(request, wanted, seconds))

    # Resources.

    def set(self, addresses, policies, pods):
        """Replaces everything, and pushes what became different."""
        with self.lock:
            self.pods = {tuple(pod) for pod in pods}
            for type_url, contents in zip(CONTENT, (addresses, policies)):
                encoded = {}
                for name, content in contents.items():
                    data = CONTENT[type_url].write(content)
                    encoded[name] = (hashlib.sha256(data).hexdigest()[:16], data)
                self.resources[type_url] = encoded
            streams = list(self.streams)
        # Outside of the lock: threads of sessions, which have their own, wait for it.
        for conversation in streams:
            conversation.push()

    def close(self):
        """Ends the listener and every connection."""
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        self.drop()

    def drop(self):
        """Ends every connection; later ones are served."""
        for session in list(self.sessions):
            session.close()


class Refusal(Exception):
    """A gRPC status other than OK."""

    def __init__(self, status, why):
        super().__init__(why)
        self.status = status
        self.why = why


class Conversation:
    """One discovery stream."""

    def __init__(self, server, session, stream):
        self.server = server
        self.session = session
        self.stream = stream
        # Versions the caller has, by type; a type that is not here was not asked for.
        self.has = {}
        # Nonces that wait for an answer.
        self.waiting = {}

    def request(self, request):
        """A request, an ACK or a NACK."""
        type_url, nonce = request.get("type_url", ""), request.get("response_nonce", "")
        self.server.note(
            event="discovery",
            node=self.stream.claims["node"]["name"],
            headers=self.stream.names,
            request=request,
            answers=self.waiting.pop(nonce, None),
        )
        if type_url in self.has or type_url not in CONTENT:
            return
        self._check(request.get("node", {}))
        self.has[type_url] = dict(request.get("initial_resource_versions", {}))
        self._send(type_url, first=True)

    def _check(self, node):
        kind, *rest = node.get("id", "").split("~")
        if kind != "ztunnel" or len(rest) != 3:
            raise Refusal(PERMISSION_DENIED, f"node id {node.get('id')!r}")
        claimed, real = node.get("metadata", {}).get("NAMESPACE"), self.stream.claims["namespace"]
        if claimed != real or rest[1].split(".")[-1] != real:
            raise Refusal(PERMISSION_DENIED, f"{claimed!r} is not the token's namespace {real!r}")

    def push(self):
        """Sends what became different."""
        with self.session.lock:
            for type_url in list(self.has):
                self._send(type_url)

    def _send(self, type_url, first=False):
        has, offered = self.has[type_url], self.server.resources[type_url]
        changed = {
            name: entry
            for name, entry in offered.items()
            if not has.get(name) or has[name] != entry[0]
        }
        gone = sorted(set(has) - set(offered))
        if not (changed or gone or first):
            return
        nonce = base64.b64encode(secrets.token_bytes(12)).decode()
        resources = []
        for name, (version, data) in changed.items():
            value = base64.b64encode(data).decode()
            body = {"type_url": type_url, "value": value}
            resources.append({"version": version, "resource": body, "name": name})
        response = {
            "system_version_info": f"2026-01-01T00:00:00Z/{len(self.server.log)}",
            "resources": resources,
            "type_url": type_url,
            "nonce": nonce,
            "removed_resources": gone,
        }
        self.waiting[nonce] = {"sent": sorted(changed), "removed": gone}
        self.has[type_url] = {name: version for name, (version, _) in offered.items()}
        self.session.send(self.stream, protobuf.grpc_frame(RESPONSE.write(response)))


def _segment(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
