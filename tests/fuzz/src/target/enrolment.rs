//! The line that the enrolment socket reads, and the one the plugin reads back.

use agent_model::{CniReply, CniRequest};

pub(super) const WORDS: &[&str] = &[
    "\"verb\":",
    "\"ADD\"",
    "\"DEL\"",
    "\"CHECK\"",
    "\"pod\":",
    "\"ips\":",
    "\"10.0.0.1\"",
    "\"fd00::1\"",
    "\"netns\":",
    "\"containerId\":",
    "\"error\":",
    "null",
    "{}",
    "[",
    "]",
    "\\u0000",
    "\\ud800",
    "1e999",
    "\n",
];

pub(super) fn run(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<CniRequest>(bytes) {
        let line = serde_json::to_string(&request).expect("a request has a JSON form");
        assert!(!line.contains('\n'), "a request is one line");
        let back: CniRequest = serde_json::from_str(&line).expect("its own form is read");
        assert_eq!(back, request);
    }
    if let Ok(reply) = serde_json::from_slice::<CniReply>(bytes) {
        let line = serde_json::to_string(&reply).expect("a reply has a JSON form");
        assert!(!line.contains('\n'), "a reply is one line");
        let back: CniReply = serde_json::from_str(&line).expect("its own form is read");
        assert_eq!(back, reply);
    }
}
