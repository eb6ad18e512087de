use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

use agent_model::{CniVerb, PodInfo};

use super::*;

const SHORT: Duration = Duration::from_millis(300);

fn socket(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("culvert-cni-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn pod_question() -> Question {
    let pod = PodInfo {
        container_id: "c1".into(),
        uid: "u".into(),
        name: "web".into(),
        namespace: "shop".into(),
        netns: "/run/netns/x".into(),
        ips: vec![IpAddr::from([10, 1, 0, 5])],
    };
    Question::Pod(CniRequest {
        verb: CniVerb::Add,
        pod,
    })
}

/// Accepts one call, reads its line, writes `answer` and hangs up.
fn agent(path: &PathBuf, answer: &'static [u8]) -> JoinHandle<String> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        (&stream).write_all(answer).unwrap();
        line
    })
}

fn call(name: &str, answer: &'static [u8]) -> (Result<CniReply, CallFailed>, String) {
    let path = socket(name);
    let agent = agent(&path, answer);
    let reply = ask(
        path.to_str().unwrap(),
        &pod_question(),
        Duration::from_secs(10),
    );
    let line = agent.join().unwrap();
    std::fs::remove_file(&path).unwrap();
    (reply, line)
}

#[test]
fn one_line_each_way() {
    let (reply, line) = call("ok", b"{}\n");
    assert_eq!(reply.unwrap(), CniReply { error: None });
    let sent: CniRequest = serde_json::from_str(&line).unwrap();
    assert_eq!(Question::Pod(sent), pod_question());
    assert!(line.ends_with('\n'));

    let (reply, _) = call("refused", b"{\"error\":\"no such pod\"}\n");
    assert_eq!(reply.unwrap().error.as_deref(), Some("no such pod"));
}

#[test]
fn half_an_answer_is_no_answer() {
    assert!(matches!(call("half", b"{}").0, Err(CallFailed::Answer(_))));
    assert!(matches!(
        call("garbage", b"yes\n").0,
        Err(CallFailed::Answer(_))
    ));
    assert!(matches!(call("none", b"").0, Err(CallFailed::Lost(_))));
}

#[test]
fn an_endless_answer_is_cut() {
    static FLOOD: [u8; 65 * 1024] = [b' '; 65 * 1024];
    let path = socket("flood");
    let listener = UnixListener::bind(&path).unwrap();
    let agent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Only then, or the plugin would find the connection closed before it has asked.
        BufReader::new(&stream)
            .read_line(&mut String::new())
            .unwrap();
        // The plugin hangs up while this is under way.
        let _ = stream.write_all(&FLOOD);
    });
    let reply = ask(
        path.to_str().unwrap(),
        &pod_question(),
        Duration::from_secs(10),
    );
    assert!(matches!(reply, Err(CallFailed::Answer(_))), "{reply:?}");
    agent.join().unwrap();
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn an_agent_that_is_gone_or_silent_is_told_apart() {
    let path = socket("gone");
    let reply = ask(path.to_str().unwrap(), &pod_question(), SHORT);
    assert!(matches!(reply, Err(CallFailed::Connect(..))), "{reply:?}");

    let silent = UnixListener::bind(&path).unwrap();
    let reply = ask(path.to_str().unwrap(), &pod_question(), SHORT);
    assert!(matches!(reply, Err(CallFailed::Timeout(_))), "{reply:?}");
    assert!(ask(path.to_str().unwrap(), &Question::Alive, SHORT).is_ok());
    drop(silent);

    // The socket file of a killed agent stays behind.
    let reply = ask(path.to_str().unwrap(), &Question::Alive, SHORT);
    assert!(matches!(reply, Err(CallFailed::Connect(..))), "{reply:?}");
    std::fs::remove_file(&path).unwrap();
}
