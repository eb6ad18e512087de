"""The peer's operations as a whole node proxy: discovery, decisions, and tunnels by them."""

import ipaddress
import json
import os
import secrets

from discovery import Discovery
from istiod import Istiod
from ztunnel import View

# The port of the application's own connection, which nobody made here.
CLIENT_PORT = 40000


class Mesh:
    """Operations on discovery streams, by name; mixed into the peer."""

    def discover(
        self, name, url, root, node, token=None, token_file=None, cluster_id="Kubernetes",
        on_demand=False, refuse=(),
    ):
        """Opens a discovery stream. `node`: `pod`, `namespace`, `ip`, `node`, `metadata`."""
        if token is None:
            with open(token_file, encoding="ascii") as file:
                token = file.read().strip()
        made = Discovery(url, root, token, node, cluster_id, on_demand)
        made.refuse = set(refuse)
        self.discoveries[name] = made
        made.open()
        return {}

    def rediscover(self, name, abort=False):
        """Ends a stream and opens it again with what is known."""
        made = self.discoveries[name]
        made.close(abort=abort)
        made.responses.clear()
        made.clean.clear()
        made.open()
        return {}

    def undiscover(self, name):
        """Ends a stream for good."""
        self.discoveries.pop(name).close()
        return {}

    def refuse(self, name, names):
        """Refuses the resources of these names from now on, and no others."""
        made = self.discoveries[name]
        with made.changed:
            made.refuse = set(names)
        return {}

    def subscribe(self, name, names, unsubscribe=()):
        """Asks for addresses by name."""
        self.discoveries[name].subscribe(names, unsubscribe)
        return {}

    def known(self, name, ready=True, present=(), absent=(), rejected=(), responses=0, wait=10):
        """Waits until the proxy is ready, knows and does not know these names; then tells all."""
        made = self.discoveries[name]

        def met():
            told = made.describe()
            names = {*told["addresses"], *told["policies"]}
            return (
                (told["ready"] or not ready)
                and names.issuperset(present)
                and names.isdisjoint(absent)
                and set(rejected) <= set(told["rejected"])
                and len(told["responses"]) >= responses
            )

        made.wait(met, wait)
        with made.changed:
            # A copy: more may arrive while the answer is written.
            return {**json.loads(json.dumps(made.describe())), "in_time": met()}

    def route(self, name, source, to, network=""):
        """Where the proxy sends a connection of the pod at `source` to `[ip, port]`."""
        made = self.discoveries[name]
        with made.changed:
            return View(made, network).route(source, *to)

    def allows(self, name, to, source, by=None):
        """Whether the proxy lets a connection in to `[ip, port]`."""
        made = self.discoveries[name]
        with made.changed:
            allowed, policy = View(made).allows(*to, source, by)
        return {"allowed": allowed, "policy": policy}

    def carry(self, name, conn, source, to, cert, wait=10):
        """Carries a connection as ztunnel does: decides, dials from the pod's own address, checks
        who answers, and asks for the tunnel with the headers that it sends."""
        made = self.discoveries[name]
        with made.changed:
            view = View(made)
            found = view.route(source, *to)
            own = view.workload_at(source)
        if "tunnel" not in found:
            raise ValueError(f"no tunnel leads there: {found}")
        if conn not in self.connections:
            told = self.dial(conn, found["tunnel"], cert, source=[source, 0])
            if not set(told["identities"]) & set(found["identities"]):
                self.close(conn)
                raise PermissionError(f"{told['identities']} answers for {found['identities']}")
        headers = request_headers(own, source, found.get("service"), CLIENT_PORT)
        answer = self.connect(conn, found["authority"], headers, wait=wait)
        return {**answer, "route": found}

    def enforce(self, name, by):
        """Lets the server `name` admit tunnels by the policies of the discovery stream `by`."""
        made = self.discoveries[by]

        def decide(local, remote, identities, authority):
            host, _, port = authority.rpartition(":")
            ip = str(ipaddress.ip_address(host.strip("[]")))
            if ip != local:
                return 400, "another address"
            with made.changed:
                source = identities[0] if identities else None
                allowed, policy = View(made).allows(ip, int(port), remote, source)
            return (200 if allowed else 401), policy

        self.servers[name].decide = decide
        return {}


def request_headers(own, source, service, port):
    """The headers of a tunnel request, in ztunnel's order."""
    kind = own.get("workload_type", "DEPLOYMENT").lower()
    pairs = [
        ("k8s.cluster.name", own.get("cluster_id", "Kubernetes")),
        ("k8s.namespace.name", own.get("namespace", "")),
        (f"k8s.{kind}.name", own.get("workload_name", "")),
        ("service.name", own.get("canonical_name", "")),
        ("service.version", own.get("canonical_revision", "")),
        ("cloud.region", own.get("locality", {}).get("region", "")),
        ("cloud.availability_zone", own.get("locality", {}).get("zone", "")),
    ]
    baggage = ",".join(f"{key}={value}" for key, value in pairs if value)
    client = f"[{source}]:{port}" if ":" in source else f"{source}:{port}"
    host = f";host={service.split('/', 1)[1]}" if service else ""
    trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
    return [
        ["baggage", baggage],
        ["forwarded", f'for="{client}"{host}'],
        ["traceparent", trace],
    ]


class ControlPlanes:
    """Operations on control planes as istiod is one, by name; mixed into the peer."""

    def istiod(
        self, name, names, accounts, root_file, address="0.0.0.0", port=15012,
        audience="istio-ca",
    ):
        """Starts one and writes its roots to a file, as they stand in `istio-ca-root-cert`."""
        made = Istiod(self.directory, address, port, names, accounts, audience)
        self.planes[name] = made
        with open(root_file, "w", encoding="ascii") as file:
            file.write(made.issuer.roots())
        return {}

    def token(self, name, file, namespace, account, pod, node, audience="istio-ca"):
        """Writes a pod's token to a file."""
        with open(file, "w", encoding="ascii") as out:
            os.fchmod(out.fileno(), 0o600)
            out.write(self.planes[name].token(namespace, account, pod, node, audience))
        return {}

    def publish(self, name, addresses, policies, pods):
        """Offers these resources, by name, and knows these pods (node, namespace, account)."""
        self.planes[name].set(addresses, policies, pods)
        return {}

    def heard(self, name, clear=False):
        """What its callers did."""
        plane = self.planes[name]
        with plane.lock:
            seen = json.loads(json.dumps(plane.log))
            if clear:
                plane.log.clear()
            return {"events": seen, "streams": len(plane.streams)}

    def hang_up(self, name):
        """Ends every connection to it; it goes on listening."""
        self.planes[name].drop()
        return {}
