use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use agent_control::{ClusterConfig, SourceChoice};

use super::node::EnrolmentServer;
use super::*;
use crate::cli::{Verb, parse};

const NODE: &[&str] = &[
    "--node-name",
    "n1",
    "--xds-address",
    "https://control:15012",
    "--root-cert",
    "/r.pem",
    "--token-file",
    "/token",
];

const CONTROL: &[&str] = &[
    "--manifests",
    "/m",
    "--node-tokens",
    "/t",
    "--serving-names",
    "control",
];

fn words(verb: &str, flags: &[&str], more: &[&str]) -> Vec<OsString> {
    ["culvert", verb]
        .iter()
        .chain(flags)
        .chain(more)
        .map(OsString::from)
        .collect()
}

fn node_of(flags: &[&str], more: &[&str]) -> Result<Node, ConfigError> {
    match parse(words("node", flags, more)).unwrap().verb {
        Verb::Node(flags) => node(*flags),
        other => panic!("{other:?}"),
    }
}

fn running(more: &[&str]) -> Result<NodeConfig, ConfigError> {
    match node_of(NODE, more)? {
        Node::Run(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

fn control_of(flags: &[&str], more: &[&str]) -> Result<ControlConfig, ConfigError> {
    match parse(words("control", flags, more)).unwrap().verb {
        Verb::Control(flags) => control(*flags),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_minimal_node_gets_the_documented_defaults() {
    let config = running(&[]).unwrap();
    assert_eq!(config.ca_address, "https://control:15012");
    assert_eq!(config.metrics_listen.port(), agent_model::METRICS_PORT);
    assert_eq!(config.ready_listen.port(), agent_model::READINESS_PORT);
    assert_eq!(config.trust_domain, "cluster.local");
    assert!(config.workers >= 1);
    assert_eq!(config.kernel.bpffs, Path::new("/sys/fs/bpf"));
}

#[test]
fn enrolment_is_the_control_planes_unless_a_companion_is_named() {
    let alone = running(&[]).unwrap().enrolment_server;
    let expected = EnrolmentServer {
        address: "https://control:15012".to_owned(),
        root_cert: "/r.pem".into(),
        token_file: "/token".into(),
        issues: true,
    };
    assert_eq!(alone, expected);
    let beside = [
        "--enrolment-address=companion:15012",
        "--enrolment-root-cert=/c.pem",
        "--enrolment-token-file=/c",
    ];
    let expected = EnrolmentServer {
        address: "https://companion:15012".to_owned(),
        root_cert: "/c.pem".into(),
        token_file: "/c".into(),
        issues: false,
    };
    assert_eq!(running(&beside).unwrap().enrolment_server, expected);
    // Whoever issues elsewhere is not asked for roots here.
    let issuer = running(&["--ca-address=issuer:15012"]).unwrap();
    assert!(!issuer.enrolment_server.issues);
    assert!(running(&["--enrolment-address=http://companion:15012"]).is_err());
}

#[test]
fn a_companion_needs_a_cluster() {
    let error = control_of(CONTROL, &["--companion"]).unwrap_err();
    assert!(error.to_string().contains("--kubernetes"), "{error}");
    let flags = ["--kubernetes", "--serving-names=control"];
    assert!(control_of(&flags, &["--companion"]).unwrap().companion);
    assert!(!control_of(&flags, &[]).unwrap().companion);
}

#[test]
fn a_missing_setting_is_named_in_all_its_forms() {
    let error = node_of(&NODE[2..], &[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "--node-name is required (or CULVERT_NODE_NAME, or the key \"node-name\" of the --config \
         file)"
    );
    for missing in 0..CONTROL.len() / 2 {
        let mut flags = CONTROL.to_vec();
        flags.drain(2 * missing..2 * missing + 2);
        let error = control_of(&flags, &[]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} is required", CONTROL[2 * missing])));
    }
}

#[test]
fn release_needs_only_the_kernel_settings() {
    let release = node_of(&["--release", "--bpffs", "/b"], &[]).unwrap();
    let Node::Release(config) = release else {
        panic!("not a release");
    };
    assert_eq!(config.kernel.bpffs, Path::new("/b"));
    assert_eq!(config.installation, None);
}

#[test]
fn the_plugin_is_installed_with_both_folders_or_not_at_all() {
    const BOTH: [&str; 4] = ["--cni-bin-dir", "/bin-dir", "--cni-conf-dir", "/conf-dir"];
    assert_eq!(running(&[]).unwrap().installation, None);
    let installation = running(&BOTH).unwrap().installation.unwrap();
    assert_eq!(installation.bin_dir, Path::new("/bin-dir"));
    assert_eq!(installation.conf_dir, Path::new("/conf-dir"));
    assert_eq!(installation.program.file_name().unwrap(), "culvert-cni");
    assert_eq!(
        installation.agent_socket,
        Path::new("/run/culvert/cni.sock")
    );
    assert_eq!(
        installation.meshed_namespaces,
        Path::new("/var/lib/culvert/meshed-namespaces.json")
    );
    assert_eq!(installation.exclude_namespaces, ["culvert-system"]);
    for missing in [&BOTH[..2], &BOTH[2..]] {
        let error = running(missing).unwrap_err().to_string();
        assert!(error.contains("is required"), "{error}");
    }
    let relative = [&BOTH[..], &["--cni-socket", "cni.sock"]].concat();
    let error = running(&relative).unwrap_err().to_string();
    assert!(error.contains("absolute"), "{error}");
    // The same flags take it away again.
    let release = node_of(&[&BOTH[..], &["--release"]].concat(), &[]).unwrap();
    let found = match release {
        Node::Release(config) => config.installation,
        other => panic!("{other:?}"),
    };
    assert_eq!(found, Some(installation));
}

#[test]
fn tokens_go_to_https_only() {
    for (address, expected) in [
        ("http://ca:15012", "only https"),
        ("https://ca", "port is missing"),
        ("https://ca:15012/path", "path makes no sense"),
        ("https://ca:15012?x=y", "path makes no sense"),
        ("https://c a:15012", "not a URL"),
    ] {
        let error = running(&["--ca-address", address]).unwrap_err().to_string();
        assert!(error.contains(expected), "{address}: {error}");
    }
    for (address, expected) in [
        ("ca:15012", "https://ca:15012"),
        ("https://[fd00::1]:15012/", "https://[fd00::1]:15012"),
    ] {
        assert_eq!(
            running(&["--ca-address", address]).unwrap().ca_address,
            expected
        );
    }
}

#[test]
fn names_and_numbers_are_checked() {
    for flags in [
        ["--trust-domain", "not/one"],
        ["--cluster-id", ""],
        ["--cluster-id", "a b"],
        ["--workers", "257"],
    ] {
        assert!(running(&flags).is_err(), "{flags:?}");
    }
    assert!(control_of(CONTROL, &["--cert-ttl", "10ms"]).is_err());
    let error = control_of(CONTROL, &["--ca-cert", "/c"]).unwrap_err();
    assert!(error.to_string().starts_with("--ca-key is required"));
    let config = control_of(CONTROL, &["--cert-ttl", "5s"]).unwrap();
    assert_eq!(config.cert_ttl, Duration::from_secs(5));
    assert_eq!(config.listen.port(), agent_model::CONTROL_PORT);
    assert_eq!(
        config.metrics_listen.port(),
        agent_model::CONTROL_METRICS_PORT
    );
}

#[test]
fn the_mesh_comes_from_a_folder_or_a_cluster() {
    let cluster = [
        "--kubernetes",
        "--node-tokens",
        "/t",
        "--serving-names",
        "c",
    ];
    let of_cluster = |kubeconfig: Option<&str>| {
        let kubeconfig = kubeconfig.map(PathBuf::from);
        SourceChoice::Kubernetes(ClusterConfig { kubeconfig })
    };
    let config = control_of(&cluster, &[]).unwrap();
    assert_eq!(config.source, of_cluster(None));
    let config = control_of(&cluster, &["--kubeconfig", "/k"]).unwrap();
    assert_eq!(config.source, of_cluster(Some("/k")));
    assert_eq!(
        control_of(CONTROL, &[]).unwrap().source,
        SourceChoice::Folder("/m".into())
    );
    // Tokens of service accounts admit nodes there, a file may besides.
    let config = control_of(&["--kubernetes", "--serving-names", "c"], &[]).unwrap();
    assert_eq!(config.node_tokens, None);
    let reviews = config.token_reviews.unwrap();
    assert_eq!(reviews.audiences, ["culvert"]);
    assert_eq!(
        reviews.accounts[0].to_string(),
        "culvert-system/culvert-node"
    );
    let flags = ["--node-account", "a/b,c/d", "--token-audience", "istio-ca"];
    let reviews = control_of(&cluster, &flags).unwrap().token_reviews.unwrap();
    assert_eq!(
        (reviews.accounts.len(), reviews.audiences[0].as_str()),
        (2, "istio-ca")
    );
    assert_eq!(control_of(CONTROL, &[]).unwrap().token_reviews, None);
    let both = control_of(CONTROL, &["--kubernetes"]).unwrap_err();
    assert!(both.to_string().starts_with("--manifests \"/m\""), "{both}");
    let stray = control_of(CONTROL, &["--kubeconfig", "/k"]).unwrap_err();
    assert!(stray.to_string().starts_with("--kubeconfig"), "{stray}");
}
