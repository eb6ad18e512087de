//! What a container runtime gives the plugin: environment and standard input.

use std::cell::RefCell;
use std::io;

use agent_cni::{CallFailed, Meshed, Outcome, Question};
use agent_model::{CniReply, CniVerb};
use serde_json::Value;

pub(super) const WORDS: &[&str] = &[
    "CNI_COMMAND=",
    "ADD",
    "DEL",
    "CHECK",
    "VERSION",
    "STATUS",
    "GC",
    "\n",
    "\n\n",
    "CNI_ARGS=",
    "K8S_POD_NAME=",
    "CULVERT_MESH=disabled",
    ";",
    "CNI_IFNAME=",
    "CNI_NETNS=/",
    "../",
    "\"cniVersion\":",
    "\"1.0.0\"",
    "\"0.3.1\"",
    "\"1.1.0\"",
    "\"prevResult\":",
    "\"ips\":",
    "\"address\":",
    "\"10.0.0.1/24\"",
    "\"interface\":",
    "\"sandbox\":",
    "-1",
    "1e400",
    "18446744073709551615",
    "null",
    "{}",
    "[]",
    "\"excludeNamespaces\":[\"shop\"]",
    "\"meshedNamespaces\":\"/list\"",
];

/// `NAME=VALUE` lines, an empty line, standard input.
pub(super) fn run(bytes: &[u8]) {
    let at = bytes.windows(2).position(|two| two == b"\n\n");
    let (head, stdin) = at.map_or((bytes, &b""[..]), |at| (&bytes[..at], &bytes[at + 2..]));
    let head = String::from_utf8_lossy(head);
    let variable = |name: &str| {
        let mut pairs = head.lines().filter_map(|line| line.split_once('='));
        pairs
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
    };
    let done = || Ok(CniReply { error: None });
    let gone = || Err(CallFailed::Lost(io::ErrorKind::UnexpectedEof.into()));
    let (asked, outcome) = invoke(variable, stdin, done);
    let (asked_again, without_agent) = invoke(variable, stdin, gone);
    check(&outcome);
    check(&without_agent);
    assert_eq!(asked, asked_again);
    assert!(asked.len() <= 1, "one call in all");
    match asked.first() {
        Some(Question::Pod(request)) => {
            let closed = request.verb != CniVerb::Del;
            assert_eq!(
                without_agent.exit_code == 1,
                closed,
                "{request:?}: fails closed"
            );
            assert!(!closed || !request.pod.ips.is_empty() && request.pod.netns.starts_with('/'));
            assert!(
                !request.pod.container_id.is_empty() && !request.pod.container_id.contains('/')
            );
            if request.verb == CniVerb::Add {
                passed_through(stdin, &outcome);
            }
        }
        Some(Question::Alive) => assert_eq!(without_agent.exit_code, 1),
        None => {
            assert_eq!(outcome, without_agent);
            let add = variable("CNI_COMMAND").as_deref() == Some("ADD");
            let left_out = head.contains("CULVERT_MESH=disabled")
                || String::from_utf8_lossy(stdin).contains("excludeNamespaces");
            assert!(
                !add || outcome.exit_code == 1 || left_out,
                "an ADD that asked nobody"
            );
        }
    }
}

fn invoke(
    variable: impl Fn(&str) -> Option<String>,
    stdin: &[u8],
    answer: impl Fn() -> Result<CniReply, CallFailed>,
) -> (Vec<Question>, Outcome) {
    let asked = RefCell::new(Vec::new());
    let call = |socket: &str, question: &Question| {
        assert!(socket.starts_with('/'));
        asked.borrow_mut().push(question.clone());
        answer()
    };
    let outcome = agent_cni::run(variable, stdin, call, |list| {
        assert!(list.is_absolute());
        Meshed::Absent
    });
    (asked.into_inner(), outcome)
}

/// What every runtime relies on.
fn check(outcome: &Outcome) {
    let Outcome {
        stdout, exit_code, ..
    } = outcome;
    if stdout.is_empty() {
        assert_eq!(*exit_code, 0, "a failure says why");
        return;
    }
    assert!(stdout.ends_with('\n'));
    let value: Value = serde_json::from_str(stdout).expect("one JSON document");
    if *exit_code != 0 {
        assert_eq!(*exit_code, 1);
        assert!(
            value["code"].is_u64() && value["msg"].is_string(),
            "{value}"
        );
    }
}

/// The result of the plugin before comes out again, whatever is in it.
fn passed_through(stdin: &[u8], outcome: &Outcome) {
    let config: Value = serde_json::from_slice(stdin).expect("an accepted configuration");
    let mut result: Value = serde_json::from_str(&outcome.stdout).expect("one JSON document");
    let before = &config["prevResult"];
    if before.get("cniVersion").is_none()
        && let Some(fields) = result.as_object_mut()
    {
        assert_eq!(
            fields.remove("cniVersion").as_ref(),
            Some(&config["cniVersion"])
        );
    }
    assert_eq!(result, *before);
}
