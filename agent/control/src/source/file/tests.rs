use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::document::{line_of, parse, split};
use super::folder::{Folder, Unreadable};
use super::scan::Scanner;
use crate::source::{Batch, Effect, Event, Kind, Object, ObjectRef};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n";
const POLICY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: web
  namespace: shop
spec:
  action: DENY
  rules:
  - from:
    - source:
        ipBlocks: [\"10.0.0.0/8\"]
    to:
    - operation:
        ports: [\"80\", \"443\"]
";

/// A folder of which one file changes.
struct OneFile(Folder);

impl OneFile {
    fn new(text: &str) -> (Self, Batch) {
        let mut this = Self(Folder::default());
        let batch = this.write(text);
        (this, batch)
    }

    fn write(&mut self, text: &str) -> Batch {
        self.0.update("a.yaml", Ok(text.as_bytes()));
        self.0.settle()
    }
}

fn problems_of(text: &str) -> Vec<String> {
    let (_, batch) = OneFile::new(text);
    batch.problems.iter().map(ToString::to_string).collect()
}

fn only_problem(text: &str) -> String {
    let problems = problems_of(text);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].clone()
}

fn names(batch: &Batch) -> Vec<String> {
    let names = batch.events.iter().map(|event| match event {
        Event::Apply(object) => format!("+{}", object.reference()),
        Event::Delete(reference) => format!("-{reference}"),
    });
    names.collect()
}

fn pod(name: &str, label: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{v: {label}}}}}\n"
    )
}

fn label_of(batch: &Batch, name: &str) -> Option<String> {
    batch.events.iter().find_map(|event| match event {
        Event::Apply(Object::Pod(pod)) if pod.metadata.name == name => {
            pod.metadata.labels.get("v").cloned()
        }
        _ => None,
    })
}

#[test]
fn documents_are_cut_at_markers() {
    let text = "# head\n%YAML 1.2\n---\na: |\n  --- not a marker\n  x\n--- # two\nb: 1\n...\n# tail\n---\n\n---\nc: 1";
    let documents = split(text);
    let cut: Vec<_> = documents
        .iter()
        .map(|document| (document.first_line, parse(*document).unwrap().to_string()))
        .collect();
    assert_eq!(
        cut,
        [
            (1, r#"{"a":"--- not a marker\nx\n"}"#.to_owned()),
            (7, r#"{"b":1}"#.to_owned()),
            (13, r#"{"c":1}"#.to_owned()),
        ]
    );
    assert_eq!(split("\u{feff}a: 1\r\n---\r\nb: 1\r\n").len(), 2);
    assert!(split("# nothing\n---\n...\n").is_empty());
}

#[test]
fn the_line_of_a_field_is_found() {
    let document = split("# one\n---\na:\n  b:\n  - x\n  - c: 1\n    d: [1, 2,\n      3]\n")[0];
    let line = |path| line_of(document, path).unwrap();
    assert_eq!(line("a.b[0]"), 5);
    assert_eq!(line("a.b[1].c"), 6);
    assert_eq!(line("a.b[1].d[2]"), 8);
    // The deepest part that exists stands in for one that is missing.
    assert_eq!(line("a.b[1].e.f"), 6);
}

#[test]
fn errors_name_file_document_line_and_field() {
    let text = format!("{NAMESPACE}---\n{}", POLICY.replace("\"443\"", "\"70000\""));
    assert_eq!(
        only_problem(&text),
        "a.yaml:19 (document 2): AuthorizationPolicy shop/web: \
         spec.rules[0].to[0].operation.ports[1]: \"70000\" is not a port (1 to 65535) \
         (not applied)"
    );
}

#[test]
fn every_kind_of_mistake_is_an_error_with_its_field() {
    let cases = [
        (
            "action: DENY",
            "action: DENYY",
            "spec.action: unknown variant `DENYY`",
        ),
        ("action: DENY", "action: [DENY]", "spec.action"),
        (
            "10.0.0.0/8",
            "10.0.0.0/33",
            "ipBlocks[0]: \"10.0.0.0/33\" is not an IP",
        ),
        ("10.0.0.0/8", "10.0.0.256", "ipBlocks[0]"),
        ("\"80\"", "\"0\"", "ports[0]: \"0\" is not a port"),
        ("\"80\"", "\" 80\"", "ports[0]"),
        (
            "ipBlocks",
            "ipBlock",
            "from[0].source.ipBlock: unknown field `ipBlock`",
        ),
        ("[\"80\", \"443\"]", "[]", "ports: an empty list"),
        (
            "  rules:",
            "  selector: {matchLabels: {a: \"w*\"}}\n  rules:",
            "spec.selector.matchLabels.a",
        ),
        (
            "  rules:",
            "  selector: {matchLabels: {a: b}}\n  targetRef: {kind: Service, name: x}\n  rules:",
            "spec: only one of selector",
        ),
        (
            "  rules:",
            "  provider: {name: x}\n  rules:",
            "spec.provider",
        ),
        (
            "        ipBlocks: [\"10.0.0.0/8\"]",
            "        serviceAccounts: [a]\n        namespaces: [b]",
            "spec.rules[0].from[0].source: serviceAccounts cannot be combined",
        ),
        (
            "        ports: [\"80\", \"443\"]",
            "        {}",
            "to[0].operation: no field is set",
        ),
        (
            "    to:",
            "    when:\n    - key: source.colour\n      values: [red]\n    to:",
            "when[0]: unknown key \"source.colour\"",
        ),
        (
            "    to:",
            "    when:\n    - key: source.ip\n    to:",
            "when[0]: \"source.ip\" has neither",
        ),
        (
            "security.istio.io/v1\n",
            "security.istio.io/v1alpha1\n",
            "apiVersion: \"v1alpha1\"",
        ),
        (
            "name: web",
            "name: we/b",
            "metadata.name: not a Kubernetes name",
        ),
        ("name: web", "name: 12", "metadata.name: invalid type"),
        ("spec:", "spec: 5\nspecs:", "spec: invalid type"),
        ("action: DENY", "action: DENY\n  action: ALLOW", "duplicate"),
    ];
    for (old, new, expected) in cases {
        let text = POLICY.replace(old, new);
        assert_ne!(text, POLICY, "{old}");
        let problem = only_problem(&text);
        assert!(problem.contains(expected), "{new}: {problem}");
        assert!(problem.starts_with("a.yaml:"), "{problem}");
    }
}

#[test]
fn other_kinds_are_checked_too() {
    let cases = [
        ("v1", "Pod", "status: {podIP: 10.0.0.256}", "status.podIP"),
        (
            "v1",
            "Pod",
            "status: {podIP: 127.0.0.1}",
            "cannot be the address of a pod",
        ),
        (
            "v1",
            "Pod",
            "status: {podIPs: [{ip: 10.0.0.1}, {ip: \"::1\"}]}",
            "status.podIPs[1].ip",
        ),
        (
            "v1",
            "Pod",
            "spec: {containers: [{ports: [{containerPort: 65536}]}]}",
            "containerPort",
        ),
        (
            "v1",
            "Service",
            "spec: {ports: [{port: 0}]}",
            "spec.ports[0].port",
        ),
        (
            "v1",
            "Service",
            "spec: {ports: [{port: 80, targetPort: -1}]}",
            "targetPort",
        ),
        (
            "v1",
            "Service",
            "spec: {ports: [{port: 80, protocol: TPC}]}",
            "protocol: unknown variant",
        ),
        (
            "v1",
            "Service",
            "spec: {internalTrafficPolicy: local}",
            "internalTrafficPolicy",
        ),
        ("v1", "Service", "spec: {clusterIP: none}", "spec.clusterIP"),
        (
            "security.istio.io/v1beta1",
            "PeerAuthentication",
            "spec: {mtls: {mode: STRICTLY}}",
            "spec.mtls.mode: unknown variant `STRICTLY`",
        ),
        (
            "security.istio.io/v1",
            "PeerAuthentication",
            "spec: {portLevelMtls: {99999: {mode: STRICT}}}",
            "spec.portLevelMtls",
        ),
        (
            "culvert.dev/v1alpha1",
            "MeshConfig",
            "spec: {sameNode: direct}",
            "spec.sameNode: direct is not supported",
        ),
        (
            "culvert.dev/v1alpha1",
            "MeshConfig",
            "spec: {strictEgress: true}",
            "spec.strictEgress",
        ),
        (
            "culvert.dev/v1alpha1",
            "MeshConfig",
            "spec: {outboundOnAgentDown: open}",
            "spec.outboundOnAgentDown",
        ),
        (
            "culvert.dev/v1alpha1",
            "MeshConfig",
            "spec: {trustdomain: x}",
            "unknown field `trustdomain`",
        ),
    ];
    for (version, kind, body, expected) in cases {
        let text =
            format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: default}}\n{body}\n");
        let problem = only_problem(&text);
        assert!(problem.contains(expected), "{body}: {problem}");
    }
    let text = "apiVersion: culvert.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mine}\n";
    assert!(only_problem(text).contains("metadata.name"));
    let text = text.replace("mine", "default") + "spec: {sameNode: encrypt, trustDomain: a.b}\n";
    assert_eq!(problems_of(&text), [""; 0]);
}

#[test]
fn an_address_with_port_mode_keys_as_numbers_is_read() {
    let text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                metadata: {name: a, namespace: b}\nspec:\n  portLevelMtls:\n    8080:\n      mode: DISABLE\n";
    assert_eq!(problems_of(text), [""; 0]);
}

#[test]
fn what_is_not_read_is_no_error() {
    let text = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: 5}\ndata: {x: y}\n---\n\
                apiVersion: apps/v1\nkind: Deployment\n---\napiVersion: v1\nkind: Event\n";
    let (_, batch) = OneFile::new(text);
    assert_eq!(batch, Batch::default());
}

#[test]
fn a_list_is_its_items_and_errors_name_the_item() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n\
                - apiVersion: v1\n  kind: Pod\n  metadata: {name: p}\n  status: {podIP: x}\n";
    let (_, batch) = OneFile::new(text);
    assert_eq!(names(&batch), ["+Namespace a"]);
    assert_eq!(
        batch.problems[0].to_string(),
        "a.yaml:10 (document 1): Pod default/p: items[1].status.podIP: \"x\" is not an IP address \
         (not applied)"
    );
}

#[test]
fn json_files_are_read() {
    let text = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a","labels":null}}"#;
    let (_, batch) = OneFile::new(text);
    assert_eq!(names(&batch), ["+Namespace a"]);
}

#[test]
fn a_bad_document_keeps_its_own_last_good_version() {
    let (mut file, _) = OneFile::new(&format!(
        "{NAMESPACE}---\n{}---\n{}",
        pod("a", "x1"),
        pod("b", "x1")
    ));
    // b is bad by a field; a changes at the same time and counts.
    let bad = pod("b", "x2").replace("}\n", "}\nspec: {nodeName: [1]}\n");
    let batch = file.write(&format!("{NAMESPACE}---\n{}---\n{bad}", pod("a", "x2")));
    assert_eq!(names(&batch), ["+Pod shop/a"]);
    assert_eq!(batch.problems.len(), 1);
    assert_eq!(batch.problems[0].effect, Effect::LastGoodKept);
    // It is still the last good one after another bad edit, and gone when its document is.
    assert_eq!(
        names(&file.write(&format!("{NAMESPACE}---\n{}---\n{bad}", pod("a", "x2")))),
        [""; 0]
    );
    let batch = file.write(&format!("{NAMESPACE}---\n{}", pod("a", "x2")));
    assert_eq!(names(&batch), ["-Pod shop/b"]);
    assert!(batch.problems.is_empty());
}

#[test]
fn a_document_that_is_no_yaml_keeps_all_that_is_not_given_anew() {
    let (mut file, _) = OneFile::new(&format!(
        "{}---\n{}---\n{}",
        pod("a", "x1"),
        pod("b", "x1"),
        pod("c", "x1")
    ));
    let batch = file.write(&format!(
        "{}---\nkind: [Pod\n---\n{}",
        pod("a", "x2"),
        pod("c", "x1")
    ));
    assert_eq!(names(&batch), ["+Pod shop/a"]);
    assert_eq!(batch.problems[0].document, 2);
    assert_eq!(batch.problems[0].effect, Effect::LastGoodKept);
    assert!(
        batch.problems[0]
            .line
            .is_some_and(|line| (5..=7).contains(&line))
    );
    let batch = file.write(&pod("a", "x2"));
    assert_eq!(names(&batch), ["-Pod shop/b", "-Pod shop/c"]);
}

#[test]
fn a_file_that_cannot_be_read_keeps_everything() {
    let (mut file, _) = OneFile::new(&pod("a", "x1"));
    for content in [
        Err(Unreadable("denied".into())),
        Ok(&b"\xff\xfe"[..]),
        Ok(&[b' '; (4 << 20) + 1][..]),
    ] {
        file.0.update("a.yaml", content);
        let batch = file.0.settle();
        assert_eq!(names(&batch), [""; 0]);
        assert_eq!(batch.problems[0].effect, Effect::LastGoodKept);
        assert_eq!(batch.problems[0].document, 0);
    }
    file.0.remove("a.yaml");
    assert_eq!(names(&file.0.settle()), ["-Pod shop/a"]);
}

#[test]
fn of_duplicates_the_first_stays_and_both_are_named() {
    let (mut file, batch) =
        OneFile::new(&format!("{}---\n{}", pod("a", "first"), pod("a", "second")));
    assert_eq!(label_of(&batch, "a").as_deref(), Some("first"));
    assert_eq!(
        batch.problems[0].to_string(),
        "a.yaml:5 (document 2): Pod shop/a: already given in a.yaml:1, which stays (not applied)"
    );
    file.0.update("b.yaml", Ok(pod("a", "third").as_bytes()));
    let batch = file.0.settle();
    assert_eq!(names(&batch), [""; 0]);
    assert!(
        batch
            .problems
            .iter()
            .any(|problem| problem.file == "b.yaml")
    );
    // When the first goes, the next counts.
    file.0.remove("a.yaml");
    let batch = file.0.settle();
    assert_eq!(label_of(&batch, "a").as_deref(), Some("third"));
    assert!(batch.problems.is_empty());
}

#[test]
fn a_broken_duplicate_does_not_displace_a_good_object() {
    let bad = pod("a", "bad").replace("}\n", "}\nspec: 7\n");
    let (_, batch) = OneFile::new(&format!("{bad}---\n{}", pod("a", "good")));
    assert_eq!(label_of(&batch, "a").as_deref(), Some("good"));
    assert_eq!(batch.problems.len(), 1);
}

#[test]
fn no_change_is_no_event() {
    let (mut file, batch) = OneFile::new(POLICY);
    assert_eq!(batch.events.len(), 1);
    assert!(
        file.write(&format!("# a comment\n{POLICY}"))
            .events
            .is_empty()
    );
}

#[test]
fn too_many_documents_are_refused_as_a_whole() {
    let (mut file, _) = OneFile::new(&pod("a", "x1"));
    let batch = file.write(&"---\na: 1\n".repeat(10_001));
    assert_eq!(names(&batch), [""; 0]);
    assert!(batch.problems[0].message.contains("10000 documents"));
}

#[test]
fn problems_are_bounded() {
    let (_, batch) = OneFile::new(&"---\nkind: Pod\n".repeat(5_000));
    assert_eq!(batch.problems.len(), 1_000);
    assert!(batch.problems[999].message.contains("4000 more"));
}

#[test]
fn bombs_are_errors_and_cheap() {
    let mut laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..10 {
        let reference = format!("*a{}", level - 1);
        laughs += &format!(
            "a{level}: &a{level} [{}]\n",
            [reference.as_str(); 10].join(",")
        );
    }
    let long = format!(
        "a: &a \"{}\"\nb: [{}]\n",
        "x".repeat(1 << 20),
        ["*a"; 900].join(",")
    );
    let cases = [
        ("aliases", laughs),
        ("long aliases", long),
        ("depth of blocks", (0..100_000).map(|_| "- ").collect()),
        ("depth of flows", "[".repeat(100_000)),
        ("depth of maps", "{a: ".repeat(100_000)),
        ("tab", "a:\n\tb: 1\n".to_owned()),
        ("huge integer", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{ports: [{containerPort: 99999999999999999999999}]}]}\n".to_owned()),
        ("control byte", "a: \"\u{0}\"\n---\nb: \u{7}".to_owned()),
        ("scalar", "just text".to_owned()),
        ("list", "- 1\n- 2\n".to_owned()),
        ("merge of itself", "a: &a\n  <<: *a\n".to_owned()),
        ("key that is a map", "? {a: b}\n: c\n".to_owned()),
        ("infinity", "apiVersion: .inf\n".to_owned()),
        ("tag", "apiVersion: !!binary x\nkind: !foo Pod\n".to_owned()),
    ];
    for (name, text) in cases {
        let before = thread_time();
        let batch = OneFile::new(&text).1;
        assert!(batch.events.is_empty(), "{name}");
        assert!(!batch.problems.is_empty(), "{name}");
        assert!(
            batch
                .problems
                .iter()
                .all(|problem| problem.message.len() < 600),
            "{name}"
        );
        let took = thread_time() - before;
        assert!(took < Duration::from_secs(5), "{name}: {took:?}");
    }
}

/// What this thread has worked so far; what others do on the machine is no cost of its.
fn thread_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
    // After the name, which may be anything: user and system time, the 14th and 15th of all, in
    // ticks of the hundredth of a second that Linux shows on every machine (proc(5)).
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn secrets_do_not_reach_the_messages() {
    let text = "apiVersion: v1\nkind: Secret\ndata: {password: aHVzaA==, [\n";
    assert!(!only_problem(text).contains("aHVzaA"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut folder = Folder::default();
        folder.update("a.yaml", Ok(&bytes));
        folder.settle();
    }

    #[test]
    fn mutated_manifests_never_panic_and_never_lose_the_last_good_quietly(
        at in 0..POLICY.len(),
        remove in 0usize..12,
        insert in "[ -~\n]{0,12}",
    ) {
        let mut text = POLICY.as_bytes().to_vec();
        let end = (at + remove).min(text.len());
        text.splice(at..end, insert.bytes());
        let (mut file, _) = OneFile::new(&format!("{NAMESPACE}---\n{POLICY}"));
        file.0.update("a.yaml", Ok(&[NAMESPACE.as_bytes(), b"---\n", &text].concat()));
        let batch = file.0.settle();
        let policy = ObjectRef::new(Kind::AuthorizationPolicy, "shop", "web");
        let is_lost = batch.events.contains(&Event::Delete(policy));
        let text = format!("\n{}", String::from_utf8_lossy(&text));
        // The policy may go only when the text no longer claims to be it.
        let claims = [
            "\nkind: AuthorizationPolicy\n",
            "\n  name: web\n",
            "\n  namespace: shop\n",
            "\napiVersion: security.istio.io/v1\n",
        ];
        if claims.iter().all(|claim| text.contains(claim)) && !batch.problems.is_empty() {
            prop_assert!(!is_lost, "{text}\n{:?}", batch.problems);
        }
    }
}

/// A real folder, removed at the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "culvert-manifests-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A scan as it would be some time from now: files written just before are at rest by then.
fn scan_after(scanner: &mut Scanner, millis: u64) -> (Batch, bool) {
    scanner.scan(SystemTime::now() + Duration::from_millis(millis))
}

#[test]
fn the_folder_is_read_with_its_folders() {
    let folder = Temporary::new();
    folder.write("a.yaml", NAMESPACE);
    folder.write("deep/er/b.yml", &pod("b", "x"));
    folder.write(
        "c.json",
        "{\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"n\"}}",
    );
    folder.write("README.md", "not a manifest");
    folder.write(".hidden.yaml", &pod("hidden", "x"));
    folder.write("..data/d.yaml", &pod("data", "x"));
    std::os::unix::fs::symlink(folder.0.join("..data/d.yaml"), folder.0.join("linked.yaml"))
        .unwrap();
    std::os::unix::fs::symlink(&folder.0, folder.0.join("round")).unwrap();
    let mut scanner = Scanner::new(&folder.0);
    let (batch, is_settled) = scan_after(&mut scanner, 1000);
    assert!(is_settled);
    assert_eq!(
        names(&batch),
        [
            "+Namespace shop",
            "+Node n",
            "+Pod shop/b",
            "+Pod shop/data"
        ]
    );
    assert_eq!(batch.problems, []);
    assert_eq!(scan_after(&mut scanner, 1000), (Batch::default(), true));
}

#[test]
fn a_file_being_written_is_waited_for_and_others_with_it() {
    let folder = Temporary::new();
    folder.write("a.yaml", &pod("a", "x"));
    let mut scanner = Scanner::new(&folder.0);
    scan_after(&mut scanner, 1000);
    folder.write("b.yaml", &pod("b", "x"));
    let (batch, is_settled) = scanner.scan(SystemTime::now());
    assert!(!is_settled && batch.events.is_empty());
    let (batch, is_settled) = scan_after(&mut scanner, 500);
    assert!(is_settled);
    assert_eq!(names(&batch), ["+Pod shop/b"]);
}

#[test]
fn a_file_is_gone_when_it_stays_away() {
    let folder = Temporary::new();
    folder.write("a.yaml", &pod("a", "x"));
    let mut scanner = Scanner::new(&folder.0);
    scan_after(&mut scanner, 1000);
    fs::remove_file(folder.0.join("a.yaml")).unwrap();
    let (batch, is_settled) = scan_after(&mut scanner, 1000);
    assert!(!is_settled && batch.events.is_empty());
    let (batch, is_settled) = scan_after(&mut scanner, 1300);
    assert!(is_settled);
    assert_eq!(names(&batch), ["-Pod shop/a"]);
}

#[test]
fn a_folder_that_vanishes_keeps_what_was_read() {
    let folder = Temporary::new();
    folder.write("a.yaml", &pod("a", "x"));
    let mut scanner = Scanner::new(&folder.0);
    scan_after(&mut scanner, 1000);
    fs::remove_dir_all(&folder.0).unwrap();
    for millis in [1000, 3000, 5000] {
        let (batch, _) = scan_after(&mut scanner, millis);
        assert_eq!(names(&batch), [""; 0]);
        assert_eq!(batch.problems[0].effect, Effect::LastGoodKept);
    }
}

#[test]
fn an_oversized_file_keeps_its_last_good_content() {
    let folder = Temporary::new();
    folder.write("a.yaml", &pod("a", "x"));
    let mut scanner = Scanner::new(&folder.0);
    scan_after(&mut scanner, 1000);
    folder.write("a.yaml", &"#".repeat((4 << 20) + 1));
    let (batch, _) = scan_after(&mut scanner, 1000);
    assert_eq!(names(&batch), [""; 0]);
    assert_eq!(batch.problems[0].message, "larger than 4 MiB");
}

#[tokio::test]
async fn changes_are_seen_while_running() {
    let folder = Temporary::new();
    folder.write("a.yaml", &pod("a", "x1"));
    let (source, first) = super::FileSource::open(&folder.0).await.unwrap();
    assert_eq!(names(&first), ["+Pod shop/a"]);
    let (sender, mut batches) = tokio::sync::mpsc::channel(1);
    let (drain, watcher) = agent_net::drain::channel();
    let task = tokio::spawn(source.run(sender, watcher));
    // The watch is in place a moment after; the rescan would see it anyway.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = std::time::Instant::now();
    folder.write("a.yaml", &pod("a", "x2"));
    let batch = batches.recv().await.unwrap();
    assert_eq!(label_of(&batch, "a").as_deref(), Some("x2"));
    assert!(
        started.elapsed() < Duration::from_millis(1500),
        "{:?}",
        started.elapsed()
    );
    assert!(drain.drain(Duration::from_secs(5)).await);
    task.await.unwrap();
}

#[test]
fn texts_that_nodes_would_refuse_are_refused_here() {
    let pod = |rest: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: b{rest}}}\n")
    };
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                  metadata: {name: a, namespace: b}\n";
    let ports = vec!["\"80\""; 10_001].join(",");
    let cases = [
        (pod("") + "spec: {nodeName: \"a\\tb\"}", "spec.nodeName"),
        (pod(", labels: {app: \"x\\u0007\"}"), "metadata.labels.app"),
        (
            pod("").replace("namespace: b", &format!("namespace: {}", "b".repeat(64))),
            "metadata.namespace",
        ),
        (
            format!(
                "{policy}spec: {{rules: [{{from: [{{source: {{principals: [\"a\\nb\"]}}}}]}}]}}"
            ),
            "spec.rules[0].from[0].source.principals[0]",
        ),
        (
            format!("{policy}spec: {{rules: [{{to: [{{operation: {{ports: [{ports}]}}}}]}}]}}"),
            "spec.rules[0].to[0].operation.ports",
        ),
    ];
    for (manifest, field) in cases {
        let batch = super::read_text(&manifest);
        let fields: Vec<_> = batch
            .problems
            .iter()
            .map(|problem| &*problem.field)
            .collect();
        assert_eq!(
            (fields, batch.events),
            (vec![field], vec![]),
            "{manifest:.300}"
        );
    }
}
