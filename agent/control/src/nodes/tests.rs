use std::sync::Mutex;

use agent_model::{PodProgress, PodReport, Wanted};
use agent_xds::attach::{NodeReport, wishes_from_wire};
use serde_json::{Value, json};

use super::annotate::MarkPods;
use super::marks::difference;
use super::*;
use crate::collection::Collection;
use crate::source::file::read_text;
use crate::translate::tests::mesh;

/// Namespace `shop`, opted in unless `label` says otherwise, with pod `web` on node `n1`.
fn manifest(label: &str, pod: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{label}}}}}\n---\n\
         apiVersion: v1\nkind: Pod\n\
         metadata: {{name: web, namespace: shop, uid: u1, {pod}}}\n\
         spec: {{nodeName: n1, serviceAccountName: web}}\nstatus: {{podIP: 10.0.0.1}}\n"
    )
}

const MESHED: &str = "culvert.dev/mesh: enabled";

fn apply(collection: &mut Collection, manifest: &str) {
    let batch = read_text(manifest);
    assert_eq!(batch.problems, [], "{manifest}");
    batch
        .events
        .into_iter()
        .for_each(|event| collection.apply(event));
    collection.settle();
}

fn collection(manifest: &str, waits_for_capture: bool) -> Collection {
    let mut mesh = mesh();
    mesh.waits_for_capture = waits_for_capture;
    let mut collection = Collection::new(mesh);
    apply(&mut collection, manifest);
    collection
}

fn report(state: PodProgress, detail: &str) -> PodReport {
    PodReport {
        uid: "u1".into(),
        namespace: "shop".into(),
        name: "web".into(),
        state,
        detail: detail.into(),
    }
}

fn is_hbone(collection: &Collection) -> bool {
    let translated = collection.translated("shop").unwrap();
    translated.workloads[0].tunnel_protocol == agent_model::TunnelProtocol::Hbone
}

fn reported(collection: &mut Collection, node: &str, reports: &[PodReport]) -> bool {
    collection.report(node, reports);
    collection.settle();
    is_hbone(collection)
}

#[test]
fn in_a_folder_peers_tunnel_at_once() {
    assert!(is_hbone(&collection(&manifest(MESHED, ""), false)));
    assert!(!is_hbone(&collection(&manifest("", ""), false)));
}

#[test]
fn in_a_cluster_peers_tunnel_once_the_pod_is_captured() {
    let mut pods = collection(&manifest(MESHED, ""), true);
    assert!(!is_hbone(&pods));
    for (state, expected) in [
        (PodProgress::Pending, false),
        (PodProgress::Failed, false),
        (PodProgress::Enrolled, true),
        (PodProgress::Verified, true),
        (PodProgress::Failed, false),
    ] {
        let reports = [report(state, "")];
        assert_eq!(reported(&mut pods, "n1", &reports), expected, "{state:?}");
    }
    assert!(reported(
        &mut pods,
        "n1",
        &[report(PodProgress::Verified, "")]
    ));
    assert!(!reported(&mut pods, "n1", &[]), "no longer reported");
    // Istio's mark counts as well: another replica's node may have reported it.
    let marked = "annotations: {ambient.istio.io/redirection: enabled}";
    assert!(is_hbone(&collection(&manifest(MESHED, marked), true)));
    // Opted out, nothing counts.
    assert!(!is_hbone(&collection(&manifest("", marked), true)));
}

#[test]
fn a_node_has_no_say_on_pods_of_others() {
    let mut pods = collection(&manifest(MESHED, ""), true);
    let verified = [report(PodProgress::Verified, "")];
    assert!(!reported(&mut pods, "n2", &verified));
    assert!(reported(&mut pods, "n1", &verified));
    assert!(reported(&mut pods, "n2", &[]), "n2 takes nothing back");
    // The name came back with another UID: that is another pod.
    let reborn = manifest(MESHED, "").replace("u1", "u2");
    apply(&mut pods, &reborn);
    assert!(!is_hbone(&pods));
    let late = [report(PodProgress::Verified, "")];
    assert!(!reported(&mut pods, "n1", &late), "a report on the old pod");
}

#[test]
fn a_pod_that_refuses_plaintext_is_never_sent_any() {
    let strict = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                  metadata: {name: default, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n";
    let pods = collection(&format!("{}{strict}", manifest(MESHED, "")), true);
    assert!(is_hbone(&pods), "refused until enrolled");
}

#[test]
fn a_static_pod_goes_by_the_uid_that_its_node_knows() {
    let mirror = "annotations: {kubernetes.io/config.mirror: 4b5a69788796a5b4c3d2e1f00f1e2d3c}";
    let manifest = manifest(MESHED, mirror);
    let (placement, _) = placed(&manifest);
    let uid = &wishes(&placement, "n1").pods[0].uid;
    assert_eq!(uid, "4b5a69788796a5b4c3d2e1f00f1e2d3c");
    let mut pods = collection(&manifest, true);
    let by_object = report(PodProgress::Verified, "");
    assert!(!reported(&mut pods, "n1", std::slice::from_ref(&by_object)));
    let by_node = PodReport {
        uid: uid.clone(),
        ..by_object
    };
    assert!(reported(&mut pods, "n1", &[by_node]));
}

fn placed(manifest: &str) -> (Placement, NodePod) {
    let mut pods = collection(manifest, true);
    let placement = pods.new_placement().unwrap();
    let pod = placement.of_node("n1")["shop"][0].clone();
    (placement, pod)
}

#[test]
fn a_node_is_told_of_its_pods_and_of_every_meshed_namespace() {
    let elsewhere = "---\napiVersion: v1\nkind: Pod\n\
         metadata: {name: far, namespace: away, labels: {culvert.dev/mesh: enabled}}\n\
         spec: {nodeName: n2}\nstatus: {podIP: 10.0.0.9}\n";
    let (placement, _) = placed(&format!("{}{elsewhere}", manifest(MESHED, "")));
    let wishes = wishes(&placement, "n1");
    assert_eq!(wishes.pods.len(), 1);
    let pod = &wishes.pods[0];
    assert_eq!(
        (&*pod.uid, &*pod.name, pod.wanted),
        ("u1", "web", Wanted::Enrol)
    );
    assert_eq!((&*pod.reason, pod.ips.len()), ("namespace-label", 1));
    let meshed: Vec<&str> = wishes
        .meshed_namespaces
        .iter()
        .map(|name| &**name)
        .collect();
    assert_eq!(meshed, ["away", "shop"]);
    assert_eq!(super::wishes(&placement, "n3").pods, []);
}

#[test]
fn a_node_is_told_whose_names_it_leaves_alone() {
    let told = |namespace: &str, label: &str, annotation: &str| {
        let labels = |word: &str| match word {
            "" => String::new(),
            word => format!("culvert.dev/dns-capture: {word}"),
        };
        let annotation = match annotation {
            "" => String::new(),
            word => format!("ambient.istio.io/dns-capture: \"{word}\""),
        };
        let (namespace, label) = (labels(namespace), labels(label));
        let manifest = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{namespace}}}}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop, \
             labels: {{{label}}}, annotations: {{{annotation}}}}}\nspec: {{nodeName: n1}}\n"
        );
        wishes(&placed(&manifest).0, "n1").pods[0].dns_capture
    };
    for (namespace, label, annotation, expected) in [
        ("", "", "", true),
        ("disabled", "", "", false),
        ("enabled", "", "", true),
        ("sometimes", "", "", true),
        ("", "disabled", "", false),
        ("disabled", "enabled", "", true),
        ("", "", "false", false),
        ("disabled", "", "true", true),
        ("", "enabled", "false", true),
        ("disabled", "", "maybe", false),
    ] {
        let found = told(namespace, label, annotation);
        assert_eq!(found, expected, "{namespace}/{label}/{annotation}");
    }
    // A change of the namespace alone is told.
    let mut pods = collection(&manifest(MESHED, ""), true);
    assert!(pods.new_placement().is_some());
    let labels = format!("{MESHED}, culvert.dev/dns-capture: disabled");
    apply(&mut pods, &manifest(&labels, ""));
    let placement = pods.new_placement().expect("another placement");
    assert!(!wishes(&placement, "n1").pods[0].dns_capture);
}

#[test]
fn pods_that_are_over_keep_no_node_from_hearing_of_those_that_live() {
    let jobs = (0..MAX_PODS + 1_000).map(|number| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: job-{number}, namespace: shop}}\n\
             spec: {{nodeName: n1}}\nstatus: {{phase: Succeeded}}\n"
        )
    });
    let jobs: String = jobs.collect();
    let (placement, _) = placed(&format!("{}{jobs}", manifest(MESHED, "")));
    let told = wishes_from_wire(wishes_to_wire(&wishes(&placement, "n1"))).unwrap();
    assert_eq!(told.pods.len(), MAX_PODS);
    assert_eq!(told.pods[0].name, "web");
    assert_eq!(told.pods[1].wanted, Wanted::Leave);
}

#[test]
fn a_pod_waits_for_its_namespace_to_be_heard_of() {
    let both = manifest(MESHED, "");
    let (namespace, pod) = both.split_once("---\n").unwrap();
    let mut pods = collection(pod, true);
    let told = |pods: &mut Collection| {
        let placement = pods.new_placement().unwrap_or_default();
        wishes(&placement, "n1").pods
    };
    assert_eq!(told(&mut pods), []);
    apply(&mut pods, namespace);
    assert_eq!(told(&mut pods)[0].wanted, Wanted::Enrol);
    // Its own label decides without one; and a folder need not have any.
    let labelled = pod.replace("uid: u1,", "uid: u1, labels: {culvert.dev/mesh: disabled},");
    let mut own = collection(&labelled, true);
    assert_eq!(told(&mut own)[0].wanted, Wanted::Leave);
    let mut folder = collection(pod, false);
    assert_eq!(told(&mut folder)[0].wanted, Wanted::Leave);
}

#[test]
fn what_did_not_change_is_no_change() {
    let mut pods = collection(&manifest(MESHED, ""), true);
    assert!(pods.new_placement().is_some());
    apply(&mut pods, &manifest(MESHED, ""));
    assert!(pods.new_placement().is_none());
    apply(&mut pods, &manifest("", ""));
    let placement = pods.new_placement().unwrap();
    assert_eq!(wishes(&placement, "n1").pods[0].wanted, Wanted::Leave);
    assert!(placement.meshed().is_empty());
}

#[test]
fn annotations_follow_the_report() {
    let none = "";
    let ours = "annotations: {culvert.dev/status: verified, ambient.istio.io/redirection: enabled}";
    let istios = "annotations: {ambient.istio.io/redirection: enabled}";
    let completed = manifest(MESHED, none).replace("podIP: 10.0.0.1", "phase: Succeeded");
    let out = "culvert.dev/mesh: disabled";
    let (status, mark) = ("culvert.dev/status", "ambient.istio.io/redirection");
    let captured = Some(report(PodProgress::Verified, ""));
    for (case, manifest, report, expected) in [
        (
            "verified",
            manifest(MESHED, none),
            captured.clone(),
            json!({status: "verified", mark: "enabled"}),
        ),
        (
            "nothing to do",
            manifest(MESHED, ours),
            captured.clone(),
            Value::Null,
        ),
        (
            "not heard of",
            manifest(MESHED, none),
            None,
            json!({status: "pending"}),
        ),
        (
            "failed",
            manifest(MESHED, none),
            Some(report(PodProgress::Failed, "no netns")),
            json!({status: "failed: no netns"}),
        ),
        (
            "failed after all",
            manifest(MESHED, ours),
            Some(report(PodProgress::Failed, "")),
            json!({status: "failed", mark: null}),
        ),
        (
            "closed",
            manifest(MESHED, none),
            Some(report(PodProgress::Enrolled, "checking")),
            json!({status: "enrolled: checking", mark: "enabled"}),
        ),
        ("leaving", manifest(out, ours), captured, Value::Null),
        (
            "left",
            manifest(out, ours),
            None,
            json!({status: null, mark: null}),
        ),
        ("never in", manifest(out, none), None, Value::Null),
        ("another mesh's", manifest(out, istios), None, Value::Null),
        (
            "cannot be",
            completed,
            None,
            json!({status: "not-enrolled: completed"}),
        ),
    ] {
        let (_, pod) = placed(&manifest);
        let found = difference(&pod, report.as_ref()).unwrap_or_default();
        assert_eq!(found, expected, "{case}");
    }
}

#[test]
fn long_details_are_cut() {
    let (_, pod) = placed(&manifest(MESHED, ""));
    let patch = difference(&pod, Some(&report(PodProgress::Failed, &"ü".repeat(500)))).unwrap();
    assert!(patch["culvert.dev/status"].as_str().unwrap().len() <= 200);
}

#[test]
fn two_agents_of_a_node_speak_for_it_together() {
    let nodes = AttachedNodes::default();
    let node: Arc<str> = "n1".into();
    let open = || nodes.open(&node, SystemTime::now());
    let (old, new) = (open().unwrap(), open().unwrap());
    let say = |who: &Attachment, state, hash: &str| {
        who.report(NodeReport {
            pods: vec![report(state, "")],
            trust_bundle_hash: hash.to_owned(),
        });
    };
    assert_eq!(nodes.take_reports(), []);
    say(&old, PodProgress::Verified, "a");
    say(&new, PodProgress::Pending, "b");
    let said = nodes.take_reports();
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].1, [report(PodProgress::Verified, "")]);
    assert_eq!(nodes.take_reports(), [], "only once");
    let hashes: Vec<_> = nodes.trust_hashes()["n1"].iter().cloned().collect();
    assert_eq!(hashes, ["a", "b"]);
    drop(old);
    assert_eq!(nodes.take_reports()[0].1[0].state, PodProgress::Pending);
    drop(new);
    assert_eq!(nodes.take_reports(), [], "what it said is not taken back");
    let many: Vec<_> = (0..4).map(|_| open()).collect();
    assert!(many.iter().all(Option::is_some));
    assert!(open().is_none());
}

/// Notes patches and fails as told.
#[derive(Default)]
struct Marks {
    made: Mutex<Vec<(String, Value)>>,
    failures: Mutex<u32>,
}

impl MarkPods for Arc<Marks> {
    async fn mark(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        annotations: Value,
    ) -> Result<(), String> {
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err("unavailable".to_owned());
        }
        let pod = format!("{namespace}/{name}/{uid}");
        self.made.lock().unwrap().push((pod, annotations));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn annotations_are_written_once_and_tried_again() {
    let marks = Arc::new(Marks::default());
    *marks.failures.lock().unwrap() = 2;
    let (placement, _) = placed(&manifest(MESHED, ""));
    let (sender, placed) = watch::channel(placement);
    let nodes = AttachedNodes::default();
    let agent = nodes.open(&"n1".into(), SystemTime::now()).unwrap();
    let (drain, watcher) = drain::channel();
    let annotator = Annotator::new(Arc::clone(&marks), placed, nodes.clone());
    let running = tokio::spawn(annotator.run(watcher));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(*marks.made.lock().unwrap(), [], "nobody has said anything");
    agent.report(NodeReport {
        pods: vec![report(PodProgress::Verified, "")],
        ..NodeReport::default()
    });
    sleep(Duration::from_secs(14)).await;
    let expected =
        json!({"culvert.dev/status": "verified", "ambient.istio.io/redirection": "enabled"});
    let verified = ("shop/web/u1".to_owned(), expected);
    assert_eq!(marks.made.lock().unwrap()[..], [verified.clone()][..]);
    // The watch brings it back: nothing is left to do.
    let ours = "annotations: {culvert.dev/status: verified, ambient.istio.io/redirection: enabled}";
    sender.send_replace(self::placed(&manifest(MESHED, ours)).0);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(*marks.made.lock().unwrap(), [verified]);
    assert!(drain.drain(Duration::from_secs(1)).await);
    running.await.unwrap();
}
