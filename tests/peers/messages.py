"""The messages of Istio's ambient mode, by field number, in words of our own.

Written from the published descriptions of discovery, workloads and policies, not from anybody's
generated code: a second opinion on what stands on the wire. A message is a dict of the fields that
are present; whatever is not described is kept under "?" as field numbers.
"""

import base64

import protobuf

VARINT, LENGTH = 0, 2


class Text:
    """UTF-8."""

    wire = LENGTH

    @staticmethod
    def read(value):
        """From the wire."""
        return value.decode("utf-8")

    @staticmethod
    def write(value):
        """To the wire."""
        return value.encode()


class Octets:
    """Bytes, in hexadecimal here."""

    wire = LENGTH

    @staticmethod
    def read(value):
        """From the wire."""
        return value.hex()

    @staticmethod
    def write(value):
        """To the wire."""
        return bytes.fromhex(value)


class Number:
    """A number that is not negative."""

    wire = VARINT

    @staticmethod
    def read(value):
        """From the wire."""
        return value

    @staticmethod
    def write(value):
        """To the wire."""
        return value


class Flag(Number):
    """True or false."""

    @staticmethod
    def read(value):
        """From the wire."""
        return bool(value)

    @staticmethod
    def write(value):
        """To the wire."""
        return int(value)


class Choice:
    """One word of a list; the first is 0. Another number stays a number."""

    wire = VARINT

    def __init__(self, *words):
        self.words = words

    def read(self, value):
        """From the wire."""
        return self.words[value] if value < len(self.words) else value

    def write(self, value):
        """To the wire."""
        return value if isinstance(value, int) else self.words.index(value)


class Message:
    """A message: `name=(number, kind)`, or `(number, kind, "many")`, or `(number, kind, "map")`."""

    wire = LENGTH

    def __init__(self, **described):
        self.by_name = {
            name: (entry[0], entry[1], entry[2] if len(entry) > 2 else "one")
            for name, entry in described.items()
        }
        self.by_number = {entry[0]: (name, *entry[1:]) for name, entry in self.by_name.items()}

    def read(self, data):
        """From the wire."""
        found = {}
        for number, wire, value in protobuf.parts(data):
            if number not in self.by_number:
                found.setdefault("?", []).append(number)
                continue
            name, kind, how = self.by_number[number]
            if how == "many" and kind.wire == VARINT and wire == LENGTH:
                found.setdefault(name, []).extend(map(kind.read, protobuf.numbers(value)))
                continue
            if wire != kind.wire:
                raise ValueError(f"{name}: wire type {wire} in the place of {kind.wire}")
            if how == "one":
                found[name] = kind.read(value)
            elif how == "many":
                found.setdefault(name, []).append(kind.read(value))
            else:
                pair = dict(protobuf.fields(value))
                found.setdefault(name, {})[pair.get(1, b"").decode()] = kind.read(pair.get(2, b""))
        return found

    def write(self, fields):
        """To the wire, in the order of field numbers."""
        out = b""
        for name in sorted(fields, key=lambda name: self.by_name[name][0]):
            number, kind, how = self.by_name[name]
            value = fields[name]
            if how == "map":
                for key, inner in value.items():
                    pair = protobuf.bytes_field(1, key) + protobuf.bytes_field(2, kind.write(inner))
                    out += protobuf.bytes_field(number, pair)
            elif how == "many" and kind.wire == VARINT:
                packed = b"".join(protobuf.varint(kind.write(one)) for one in value)
                out += protobuf.bytes_field(number, packed)
            else:
                for one in value if how == "many" else [value]:
                    out += _field(number, kind, one)
        return out


def _field(number, kind, value):
    encode = protobuf.number_field if kind.wire == VARINT else protobuf.bytes_field
    return encode(number, kind.write(value))


class Any:
    """google.protobuf.Any, its content in base64."""

    wire = LENGTH

    @staticmethod
    def read(value):
        """From the wire."""
        found = dict(protobuf.fields(value))
        content = base64.b64encode(found.get(2, b"")).decode()
        return {"type_url": found.get(1, b"").decode(), "value": content}

    @staticmethod
    def write(value):
        """To the wire."""
        content = base64.b64decode(value["value"])
        return protobuf.bytes_field(1, value["type_url"]) + protobuf.bytes_field(2, content)


class Struct:
    """google.protobuf.Struct of texts; values of other kinds are None here."""

    wire = LENGTH

    @staticmethod
    def read(value):
        """From the wire."""
        found = {}
        for number, entry in protobuf.fields(value):
            if number == 1:
                pair = dict(protobuf.fields(entry))
                text = dict(protobuf.fields(pair.get(2, b""))).get(3)
                found[pair[1].decode()] = text.decode() if isinstance(text, bytes) else None
        return found

    @staticmethod
    def write(value):
        """To the wire."""
        return protobuf.string_struct(value)


# Discovery: envoy.service.discovery.v3, with what a node says of itself.

NODE = Message(
    id=(1, Text),
    cluster=(2, Text),
    metadata=(3, Struct),
    locality=(4, Octets),
    build_version=(5, Text),
)
STATUS = Message(code=(1, Number), message=(2, Text))
REQUEST = Message(
    node=(1, NODE),
    type_url=(2, Text),
    resource_names_subscribe=(3, Text, "many"),
    resource_names_unsubscribe=(4, Text, "many"),
    initial_resource_versions=(5, Text, "map"),
    response_nonce=(6, Text),
    error_detail=(7, STATUS),
)
RESOURCE = Message(
    version=(1, Text),
    resource=(2, Any),
    name=(3, Text),
    aliases=(4, Text, "many"),
)
RESPONSE = Message(
    system_version_info=(1, Text),
    resources=(2, RESOURCE, "many"),
    type_url=(4, Text),
    nonce=(5, Text),
    removed_resources=(6, Text, "many"),
)

# Workloads and services: istio.workload.

NETWORK_ADDRESS = Message(network=(1, Text), address=(2, Octets), length=(3, Number))
NAMESPACED_HOSTNAME = Message(namespace=(1, Text), hostname=(2, Text))
GATEWAY = Message(
    hostname=(1, NAMESPACED_HOSTNAME),
    address=(2, NETWORK_ADDRESS),
    hbone_mtls_port=(3, Number),
)
PORT = Message(
    service_port=(1, Number),
    target_port=(2, Number),
    app_protocol=(3, Choice("UNKNOWN", "HTTP11", "HTTP2", "GRPC", "TCP", "TLS")),
)
PORT_LIST = Message(ports=(1, PORT, "many"))
LOCALITY = Message(region=(1, Text), zone=(2, Text), subzone=(3, Text))
EXTENSION = Message(name=(1, Text), config=(2, Any))
SCOPES = Choice("UNSPECIFIED", "REGION", "ZONE", "SUBZONE", "NODE", "CLUSTER", "NETWORK")
LOAD_BALANCING = Message(
    routing_preference=(1, SCOPES, "many"),
    mode=(2, Choice("UNSPECIFIED", "STRICT", "FAILOVER", "PASSTHROUGH")),
    health_policy=(3, Choice("ONLY_HEALTHY", "ALLOW_ALL")),
)
SERVICE = Message(
    name=(1, Text),
    namespace=(2, Text),
    hostname=(3, Text),
    addresses=(4, NETWORK_ADDRESS, "many"),
    ports=(5, PORT, "many"),
    subject_alt_names=(6, Text, "many"),
    waypoint=(7, GATEWAY),
    load_balancing=(8, LOAD_BALANCING),
    ip_families=(9, Choice("AUTOMATIC", "IPV4_ONLY", "IPV6_ONLY", "DUAL")),
    extensions=(10, EXTENSION, "many"),
    canonical=(11, Flag),
    ingress_use_waypoint=(12, Flag),
    weighted_waypoints=(13, Message(destination=(1, GATEWAY), weight=(2, Number)), "many"),
    visibility=(14, Choice("PUBLIC", "NAMESPACE")),
)
WORKLOAD = Message(
    name=(1, Text),
    namespace=(2, Text),
    addresses=(3, Octets, "many"),
    network=(4, Text),
    tunnel_protocol=(5, Choice("NONE", "HBONE", "LEGACY_ISTIO_MTLS")),
    trust_domain=(6, Text),
    service_account=(7, Text),
    waypoint=(8, GATEWAY),
    node=(9, Text),
    canonical_name=(10, Text),
    canonical_revision=(11, Text),
    workload_type=(12, Choice("DEPLOYMENT", "CRONJOB", "POD", "JOB")),
    workload_name=(13, Text),
    native_tunnel=(14, Flag),
    authorization_policies=(16, Text, "many"),
    status=(17, Choice("HEALTHY", "UNHEALTHY")),
    cluster_id=(18, Text),
    network_gateway=(19, GATEWAY),
    uid=(20, Text),
    hostname=(21, Text),
    services=(22, PORT_LIST, "map"),
    application_tunnel=(23, Message(protocol=(1, Choice("NONE", "PROXY")), port=(2, Number))),
    locality=(24, LOCALITY),
    network_mode=(25, Choice("STANDARD", "HOST_NETWORK")),
    extensions=(26, EXTENSION, "many"),
    capacity=(27, Message(value=(1, Number))),
)
ADDRESS = Message(workload=(1, WORKLOAD), service=(2, SERVICE))

# Policies: istio.security.

STRING_MATCH = Message(exact=(1, Text), prefix=(2, Text), suffix=(3, Text), presence=(4, Message()))
BLOCK = Message(address=(1, Octets), length=(2, Number))
ACCOUNT = Message(namespace=(1, Text), serviceAccount=(2, Text))
MATCH = Message(
    namespaces=(1, STRING_MATCH, "many"),
    not_namespaces=(2, STRING_MATCH, "many"),
    principals=(3, STRING_MATCH, "many"),
    not_principals=(4, STRING_MATCH, "many"),
    source_ips=(5, BLOCK, "many"),
    not_source_ips=(6, BLOCK, "many"),
    destination_ips=(7, BLOCK, "many"),
    not_destination_ips=(8, BLOCK, "many"),
    destination_ports=(9, Number, "many"),
    not_destination_ports=(10, Number, "many"),
    service_accounts=(11, ACCOUNT, "many"),
    not_service_accounts=(12, ACCOUNT, "many"),
    extensions=(13, EXTENSION, "many"),
)
AUTHORIZATION = Message(
    name=(1, Text),
    namespace=(2, Text),
    scope=(3, Choice("GLOBAL", "NAMESPACE", "WORKLOAD_SELECTOR")),
    action=(4, Choice("ALLOW", "DENY")),
    groups=(5, Message(rules=(1, Message(matches=(2, MATCH, "many")), "many")), "many"),
    dry_run=(6, Flag),
    extensions=(7, EXTENSION, "many"),
)

ADDRESS_TYPE = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION_TYPE = "type.googleapis.com/istio.security.Authorization"
CONTENT = {ADDRESS_TYPE: ADDRESS, AUTHORIZATION_TYPE: AUTHORIZATION}


def name_of(type_url, content):
    """The name a resource of this content must have."""
    if "workload" in content:
        return content["workload"].get("uid", "")
    if "service" in content:
        service = content["service"]
        return f"{service.get('namespace', '')}/{service.get('hostname', '')}"
    return f"{content.get('namespace', '')}/{content.get('name', '')}"
