//! What can be found wrong, by code. One word is used in `culvert check`, in conditions, in events
//! and in the webhook's answers; README has the same table.

use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Works as written.
    Info,
    /// Works, but not the way it may read.
    Warning,
    /// Has no effect, or not the one it says.
    Error,
}

impl Severity {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $severity:ident, $advice:literal;)*) => {
        /// What was found.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code, in the order of README's table.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The word: lower case, with dashes.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// The same for a condition's or event's `reason`, which has a form of its own.
            pub fn reason(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// How much it matters.
            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$name => Severity::$severity,)*
                }
            }

            /// What to do about it.
            pub fn advice(self) -> &'static str {
                match self {
                    $(Self::$name => $advice,)*
                }
            }
        }
    };
}

codes! {
    /// It cannot be read; the last good version, if there was one, stays in force.
    Invalid = "invalid", Error, "Mend the field that the message names.";
    /// A kind of Istio or the Gateway API that this release does not read: it has no effect here.
    KindNotRead = "kind-not-read", Warning, "Do not rely on it in namespaces of this mesh.";
    /// A label that enrols has a value that means nothing and counts as not set.
    LabelValueUnknown = "label-value-unknown", Error, "Use one of the values in the message.";
    /// A service account makes no valid identity, so what runs as it is not in the mesh.
    IdentityInvalid = "identity-invalid", Error, "Rename the service account.";
    /// A pod that is in the host's network asks to be enrolled; it cannot be.
    HostNetworkOptedIn = "host-network-opted-in", Warning, "Take the label off, or hostNetwork.";
    /// The namespace is in the mesh and some of its pods are not.
    NamespaceHalfEnrolled = "namespace-half-enrolled", Warning, "Look at the pods named; each is given with its reason.";
    /// The policy's action is not one that nodes enforce; the policy has no effect.
    ActionUnsupported = "action-unsupported", Error, "Use ALLOW or DENY.";
    /// Nobody enforces the policy: it needs requests, and what it is attached to does not exist, is
    /// not Culvert's, or is a service behind no waypoint.
    TargetUnsupported = "target-unsupported", Error, "Attach it to a Gateway of Culvert's, or put the service behind a waypoint.";
    /// One of several things that the policy is attached to enforces nothing.
    TargetMissing = "target-missing", Warning, "Make it, or take the target off.";
    /// A rule uses something that gateways cannot decide; they refuse more than it reads.
    NotDecided = "not-decided", Warning, "Mend what the message names, or leave it out.";
    /// A label names a waypoint that does not exist or does not let the namespace in: connections to
    /// what is behind it are refused.
    WaypointMissing = "waypoint-missing", Warning, "Make the waypoint, take the label off, or say `none`.";
    /// A rule uses fields of HTTP requests, and nodes decide by connection: an ALLOW rule is left
    /// out, a DENY rule denies on what remains of it.
    L7AtL4 = "l7-at-l4", Warning, "Write the rule with ports and identities.";
    /// An ALLOW policy without a rule in force: everything it applies to refuses every connection.
    AllowsNothing = "allows-nothing", Info, "Nothing when that is meant.";
    /// A DENY policy without a rule.
    DeniesNothing = "denies-nothing", Warning, "Add a rule, or delete the policy.";
    /// A `*` that is neither first nor last in its text is compared as it is.
    WildcardInside = "wildcard-inside", Warning, "Put the `*` at one end.";
    /// A principal begins with `spiffe://` and so matches nobody.
    PrincipalWithScheme = "principal-with-scheme", Warning, "Leave the scheme off.";
    /// A principal is of a trust domain that is not the mesh's; nobody has such an identity.
    TrustDomainForeign = "trust-domain-foreign", Warning, "Use the mesh's trust domain.";
    /// A rule names a namespace that does not exist.
    NamespaceUnknown = "namespace-unknown", Warning, "Look for a misspelling.";
    /// A rule or a pod names a service account that does not exist.
    AccountUnknown = "account-unknown", Warning, "Look for a misspelling; create the account.";
    /// An ALLOW rule asks for an identity whose pods are all outside of the mesh: they have none to
    /// show, and are refused.
    PrincipalNotMeshed = "principal-not-meshed", Warning, "Enrol those pods, or allow their addresses.";
    /// Another rule with the same action matches everything this one matches.
    RuleShadowed = "rule-shadowed", Warning, "Delete one of the two.";
    /// A DENY rule refuses everything this ALLOW rule allows.
    AllowUnreachable = "allow-unreachable", Warning, "Delete one of the two, or narrow the DENY rule.";
    /// A selector selects no pod.
    MatchesNoPod = "matches-no-pod", Warning, "Compare it with the pods' labels.";
    /// A policy selects pods that are not in the mesh; nobody enforces it there.
    NotEnforcedOutsideMesh = "not-enforced-outside-mesh", Warning, "Enrol them.";
    /// A pod refuses plaintext, and pods of its own namespace that are outside of the mesh have
    /// nothing else.
    StrictShutsOut = "strict-shuts-out", Warning, "Enrol them, or make the ports they need PERMISSIVE.";
    /// A PeerAuthentication with a selector in the root namespace has no effect.
    RootSelector = "root-selector", Error, "Put it into the namespaces it is for.";
    /// An older PeerAuthentication of the same extent is in force instead.
    PeerAuthenticationConflict = "peer-authentication-conflict", Error, "Delete one of the two.";
    /// portLevelMtls counts only together with a selector.
    PortsWithoutSelector = "ports-without-selector", Error, "Add a selector.";
    /// DISABLE counts as PERMISSIVE: a node never refuses a tunnel.
    DisableAsPermissive = "disable-as-permissive", Info, "Nothing.";
    /// A Service's selector selects no pod.
    ServiceSelectsNothing = "service-selects-nothing", Warning, "Compare it with the pods' labels.";
    /// A Service's port leads to a named port that none of its pods has.
    TargetPortUnknown = "target-port-unknown", Warning, "Name the port in the pods, or use its number.";
    /// Something in an EndpointSlice cannot be used.
    EndpointSliceUnusable = "endpoint-slice-unusable", Warning, "Look at what writes the slice.";
    /// Two pods, or two Services, have the same address; which of them is reached is chance.
    AddressTwice = "address-twice", Error, "Find out which of them is stale.";
    /// A host is taken already by a Service or an older ServiceEntry; it has no effect here.
    HostConflict = "host-conflict", Error, "Delete one of the two.";
    /// A host belongs to another namespace: it stands in an older ServiceEntry there, or is a name
    /// that Kubernetes gives. Only clients of the entry's own namespace go by the entry.
    HostElsewhere = "host-elsewhere", Warning, "Use a host of your own, unless that is meant.";
    /// A block of addresses in a ServiceEntry is not supported; connections to it go out without
    /// the mesh.
    AddressBlock = "address-block", Warning, "List single addresses.";
    /// `exportTo` of a ServiceEntry lists namespaces: it holds for routes, and the names and addresses are
    /// known in every namespace.
    ExportList = "export-list", Warning, "Export it to `.` or `*`, or take it as said for routes only.";
    /// A ServiceEntry without an address: clients resolve its hosts and connect without the mesh.
    EntryWithoutAddress = "entry-without-address", Info, "Give it an address, when it shall be one of the mesh's.";
    /// A wildcard host whose names are to be resolved, without a waypoint: nothing says which name a
    /// connection is for.
    EndpointByName = "endpoint-by-name", Warning, "Bind the entry to a waypoint, or list the hosts.";
    /// Resolution is STATIC, and an endpoint has no address or there is none.
    StaticWithoutAddress = "static-without-address", Error, "Give addresses, or another resolution.";
    /// An endpoint is a Unix socket, which other machines cannot reach.
    UnixEndpoint = "unix-endpoint", Error, "Give an address.";
    /// A ServiceEntry's selector selects neither a pod nor a WorkloadEntry.
    EntrySelectsNothing = "entry-selects-nothing", Warning, "Compare it with their labels.";
    /// MeshConfig names another trust domain than the control plane was started with; it has no
    /// effect.
    TrustDomainDiffers = "trust-domain-differs", Error, "Make them the same.";
    /// There are more rules in one namespace than are compared with each other.
    CheckBounded = "check-bounded", Info, "Nothing; shadowed rules may go unnoticed there.";
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}
