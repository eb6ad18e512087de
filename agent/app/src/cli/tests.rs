use std::io::Write;

use super::*;

fn args(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// A file that is removed when the test ends.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("culvert-{}-{name}", std::process::id()));
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Self(path)
    }

    fn as_str(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn node(words: &[&str]) -> Result<NodeFlags, CliError> {
    let mut all = vec!["culvert", "node"];
    all.extend(words);
    match parse(args(&all))?.verb {
        Verb::Node(flags) => Ok(*flags),
        other => panic!("{other:?}"),
    }
}

fn control(words: &[&str]) -> Result<ControlFlags, CliError> {
    let mut all = vec!["culvert", "control"];
    all.extend(words);
    match parse(args(&all))?.verb {
        Verb::Control(flags) => Ok(*flags),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn every_flag_of_a_role_has_its_variable_and_help() {
    for verb in [
        "node",
        "control",
        "gateway",
        "status",
        "routes",
        "config-dump",
        "why",
        "check",
        "install",
    ] {
        let command = Arguments::command();
        let verb = command.find_subcommand(verb).unwrap();
        for flag in verb.get_arguments().filter(|f| f.get_long().is_some()) {
            let long = flag.get_long().unwrap();
            if matches!(long, "help" | "version") {
                continue;
            }
            let variable = format!("CULVERT_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(flag.get_env().unwrap(), variable.as_str(), "--{long}");
            assert!(flag.get_help().is_some(), "--{long}");
        }
    }
}

#[test]
fn the_stable_flags_exist() {
    let command = Arguments::command();
    let has = |verb: &str, flags: &str| {
        let verb = command.find_subcommand(verb).unwrap();
        for flag in flags.split(' ') {
            assert!(
                verb.get_arguments().any(|a| a.get_long() == Some(flag)),
                "{flag}"
            );
        }
    };
    has(
        "node",
        "node-name xds-address ca-address root-cert token-file state-dir bpffs cgroup-root \
         host-netns cni-socket admin-socket metrics-listen ready-listen trust-domain cluster-id \
         network workers release",
    );
    has(
        "gateway",
        "gateway xds-address root-cert token-file listen-address admin-socket metrics-listen ready-listen workers",
    );
    has(
        "control",
        "manifests kubernetes kubeconfig listen node-tokens token-audience node-account state-dir trust-domain cert-ttl root-overlap serving-names",
    );
}

#[test]
fn names_are_answered_unless_that_is_switched_off() {
    for (given, expected) in [
        (&[][..], true),
        (&["--dns-capture"], true),
        (&["--dns-capture=true"], true),
        (&["--dns-capture=false"], false),
    ] {
        assert_eq!(node(given).unwrap().dns_capture, expected, "{given:?}");
    }
    let off = TempFile::new("names.yaml", "dns-capture: false\n");
    let flags = node(&["--config", off.as_str()]).unwrap();
    assert!(!flags.dns_capture);
}

#[test]
fn a_check_needs_something_to_look_at() {
    assert!(parse(args(&["culvert", "check"])).is_err());
    assert!(parse(args(&["culvert", "check", "--kubeconfig", "k", "a.yaml"])).is_err());
    let all = ["culvert", "check", "a.yaml", "b", "--strict", "--json"];
    match parse(args(&all)).unwrap().verb {
        Verb::Check(flags) => {
            assert_eq!(flags.paths, [PathBuf::from("a.yaml"), PathBuf::from("b")]);
            assert!(flags.strict && flags.json && !flags.kubernetes);
        }
        other => panic!("{other:?}"),
    }
    assert!(parse(args(&["culvert", "check", "--kubernetes"])).is_ok());
}

#[test]
fn the_file_gives_defaults_and_the_flag_wins() {
    let file = TempFile::new(
        "defaults.yaml",
        "node-name: from-file\nworkers: 3\nlog-json: true\nmetrics-listen: 127.0.0.1:1\n",
    );
    let flags = node(&["--config", file.as_str(), "--node-name", "from-flag"]).unwrap();
    assert_eq!(flags.node_name.as_deref(), Some("from-flag"));
    assert_eq!(flags.data_plane.workers.unwrap().get(), 3);
    assert!(flags.common.log_json);
    assert_eq!(flags.data_plane.metrics_listen.to_string(), "127.0.0.1:1");
    assert_eq!(flags.data_plane.ready_listen.to_string(), "[::]:15021");
}

#[test]
fn lists_may_be_written_as_lists() {
    let file = TempFile::new("list.yaml", "serving-names: [control, 10.0.0.1]\n");
    let flags = control(&["--config", file.as_str()]).unwrap();
    assert_eq!(flags.serving_names, ["control", "10.0.0.1"]);
    let flags = control(&["--serving-names", "a,b"]).unwrap();
    assert_eq!(flags.serving_names, ["a", "b"]);
}

#[test]
fn mistakes_in_the_file_name_file_and_key() {
    for (name, text, expected) in [
        ("unknown.yaml", "node-nam: x\n", "unknown key \"node-nam\""),
        ("config.yaml", "config: x\n", "unknown key \"config\""),
        ("help.yaml", "help: true\n", "unknown key \"help\""),
        (
            "nested.yaml",
            "node-name: {a: b}\n",
            "node-name: expected one value",
        ),
        ("syntax.yaml", "node-name: [\n", "syntax.yaml"),
        ("duplicate.yaml", "workers: 1\nworkers: 2\n", "duplicate"),
        ("type.yaml", "workers: many\n", "--workers"),
    ] {
        let file = TempFile::new(name, text);
        let error = node(&["--config", file.as_str()]).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    let error = node(&["--config", "/nonexistent/x.yaml"]).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/x.yaml"), "{error}");
}

#[test]
fn why_takes_a_pod_and_an_address() {
    let parsed = parse(args(&["culvert", "why", "shop/client", "[fd00::1]:80"])).unwrap();
    let Verb::Why(flags) = parsed.verb else {
        panic!("{parsed:?}")
    };
    assert_eq!(flags.source, "shop/client");
    assert_eq!(flags.destination.port(), 80);
    assert!(parse(args(&["culvert", "why", "shop/client", "web"])).is_err());
}
