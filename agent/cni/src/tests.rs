use std::cell::RefCell;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

/// Environment of an ADD as containerd gives it.
fn environment(command: &str) -> Vec<(&'static str, String)> {
    vec![
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", "0a1b2c".to_owned()),
        ("CNI_NETNS", "/run/netns/cv-x-web".to_owned()),
        ("CNI_IFNAME", "eth0".to_owned()),
        (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u-1".to_owned(),
        ),
    ]
}

fn with(
    mut environment: Vec<(&'static str, String)>,
    key: &'static str,
    value: &str,
) -> Vec<(&'static str, String)> {
    environment.retain(|(name, _)| *name != key);
    environment.push((key, value.to_owned()));
    environment
}

fn configuration() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "type": "culvert-cni",
        "agentSocket": "/run/test/cni.sock",
        "meshedNamespaces": null,
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "cni0", "mac": "aa:bb:cc:dd:ee:ff"},
                {"name": "veth1", "mac": "aa:bb:cc:dd:ee:fe"},
                {"name": "eth0", "mac": "aa:bb:cc:dd:ee:fd", "sandbox": "/run/netns/cv-x-web"},
            ],
            "ips": [
                {"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2},
                {"address": "fd00:1::5/64", "gateway": "fd00:1::1", "interface": 2},
                {"address": "10.1.0.1/16", "interface": 0},
            ],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dns": {},
        },
    })
}

/// What the agent was asked, and what came out.
fn invoke(
    environment: &[(&str, String)],
    stdin: &[u8],
    answer: impl Fn() -> Result<CniReply, CallFailed>,
) -> (Vec<(String, Question)>, Outcome) {
    let asked = RefCell::new(Vec::new());
    let variable = |name: &str| {
        environment
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.clone())
    };
    let call = |socket: &str, question: &Question| {
        asked
            .borrow_mut()
            .push((socket.to_owned(), question.clone()));
        answer()
    };
    let outcome = run(variable, stdin, call, |list| match list.to_str() {
        Some("/lists/shop") => Meshed::Listed(["shop".to_owned()].into()),
        Some("/lists/web") => Meshed::Listed(["web".to_owned()].into()),
        Some("/lists/broken") => Meshed::Unreadable("half a line".to_owned()),
        _ => Meshed::Absent,
    });
    (asked.into_inner(), outcome)
}

fn done() -> Result<CniReply, CallFailed> {
    Ok(CniReply { error: None })
}

fn refused() -> Result<CniReply, CallFailed> {
    Ok(CniReply {
        error: Some("the namespace does not hold 10.1.0.5".to_owned()),
    })
}

fn gone() -> Result<CniReply, CallFailed> {
    Err(CallFailed::Connect(
        "/run/test/cni.sock".into(),
        io::ErrorKind::NotFound.into(),
    ))
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[track_caller]
fn assert_fails(outcome: &Outcome, code: u32) -> Value {
    assert_eq!(outcome.exit_code, 1, "{outcome:?}");
    let error: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(error["code"], code, "{error}");
    assert!(SUPPORTED_VERSIONS.contains(&error["cniVersion"].as_str().unwrap()));
    assert!(!error["msg"].as_str().unwrap().is_empty());
    error
}

#[test]
fn add_enrols_the_pod_and_passes_the_result_through() {
    let config = configuration();
    let (asked, outcome) = invoke(&environment("ADD"), &bytes(&config), done);
    assert_eq!(outcome.exit_code, 0);
    let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(result, config["prevResult"]);
    let pod = PodInfo {
        container_id: "0a1b2c".into(),
        uid: "u-1".into(),
        name: "web".into(),
        namespace: "shop".into(),
        netns: "/run/netns/cv-x-web".into(),
        ips: vec!["10.1.0.5".parse().unwrap(), "fd00:1::5".parse().unwrap()],
    };
    let question = Question::Pod(CniRequest {
        verb: CniVerb::Add,
        pod,
    });
    assert_eq!(asked, [("/run/test/cni.sock".to_owned(), question)]);
}

#[test]
fn every_supported_version_works_and_no_other() {
    for version in SUPPORTED_VERSIONS {
        let mut config = configuration();
        config["cniVersion"] = version.into();
        let (_, outcome) = invoke(&environment("ADD"), &bytes(&config), done);
        assert_eq!(outcome.exit_code, 0, "{version}");
    }
    for version in [
        json!("0.2.0"),
        json!("0.3.0"),
        json!("1.2.0"),
        json!("x"),
        json!(""),
    ] {
        let mut config = configuration();
        config["cniVersion"] = version;
        let (asked, outcome) = invoke(&environment("ADD"), &bytes(&config), done);
        assert_fails(&outcome, 1);
        assert!(asked.is_empty());
    }
    let mut config = configuration();
    config.as_object_mut().unwrap().remove("cniVersion");
    assert_fails(&invoke(&environment("ADD"), &bytes(&config), done).1, 1);
}

#[test]
fn commands_are_as_old_as_the_specification_says() {
    for (command, since) in [("CHECK", 1), ("STATUS", 3), ("GC", 3)] {
        for (place, version) in SUPPORTED_VERSIONS.iter().enumerate() {
            let mut config = configuration();
            config["cniVersion"] = (*version).into();
            let (_, outcome) = invoke(&environment(command), &bytes(&config), done);
            if place >= since {
                assert_eq!(outcome, Outcome::default(), "{command}");
            } else {
                assert_fails(&outcome, 1);
            }
        }
    }
}

#[test]
fn add_fails_closed_without_the_agent() {
    let config = bytes(&configuration());
    let (_, outcome) = invoke(&environment("ADD"), &config, gone);
    let error = assert_fails(&outcome, 11);
    assert!(
        error["details"]
            .as_str()
            .unwrap()
            .contains("/run/test/cni.sock")
    );
    let silent = || Err(CallFailed::Timeout(Duration::from_secs(30)));
    assert_fails(&invoke(&environment("ADD"), &config, silent).1, 11);
    let lost = || Err(CallFailed::Lost(io::ErrorKind::UnexpectedEof.into()));
    assert_fails(&invoke(&environment("ADD"), &config, lost).1, 11);
    let garbage = || Err(CallFailed::Answer(io::ErrorKind::InvalidData.into()));
    assert_fails(&invoke(&environment("ADD"), &config, garbage).1, 101);
    let error = assert_fails(&invoke(&environment("ADD"), &config, refused).1, 100);
    assert!(error["details"].as_str().unwrap().contains("does not hold"));
}

#[test]
fn without_the_agent_pods_outside_the_mesh_start() {
    for (list, verdict) in [
        ("web", None),
        ("shop", Some("running on this node")),
        ("broken", Some("half a line")),
        ("absent", Some("running on this node")),
    ] {
        let mut config = configuration();
        config["meshedNamespaces"] = format!("/lists/{list}").into();
        for command in ["ADD", "CHECK"] {
            let (asked, outcome) = invoke(&environment(command), &bytes(&config), gone);
            assert_eq!(asked.len(), 1, "the agent comes first");
            let Some(reason) = verdict else {
                assert_eq!(outcome.exit_code, 0, "{list}");
                assert!(outcome.note.unwrap().contains("shop is not in the mesh"));
                assert_eq!(outcome.stdout.contains("10.1.0.5"), command == "ADD");
                continue;
            };
            let error = assert_fails(&outcome, 11);
            let details = error["details"].as_str().unwrap();
            assert!(details.contains(reason), "{list}: {details}");
            assert!(details.contains("agent"), "{details}");
        }
        // The list is for an agent that does not answer, not for one that says no.
        assert_fails(
            &invoke(&environment("ADD"), &bytes(&config), refused).1,
            100,
        );
        // Told otherwise, the runtime would start no pod of the node.
        config["cniVersion"] = "1.1.0".into();
        let (asked, outcome) = invoke(&environment("STATUS"), &bytes(&config), gone);
        assert_eq!((asked.len(), outcome), (0, Outcome::default()));
    }
}

#[test]
fn del_succeeds_when_the_agent_is_gone_and_needs_little() {
    let (_, outcome) = invoke(&environment("DEL"), &bytes(&configuration()), gone);
    assert_eq!(outcome, Outcome::default());

    let mut bare = with(environment("DEL"), "CNI_ARGS", "");
    bare.retain(|(name, _)| *name != "CNI_NETNS");
    let mut config = configuration();
    config.as_object_mut().unwrap().remove("prevResult");
    let (asked, outcome) = invoke(&bare, &bytes(&config), done);
    assert_eq!(outcome.exit_code, 0);
    let Question::Pod(request) = &asked[0].1 else {
        panic!("{asked:?}")
    };
    assert_eq!(
        (request.verb, request.pod.container_id.as_str()),
        (CniVerb::Del, "0a1b2c")
    );
    assert!(request.pod.ips.is_empty() && request.pod.netns.is_empty());

    assert_fails(
        &invoke(&environment("DEL"), &bytes(&configuration()), refused).1,
        100,
    );
}

#[test]
fn check_asks_the_agent() {
    let config = bytes(&configuration());
    let (asked, outcome) = invoke(&environment("CHECK"), &config, done);
    assert_eq!(outcome, Outcome::default());
    assert!(matches!(&asked[0].1, Question::Pod(request) if request.verb == CniVerb::Check));
    assert_fails(&invoke(&environment("CHECK"), &config, refused).1, 100);
    assert_fails(&invoke(&environment("CHECK"), &config, gone).1, 11);
}

#[test]
fn pods_left_out_are_never_enrolled_but_always_removed() {
    let mut config = configuration();
    config["excludeNamespaces"] = json!(["kube-system", "shop"]);
    let disabled = "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;CULVERT_MESH=disabled";
    let cases = [
        (environment("ADD"), bytes(&config)),
        (
            with(environment("ADD"), "CNI_ARGS", disabled),
            bytes(&configuration()),
        ),
    ];
    for (environment, stdin) in cases {
        let (asked, outcome) = invoke(&environment, &stdin, gone);
        assert!(asked.is_empty());
        assert_eq!(outcome.exit_code, 0);
        assert!(outcome.stdout.contains("10.1.0.5"));
        let check = with(environment.clone(), "CNI_COMMAND", "CHECK");
        assert_eq!(invoke(&check, &stdin, gone).1.exit_code, 0);
        let (asked, _) = invoke(&with(environment, "CNI_COMMAND", "DEL"), &stdin, done);
        assert_eq!(asked.len(), 1);
    }
}

#[test]
fn version_and_status_answer_without_a_pod() {
    let only = [("CNI_COMMAND", "VERSION".to_owned())];
    let (_, outcome) = invoke(&only, br#"{"cniVersion":"0.4.0"}"#, done);
    let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(answer["cniVersion"], "0.4.0");
    assert_eq!(answer["supportedVersions"], json!(SUPPORTED_VERSIONS));
    assert_eq!(invoke(&only, b"", done).1.exit_code, 0);
    assert_fails(&invoke(&only, b"{", done).1, 6);

    let only = [("CNI_COMMAND", "STATUS".to_owned())];
    let (asked, outcome) = invoke(&only, br#"{"cniVersion":"1.1.0"}"#, done);
    assert_eq!(outcome, Outcome::default());
    assert_eq!(asked, [(DEFAULT_SOCKET.to_owned(), Question::Alive)]);
    assert_fails(&invoke(&only, br#"{"cniVersion":"1.1.0"}"#, gone).1, 50);
}

#[test]
fn a_malformed_environment_is_refused() {
    let long = "x".repeat(5000);
    let bad = [
        ("CNI_COMMAND", ""),
        ("CNI_COMMAND", "add"),
        ("CNI_COMMAND", "REMOVE"),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../../etc"),
        ("CNI_CONTAINERID", "-x"),
        ("CNI_CONTAINERID", &long),
        ("CNI_NETNS", ""),
        ("CNI_NETNS", "run/netns/x"),
        ("CNI_NETNS", "//"),
        ("CNI_NETNS", "/run/netns/x\n"),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "sixteen-letters!"),
        ("CNI_ARGS", ""),
        ("CNI_ARGS", "K8S_POD_NAME=web"),
        ("CNI_ARGS", "K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop;what"),
        (
            "CNI_ARGS",
            "K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop;CULVERT_MESH=off",
        ),
    ];
    for (key, value) in bad {
        let (asked, outcome) = invoke(
            &with(environment("ADD"), key, value),
            &bytes(&configuration()),
            done,
        );
        assert_fails(&outcome, 4);
        assert!(asked.is_empty(), "{key}={value}");
    }
}

#[test]
fn input_that_is_no_configuration_is_refused() {
    let huge = vec![b' '; MAX_CONFIG + 1];
    let inputs: [&[u8]; 8] = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{\"cniVersion\": 1}",
        b"{\"cniVersion\":\"1.0.0\",\"excludeNamespaces\":\"shop\"}",
        &huge,
    ];
    for input in inputs {
        let (asked, outcome) = invoke(&environment("ADD"), input, done);
        assert_fails(&outcome, 6);
        assert!(asked.is_empty());
    }
}

#[test]
fn a_wrong_configuration_is_refused() {
    let wrong = [
        ("/agentSocket", json!("cni.sock")),
        ("/meshedNamespaces", json!("list")),
        ("/prevResult", Value::Null),
        ("/prevResult", json!([])),
        ("/prevResult", json!({"cniVersion": "1.0.0"})),
        ("/prevResult/ips", json!([])),
        ("/prevResult/ips", json!({"address": "10.1.0.5/16"})),
        ("/prevResult/ips", json!([{"address": "10.1.0.5"}])),
        ("/prevResult/ips", json!([{"address": "10.1.0.555/16"}])),
        ("/prevResult/ips", json!([{"address": "10.1.0.5/33"}])),
        ("/prevResult/ips", json!([{"address": 5}])),
        ("/prevResult/ips", json!(["10.1.0.5/16"])),
        (
            "/prevResult/ips",
            json!([{"address": "10.1.0.5/16", "interface": 0}]),
        ),
        (
            "/prevResult/ips",
            json!([{"address": "10.1.0.5/16", "interface": 99}]),
        ),
    ];
    for (pointer, value) in wrong {
        let mut config = configuration();
        *config.pointer_mut(pointer).unwrap() = value;
        let (asked, outcome) = invoke(&environment("ADD"), &bytes(&config), done);
        assert_fails(&outcome, 7);
        assert!(asked.is_empty(), "{config}");
    }
    let many: Vec<Value> = (0..65)
        .map(|n| json!({"address": format!("10.1.1.{n}/16")}))
        .collect();
    let mut config = configuration();
    config["prevResult"]["ips"] = many.into();
    assert_fails(&invoke(&environment("ADD"), &bytes(&config), done).1, 7);
}

#[test]
fn old_results_have_no_interface_and_repeat_addresses() {
    let mut config = configuration();
    config["cniVersion"] = "0.3.1".into();
    config["prevResult"] = json!({
        "ips": [
            {"version": "4", "address": "10.1.0.7/24"},
            {"version": "4", "address": "10.1.0.7/24"},
        ],
    });
    let (asked, outcome) = invoke(&environment("ADD"), &bytes(&config), done);
    let Question::Pod(request) = &asked[0].1 else {
        panic!("{asked:?}")
    };
    assert_eq!(
        request.pod.ips,
        ["10.1.0.7".parse::<std::net::IpAddr>().unwrap()]
    );
    let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(
        result["cniVersion"], "0.3.1",
        "a result always names its version"
    );
}
