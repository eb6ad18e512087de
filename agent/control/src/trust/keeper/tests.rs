use agent_identity::Signer;

use super::super::origin::AuthorityFiles;
use super::*;

const TERMS: Terms = Terms {
    max_ttl: Duration::from_secs(3600),
    overlap: Duration::from_secs(300),
};

/// Files of an issuer in a directory of their own.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let unique = format!("culvert-trust-{:032x}", rand::random::<u128>());
        let folder = Self(std::env::temp_dir().join(unique));
        fs::create_dir_all(&folder.0).unwrap();
        folder
    }

    fn put(&self, root: &NewRoot) {
        use std::os::unix::fs::PermissionsExt;
        fs::write(self.0.join("chain"), &root.certificate).unwrap();
        fs::write(self.0.join("roots"), &root.certificate).unwrap();
        fs::write(self.0.join("key"), root.key.as_bytes()).unwrap();
        // As a kubelet mounts a Secret for a program that is not root.
        fs::set_permissions(self.0.join("key"), fs::Permissions::from_mode(0o440)).unwrap();
    }

    fn root_file(&self) -> PathBuf {
        self.0.join("state/root-cert.pem")
    }

    fn keeper(&self) -> Keeper {
        let files = AuthorityFiles {
            chain: self.0.join("chain"),
            key: self.0.join("key"),
            roots: self.0.join("roots"),
        };
        let file = self.root_file();
        let (origin, offer) = Origin::files(files, &file).unwrap();
        Keeper::new(origin, offer, TERMS, "cluster.local", Some(file)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn root() -> NewRoot {
    NewRoot::make("cluster.local", SystemTime::now()).unwrap()
}

/// Nodes and the bundles their agents use.
fn using(nodes: &[(&str, &[&str])]) -> Hashes {
    let nodes = nodes.iter().map(|(node, hashes)| {
        let hashes = hashes.iter().map(|hash| (*hash).to_owned());
        (Arc::from(*node), hashes.collect::<BTreeSet<String>>())
    });
    nodes.collect()
}

#[tokio::test]
async fn f_25_files_that_change_rotate_the_root_as_the_nodes_acknowledge() {
    let folder = Folder::new();
    let (old, new) = (root(), root());
    folder.put(&old);
    let mut keeper = folder.keeper();
    let authority = keeper.authority();
    let mut bundle = keeper.bundle();
    let start = (Instant::now(), SystemTime::now());
    let after = |time: Duration| (start.0 + time, start.1 + time);
    let nobody = using(&[]);
    keeper.look(Some(&nobody), true, start).await;
    assert!(!bundle.has_changed().unwrap());
    assert_eq!(
        fs::read_to_string(folder.root_file()).unwrap(),
        old.certificate
    );

    folder.put(&new);
    let first = bundle.borrow_and_update().sha256().to_owned();
    let behind = using(&[("n1", &[&first]), ("n2", &[""])]);
    keeper.look(Some(&behind), true, start).await;
    let both = bundle.borrow_and_update().clone();
    assert_eq!(
        both.pem(),
        format!("{}{}", old.certificate, new.certificate)
    );
    assert_eq!(fs::read_to_string(folder.root_file()).unwrap(), both.pem());
    assert_eq!(authority.signer().roots().pem(), old.certificate);
    let shown = keeper.shown().json();
    assert_eq!(shown["stage"], "distributing");
    assert_eq!(shown["unacknowledged"], json!(["n1", "n2"]));
    assert_eq!(shown["roots"][1]["role"], "next");

    // Time alone is not enough, nor one agent of two on a node.
    let later = after(TERMS.overlap);
    keeper.look(None, true, later).await;
    assert_eq!(keeper.shown().json()["unacknowledged"], Value::Null);
    assert_eq!(authority.signer().roots().pem(), old.certificate);
    let half = using(&[("n1", &[both.sha256()]), ("n2", &[both.sha256(), &first])]);
    keeper.look(Some(&half), true, later).await;
    assert_eq!(authority.signer().roots().pem(), old.certificate);
    assert_eq!(keeper.shown().json()["unacknowledged"], json!(["n2"]));
    let all = using(&[("n1", &[both.sha256()]), ("n2", &[both.sha256()])]);
    keeper.look(Some(&all), true, later).await;
    assert_eq!(authority.signer().roots().pem(), new.certificate);
    assert_eq!(authority.bundle().roots().len(), 2);
    assert_eq!(keeper.shown().json()["stage"], "retiring");

    // A replica that starts now trusts the old one too: it reads what was handed out.
    let restarted = folder.keeper();
    assert_eq!(restarted.bundle().borrow().roots().len(), 2);

    let new_alone = TrustBundle::parse(&new.certificate).unwrap();
    let new_alone = new_alone.sha256();
    // Another replica may be ahead: who trusts the new one alone trusts enough.
    let reordered = using(&[("n1", &[bundle.borrow_and_update().sha256(), new_alone])]);
    let end = after(Duration::from_secs(4 * 3600));
    keeper.look(Some(&reordered), true, end).await;
    assert_eq!(bundle.borrow_and_update().pem(), new.certificate);
    assert_eq!(keeper.shown().json()["stage"], "single");
}

#[tokio::test]
async fn files_that_do_not_fit_change_nothing_and_are_named() {
    let folder = Folder::new();
    let (old, new) = (root(), root());
    folder.put(&old);
    let mut keeper = folder.keeper();
    fs::write(folder.0.join("chain"), &new.certificate).unwrap();
    let now = (Instant::now(), SystemTime::now());
    keeper.look(Some(&using(&[])), true, now).await;
    let problem = keeper.shown().json()["problem"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(problem.contains("not the issuer's"), "{problem}");
    assert_eq!(keeper.authority().signer().roots().pem(), old.certificate);
    folder.put(&new);
    keeper.look(Some(&using(&[])), true, now).await;
    assert_eq!(keeper.shown().json()["problem"], Value::Null);
    assert_eq!(keeper.shown().json()["stage"], "distributing");
}

#[test]
fn a_root_that_is_kept_is_written_once() {
    let folder = Folder::new();
    let state = folder.0.join("state");
    let (origin, offer) = Origin::kept(&state, "cluster.local").unwrap();
    let file = folder.root_file();
    let keeper = Keeper::new(origin, offer, TERMS, "cluster.local", Some(file.clone())).unwrap();
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        keeper.bundle().borrow().pem()
    );
    assert_eq!(keeper.shown().json()["source"], "state-dir");
    let signer: Arc<Signer> = keeper.authority().signer();
    assert_eq!(signer.roots(), &*keeper.bundle().borrow());
}

/// An empty revocation list of somebody.
const LIST: &str = "\
-----BEGIN X509 CRL-----
MIGnMFACAQEwCgYIKoZIzj0EAwIwDzENMAsGA1UEAwwEcm9vdBcNMjYxMTIxMTgx
MjM3WhgPMjEyNjEwMjgxODEyMzdaoA4wDDAKBgNVHRQEAwIBATAKBggqhkjOPQQD
AgNHADBEAiAxmFqx4mr9hrm97MhLDxNitdRvD0txLlzUJbGJpS3qAAIgWeHXSV54
Ub1JhEwEGTBYq5J+VCc+R5CYLo3hfSNvEcA=
-----END X509 CRL-----
";

#[tokio::test]
async fn f_27_revocation_lists_reach_the_nodes_and_a_bad_file_takes_none_back() {
    let (folder, root) = (Folder::new(), root());
    folder.put(&root);
    let file = folder.0.join("crl");
    fs::write(&file, LIST).unwrap();
    let mut keeper = folder.keeper().with_crl(file.clone()).unwrap();
    let bundle = keeper.bundle();
    assert_eq!(
        bundle.borrow().text(),
        format!("{}{LIST}", root.certificate)
    );
    // Who only wants roots gets them alone.
    assert_eq!(bundle.borrow().pem(), root.certificate);
    assert_eq!(keeper.shown().json()["revocationLists"], 1);
    let now = (Instant::now(), SystemTime::now());
    for bad in [Some("no list"), None] {
        match bad {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        keeper.look(Some(&using(&[])), true, now).await;
        let problem = keeper.shown().json()["problem"].to_string();
        assert!(problem.contains("crl"), "{problem}");
        assert_eq!(bundle.borrow().revocations().len(), 1);
    }
    fs::write(&file, LIST.repeat(2)).unwrap();
    keeper.look(Some(&using(&[])), true, now).await;
    assert_eq!(keeper.shown().json()["problem"], Value::Null);
    assert_eq!(bundle.borrow().revocations().len(), 2);
    fs::remove_file(&file).unwrap();
    assert!(folder.keeper().with_crl(file).is_err());
}
