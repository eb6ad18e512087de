use serde_json::{Value, json};

use super::*;

const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ],
  "x-owner": [1, 2.5, null]
}"#;

const BRIDGE: &str = r#"{"cniVersion":"1.0.0","name":"pods","type":"bridge","mtu":1450,
    "ipam":{"type":"host-local","ranges":[[{"subnet":"10.1.0.0/24"}]]},"zz":0,"aa":1}"#;

fn entry() -> Entry {
    Entry {
        agent_socket: "/run/culvert/cni.sock".to_owned(),
        meshed_namespaces: "/var/lib/culvert/meshed-namespaces.json".to_owned(),
        exclude_namespaces: vec!["culvert-system".to_owned()],
    }
}

fn ours() -> Value {
    json!({
        "type": "culvert-cni",
        "agentSocket": "/run/culvert/cni.sock",
        "meshedNamespaces": "/var/lib/culvert/meshed-namespaces.json",
        "excludeNamespaces": ["culvert-system"],
    })
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn changed(text: &str, form: Form) -> String {
    chained(text, form, &entry()).unwrap().expect("a change")
}

#[test]
fn a_list_gets_one_entry_at_its_end_and_keeps_the_rest_in_order() {
    let text = changed(FLANNEL, Form::List);
    let mut wanted = value(FLANNEL);
    wanted["plugins"].as_array_mut().unwrap().push(ours());
    assert_eq!(value(&text), wanted);
    let places = [
        "\"name\"",
        "\"cniVersion\"",
        "\"plugins\"",
        "\"hairpinMode\"",
        "\"x-owner\"",
    ]
    .map(|word| text.find(word).unwrap());
    assert!(places.is_sorted(), "{text}");
    assert_eq!(
        chained(&text, Form::List, &entry()),
        Ok(None),
        "once is enough"
    );
}

#[test]
fn a_lone_plugin_becomes_a_list_of_the_same_network() {
    let text = changed(BRIDGE, Form::Single);
    let mut bridge = value(BRIDGE);
    let fields = bridge.as_object_mut().unwrap();
    fields.remove("name");
    fields.remove("cniVersion");
    assert_eq!(
        value(&text),
        json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ours()]})
    );
    assert!(text.find("\"zz\"").unwrap() < text.find("\"aa\"").unwrap());
    assert_eq!(chained(&text, Form::List, &entry()), Ok(None));
}

#[test]
fn another_plugin_behind_ours_comes_before_it_and_ours_stays_one() {
    let mut list = value(&changed(FLANNEL, Form::List));
    let plugins = list["plugins"].as_array_mut().unwrap();
    plugins.push(json!({"type": "istio-cni"}));
    plugins.insert(0, json!({"type": "culvert-cni", "agentSocket": "/old"}));
    let after = value(&changed(&list.to_string(), Form::List));
    let plugins = after["plugins"].as_array().unwrap().iter();
    let types: Vec<_> = plugins.map(|one| &one["type"]).collect();
    assert_eq!(types, ["flannel", "portmap", "istio-cni", "culvert-cni"]);
    assert_eq!(after["plugins"][3]["agentSocket"], "/run/culvert/cni.sock");
}

#[test]
fn what_an_administrator_added_to_our_entry_stays() {
    let mut list = value(&changed(FLANNEL, Form::List));
    list["plugins"][2]["excludeNamespaces"] = json!(["legacy"]);
    list["plugins"][2]["note"] = json!("do not touch");
    let after = value(&changed(&list.to_string(), Form::List));
    let excluded = &after["plugins"][2]["excludeNamespaces"];
    assert_eq!(*excluded, json!(["legacy", "culvert-system"]));
    assert_eq!(after["plugins"][2]["note"], "do not touch");
}

#[test]
fn what_no_runtime_takes_is_left_alone() {
    for (text, form) in [
        ("", Form::List),
        ("{", Form::List),
        ("[]", Form::List),
        (r#"{"cniVersion":"1.0.0","name":"a"}"#, Form::List),
        (
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#,
            Form::List,
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"a","plugins":{}}"#,
            Form::List,
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[{}]}"#,
            Form::List,
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"a","plugins":["x"]}"#,
            Form::List,
        ),
        (
            r#"{"cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#,
            Form::List,
        ),
        (r#"{"cniVersion":"1.0.0","name":"a"}"#, Form::Single),
        (FLANNEL, Form::Single),
        (BRIDGE, Form::List),
    ] {
        let result = chained(text, form, &entry());
        assert!(
            matches!(result, Err(Unusable::Invalid(_))),
            "{text}: {result:?}"
        );
        assert!(unchained(text, form).is_err());
    }
}

#[test]
fn a_version_our_plugin_would_refuse_is_not_chained() {
    for version in [json!("0.2.0"), json!("9.9.9"), Value::Null] {
        let mut list = value(FLANNEL);
        list["cniVersion"] = version;
        let result = chained(&list.to_string(), Form::List, &entry());
        assert!(matches!(result, Err(Unusable::Version(_))), "{result:?}");
    }
}

#[test]
fn taking_the_entry_out_leaves_the_chain_as_it_was() {
    let text = changed(FLANNEL, Form::List);
    let after = unchained(&text, Form::List).unwrap().unwrap();
    assert_eq!(value(&after), value(FLANNEL));
    assert_eq!(unchained(&after, Form::List), Ok(None));
    assert_eq!(unchained(BRIDGE, Form::Single), Ok(None));
}
