"""What ztunnel makes of discovery: where a connection goes, and whether one may come in.

The decisions alone, written from their description; sockets are the peer's.
"""

import ipaddress

from messages import ADDRESS_TYPE, AUTHORIZATION_TYPE

HBONE = 15008


def octets(ip):
    """An address as it stands in resources, in hexadecimal."""
    return ipaddress.ip_address(ip).packed.hex()


def text(address):
    """The other way round."""
    return str(ipaddress.ip_address(bytes.fromhex(address)))


def identity(workload):
    """The SPIFFE identity of a workload."""
    domain = workload.get("trust_domain") or "cluster.local"
    account = workload.get("service_account") or "default"
    return f"spiffe://{domain}/ns/{workload.get('namespace', '')}/sa/{account}"


class View:
    """The mesh as discovery describes it."""

    def __init__(self, discovery, network=""):
        self.addresses = discovery.held[ADDRESS_TYPE]
        self.policies = discovery.held[AUTHORIZATION_TYPE]
        self.network = network

    def workloads(self):
        """Every workload."""
        return [one["workload"] for one in self.addresses.values() if "workload" in one]

    def workload_at(self, ip):
        """The workload with an address; pods before others. Host network is nobody's address."""
        wanted = octets(ip)
        found = [
            one
            for one in self.workloads()
            if wanted in one.get("addresses", [])
            and one.get("network", "") == self.network
            and one.get("network_mode") != "HOST_NETWORK"
        ]
        found.sort(key=lambda one: "//Pod/" not in one["uid"])
        return found[0] if found else None

    def service_at(self, ip, namespace):
        """The service with a virtual address; the client's namespace first, then the canonical."""
        wanted = octets(ip)
        found = [
            one["service"]
            for one in self.addresses.values()
            if any(
                vip.get("address") == wanted and vip.get("network", "") == self.network
                for vip in one.get("service", {}).get("addresses", [])
            )
        ]
        found.sort(key=lambda one: (one.get("namespace") != namespace, not one.get("canonical")))
        return found[0] if found else None

    # A connection that goes out.

    def route(self, source, ip, port):
        """Where ztunnel sends a connection of the pod at `source` to `ip`:`port`."""
        own = self.workload_at(source)
        if own is None:
            return {"error": f"no workload has {source}"}
        target = self.workload_at(ip)
        if target is not None:
            return self._to(target, ip, port, [])
        service = self.service_at(ip, own.get("namespace"))
        if service is None:
            return {"plain": [ip, port]}
        if service.get("load_balancing", {}).get("mode") == "PASSTHROUGH":
            return {"plain": [ip, port]}
        return self._endpoint(own, service, ip, port)

    def _endpoint(self, own, service, ip, port):
        key = f"{service['namespace']}/{service['hostname']}"
        allow_all = service.get("load_balancing", {}).get("health_policy") == "ALLOW_ALL"
        choices = []
        for workload in self.workloads():
            ports = workload.get("services", {}).get(key)
            if ports is None or (workload.get("status") == "UNHEALTHY" and not allow_all):
                continue
            target = _target_port(service, ports.get("ports", []), port)
            family = ipaddress.ip_address(ip).version
            for address in map(text, workload.get("addresses", [])):
                if target and ipaddress.ip_address(address).version == family:
                    choices.append((self._rank(own, workload, service), workload, address, target))
        if not choices:
            return {"error": f"no endpoint of {key} for port {port}"}
        best = max(rank for rank, *_ in choices)
        if service.get("load_balancing", {}).get("mode") == "STRICT":
            wanted = len(service["load_balancing"].get("routing_preference", []))
            if best < wanted:
                return {"error": f"no endpoint of {key} is near enough"}
        nearest = [choice for choice in choices if choice[0] == best]
        _, workload, address, target = sorted(nearest, key=lambda choice: choice[1]["uid"])[0]
        found = self._to(workload, address, target, service.get("subject_alt_names", []))
        return {**found, "service": key, "choices": sorted({one[1]["uid"] for one in nearest})}

    def _rank(self, own, workload, service):
        balancing = service.get("load_balancing", {})
        if balancing.get("mode", "UNSPECIFIED") == "UNSPECIFIED":
            return 0
        here, there = own.get("locality", {}), workload.get("locality", {})
        same = {
            "NETWORK": own.get("network", "") == workload.get("network", ""),
            "REGION": here.get("region") == there.get("region"),
            "ZONE": here.get("zone") == there.get("zone"),
            "SUBZONE": here.get("subzone") == there.get("subzone"),
            "NODE": own.get("node") == workload.get("node"),
            "CLUSTER": own.get("cluster_id") == workload.get("cluster_id"),
        }
        rank = 0
        for scope in balancing.get("routing_preference", []):
            if not same.get(scope):
                break
            rank += 1
        return rank

    @staticmethod
    def _to(workload, ip, port, names):
        if workload.get("tunnel_protocol") != "HBONE":
            return {"plain": [ip, port], "uid": workload["uid"]}
        authority = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
        return {
            "tunnel": [ip, HBONE],
            "authority": authority,
            "identities": sorted({identity(workload), *names}),
            "uid": workload["uid"],
        }

    # A connection that comes in.

    def allows(self, ip, port, source_ip, source_identity):
        """Whether a connection to the pod at `ip` is allowed, and why: (allowed, policy)."""
        own = self.workload_at(ip)
        if own is None:
            return False, "unknown workload"
        applied = []
        for key, policy in sorted(self.policies.items()):
            scope = policy.get("scope", "GLOBAL")
            listed = scope == "WORKLOAD_SELECTOR" and key in own.get("authorization_policies", [])
            here = scope == "NAMESPACE" and policy.get("namespace") == own.get("namespace")
            if (scope == "GLOBAL" or listed or here) and not policy.get("dry_run"):
                applied.append((key, policy))
        facts = (ip, port, source_ip, source_identity)
        for key, policy in applied:
            if policy.get("action") == "DENY" and _policy(policy, facts):
                return False, key
        allows = [(key, policy) for key, policy in applied if policy.get("action") != "DENY"]
        for key, policy in allows:
            if _policy(policy, facts):
                return True, key
        return not allows, "no policy" if not allows else "no allow policy matches"


def _target_port(service, ports, wanted):
    for port in ports:
        if port.get("service_port") == wanted and port.get("target_port"):
            return port["target_port"]
    for port in service.get("ports", []):
        if port.get("service_port") == wanted:
            return port.get("target_port")
    return None


def _policy(policy, facts):
    return any(
        all(_clause(clause, facts) for clause in group.get("rules", []))
        for group in policy.get("groups", [])
    )


def _clause(clause, facts):
    matches = clause.get("matches", [])
    # An empty match says nothing; a clause of nothing else matches nothing.
    return not matches or any(_match(match, facts) for match in matches if match)


def _match(match, facts):
    ip, port, source_ip, source = facts
    name = (source or "").removeprefix("spiffe://")
    parts = name.split("/")
    namespace, account = (parts[2], parts[4]) if len(parts) == 5 else ("", "")
    tests = {
        "principals": lambda one: bool(source) and _string(one, name),
        "namespaces": lambda one: _string(one, namespace),
        "service_accounts": lambda one: bool(source)
        and (one.get("namespace"), one.get("serviceAccount")) == (namespace, account),
        "source_ips": lambda one: _block(one, source_ip),
        "destination_ips": lambda one: _block(one, ip),
        "destination_ports": lambda one: one == port,
    }
    for field, test in tests.items():
        positive, negative = match.get(field), match.get(f"not_{field}")
        if positive and not any(map(test, positive)):
            return False
        if negative and any(map(test, negative)):
            return False
    return True


def _string(match, value):
    if "presence" in match:
        return value != ""
    if "prefix" in match:
        return value.startswith(match["prefix"])
    if "suffix" in match:
        return value.endswith(match["suffix"])
    return value == match.get("exact")


def _block(block, ip):
    network = f"{text(block['address'])}/{block.get('length', 0)}"
    return ipaddress.ip_address(ip) in ipaddress.ip_network(network, strict=False)
