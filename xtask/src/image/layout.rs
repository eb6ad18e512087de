//! An OCI image layout (image-spec 1.1) of one layer. The same tree makes the same bytes: names are
//! sorted, times are 0, owners are root.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::program::{output, program};

/// The name containerd gives the image when it imports the layout; `culvert:VERSION` in a manifest
/// means the same.
const REPOSITORY: &str = "docker.io/library/culvert";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// Writes the layout of the file system `root` to `folder`, which is emptied first.
pub(super) fn write(root: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        if !folder.join("oci-layout").exists() && fs::read_dir(folder)?.next().is_some() {
            bail!("{} is not empty and no image layout", folder.display());
        }
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("no {}", blobs.display()))?;

    let archive = folder.join("layer.tar");
    pack(root, &archive)?;
    let unpacked = sha256(&archive)?;
    let layer = keep(&blobs, &compress(&archive)?)?;
    fs::remove_file(&archive)?;

    let config = json_blob(
        &blobs,
        &config(&unpacked),
        "application/vnd.oci.image.config.v1+json",
    )?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
    });
    let mut manifest = json_blob(
        &blobs,
        &manifest,
        "application/vnd.oci.image.manifest.v1+json",
    )?;
    manifest["platform"] = json!({"architecture": architecture()?, "os": "linux"});
    manifest["annotations"] = json!({
        "io.containerd.image.name": format!("{REPOSITORY}:{VERSION}"),
        "org.opencontainers.image.ref.name": VERSION,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    fs::write(folder.join("index.json"), index.to_string())?;
    fs::write(
        folder.join("oci-layout"),
        json!({"imageLayoutVersion": "1.0.0"}).to_string(),
    )?;
    Ok(())
}

/// How the image is run; the Dockerfile says the same.
fn config(layer: &str) -> Value {
    let history = json!({"created": EPOCH, "created_by": "cargo xtask image"});
    json!({
        "created": EPOCH,
        "architecture": architecture().unwrap_or("unknown"),
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/culvert"],
            "Env": ["PATH=/usr/bin"],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "culvert",
                "org.opencontainers.image.description": "Node-level, eBPF-assisted ambient service mesh",
                "org.opencontainers.image.licenses": "Apache-2.0",
                "org.opencontainers.image.version": VERSION,
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        "history": [history],
    })
}

/// The image's word for this machine.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image is made for {other}"),
    }
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    let mut tar = program("tar", root);
    tar.args([
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ]);
    tar.args(["--format=ustar", "--create", "--file"])
        .arg(archive);
    // `.` itself stays out: the root is made by who unpacks.
    let mut names: Vec<_> = fs::read_dir(root)
        .with_context(|| format!("cannot read {}", root.display()))?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    output(tar.arg("--").args(names)).map(drop)
}

fn compress(archive: &Path) -> Result<Vec<u8>> {
    let mut gzip = program("gzip", Path::new("/"));
    // -n: neither name nor time of the file.
    gzip.args(["-n", "-6", "-c"])
        .arg(archive)
        .stdout(Stdio::piped());
    let done = gzip.output().context("cannot start gzip")?;
    if !done.status.success() {
        bail!("gzip: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(done.stdout)
}

/// Content that lies under its own hash.
struct Blob {
    digest: String,
    size: usize,
}

impl Blob {
    fn descriptor(&self, media_type: &str) -> Value {
        json!({
            "mediaType": media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.size,
        })
    }
}

fn json_blob(blobs: &Path, value: &Value, media_type: &str) -> Result<Value> {
    Ok(keep(blobs, value.to_string().as_bytes())?.descriptor(media_type))
}

fn keep(blobs: &Path, content: &[u8]) -> Result<Blob> {
    let partial = blobs.join("partial");
    fs::write(&partial, content).with_context(|| format!("cannot write {}", partial.display()))?;
    let digest = sha256(&partial)?;
    fs::rename(&partial, blobs.join(&digest))?;
    Ok(Blob {
        digest,
        size: content.len(),
    })
}

fn sha256(file: &Path) -> Result<String> {
    let said = output(program("sha256sum", Path::new("/")).arg("--").arg(file))?;
    let digest = said.split_whitespace().next().unwrap_or_default();
    if digest.len() != 64 {
        bail!("sha256sum: {said}");
    }
    Ok(digest.to_owned())
}

/// The file of the only layer of a layout.
pub(super) fn layer(folder: &Path) -> Result<std::path::PathBuf> {
    let blob = |digest: &Value| {
        let digest = digest
            .as_str()
            .and_then(|digest| digest.strip_prefix("sha256:"));
        Ok::<_, anyhow::Error>(
            folder
                .join("blobs/sha256")
                .join(digest.context("no digest")?),
        )
    };
    let read = |path: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let index = read(&folder.join("index.json"))?;
    let manifest = read(&blob(&index["manifests"][0]["digest"])?)?;
    blob(&manifest["layers"][0]["digest"])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways make the same image.
    #[test]
    fn the_dockerfile_says_the_same() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/Dockerfile");
        let dockerfile = fs::read_to_string(path).unwrap();
        let config = &config("0")["config"];
        let entrypoint = format!("ENTRYPOINT {}\n", config["Entrypoint"]);
        assert!(dockerfile.contains(&entrypoint), "{entrypoint}");
        let settings = config["Env"].as_array().unwrap().iter();
        for setting in settings.map(|setting| setting.as_str().unwrap()) {
            assert!(
                dockerfile.contains(&format!("ENV {setting}\n")),
                "{setting}"
            );
        }
        for (label, value) in config["Labels"].as_object().unwrap() {
            assert!(dockerfile.contains(&format!("{label}={value}")), "{label}");
        }
        assert!(dockerfile.contains(&format!("culvert:{VERSION} ")));
    }

    #[test]
    fn the_same_tree_makes_the_same_image() {
        let here = std::env::temp_dir().join(format!("culvert-layout-{}", std::process::id()));
        let root = here.join("root");
        let fill = || {
            fs::create_dir_all(root.join("b/c")).unwrap();
            fs::write(root.join("b/c/file"), "content").unwrap();
            fs::write(root.join("a"), "more").unwrap();
        };
        fill();
        write(&root, &here.join("one")).unwrap();
        fs::remove_dir_all(&root).unwrap();
        fill();
        write(&root, &here.join("two")).unwrap();
        let index = |name: &str| fs::read_to_string(here.join(name).join("index.json")).unwrap();
        assert_eq!(index("one"), index("two"));

        fs::write(root.join("a"), "other").unwrap();
        write(&root, &here.join("two")).unwrap();
        assert_ne!(index("one"), index("two"));

        // Every blob is what its name says, and the layer unpacks to the tree.
        for blob in fs::read_dir(here.join("two/blobs/sha256")).unwrap() {
            let path = blob.unwrap().path();
            assert_eq!(
                sha256(&path).unwrap(),
                path.file_name().unwrap().to_str().unwrap()
            );
        }
        let out = here.join("out");
        fs::create_dir_all(&out).unwrap();
        let archive = layer(&here.join("two")).unwrap();
        output(program("tar", &out).arg("-xzf").arg(archive)).unwrap();
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "other");
        assert_eq!(fs::read_to_string(out.join("b/c/file")).unwrap(), "content");

        assert!(
            write(&root, &root).is_err(),
            "what is no layout is not emptied"
        );
        fs::remove_dir_all(&here).unwrap();
    }
}
