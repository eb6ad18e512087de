//! What lies where in the image: the programs, the shared libraries that culvert names, and the
//! few files that libc reads. No shell, no package database, nothing else.

use std::borrow::Cow;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::program::{output, program, succeed};

/// Accounts: the node agent is root; the control plane runs as the other one.
const PASSWD: &str =
    "root:x:0:0:root:/:/sbin/nologin\nculvert:x:65532:65532:culvert:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nculvert:x:65532:\n";
/// Names of the mesh are looked up by DNS.
const NSSWITCH: &str = "hosts: files dns\n";

/// The certification authorities that Mozilla believes, as Debian's ca-certificates brings them. Not
/// the bundle made of them, which has what whoever builds the image believes besides.
const AUTHORITIES: &str = "/usr/share/ca-certificates/mozilla";
/// Where programs look for them.
pub(super) const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// Places that a pod mounts something at; a read-only root cannot grow them.
const MOUNT_POINTS: [&str; 8] = [
    "dev",
    "host",
    "proc",
    "run/culvert",
    "run/netns",
    "sys",
    "var/lib/culvert",
    "var/lib/culvert-control",
];

/// One path of the image, relative to its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) content: Content,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Folder,
    Text(Cow<'static, str>),
    /// A copy, with what only a debugger needs taken out.
    Program(PathBuf),
    /// A copy.
    File {
        from: PathBuf,
        executable: bool,
    },
    Link(&'static str),
}

/// The whole tree.
pub(super) fn entries(
    culvert: &Path,
    cni: &Path,
    object: &Path,
    licence: &Path,
) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = MOUNT_POINTS
        .iter()
        .map(|path| entry(path, Content::Folder))
        .collect();
    entries.extend([
        entry("etc/passwd", Content::Text(PASSWD.into())),
        entry("etc/group", Content::Text(GROUP.into())),
        entry("etc/nsswitch.conf", Content::Text(NSSWITCH.into())),
        entry(BUNDLE, Content::Text(authorities()?.into())),
        // Container runtimes name a pod's namespace by the old path.
        entry("var/run", Content::Link("../run")),
        entry("usr/bin/culvert", Content::Program(culvert.to_owned())),
        entry("usr/bin/culvert-cni", Content::Program(cni.to_owned())),
        entry("usr/lib/culvert/culvert.bpf.o", plain(object, false)),
        entry("usr/share/doc/culvert/LICENSE", plain(licence, false)),
    ]);
    for library in libraries(culvert)? {
        let path = library
            .strip_prefix("/")
            .with_context(|| format!("{} is no absolute path", library.display()))?;
        entries.push(entry(path, plain(&library, true)));
    }
    Ok(entries)
}

fn entry(path: impl AsRef<Path>, content: Content) -> Entry {
    Entry {
        path: path.as_ref().to_owned(),
        content,
    }
}

fn plain(from: &Path, executable: bool) -> Content {
    Content::File {
        from: from.to_owned(),
        executable,
    }
}

/// All authorities in one text, the same for the same version of the package.
fn authorities() -> Result<String> {
    let install = || format!("{AUTHORITIES} cannot be read: install ca-certificates");
    let files = fs::read_dir(AUTHORITIES).with_context(install)?;
    let files = files.map(|file| Ok(file?.path()));
    let mut files = files.collect::<Result<Vec<PathBuf>>>()?;
    files.sort();
    let mut bundle = String::new();
    for file in files {
        let text = fs::read_to_string(&file);
        let text = text.with_context(|| format!("cannot read {}", file.display()))?;
        bundle.push_str(text.trim_end());
        bundle.push('\n');
    }
    Ok(bundle)
}

/// The shared libraries of a program and its loader, as the loader of this machine finds them.
fn libraries(program_file: &Path) -> Result<Vec<PathBuf>> {
    let said = output(program("ldd", Path::new("/")).arg(program_file))?;
    named_by_ldd(&said)
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, and the loader's line without a name.
fn named_by_ldd(said: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in said.lines().map(str::trim) {
        if line.starts_with("linux-vdso") || line.is_empty() {
            continue;
        }
        let target = line.split_once(" => ").map_or(line, |(_, target)| target);
        match target.split(" (").next() {
            Some(path) if path.starts_with('/') => found.push(PathBuf::from(path)),
            _ => bail!("ldd: {line}"),
        }
    }
    if found.is_empty() {
        bail!("ldd names no library: {said}");
    }
    Ok(found)
}

/// Writes the tree below `root`, which is emptied first.
pub(super) fn write(entries: &[Entry], root: &Path) -> Result<()> {
    if root.exists() {
        if root.join("etc/os-release").exists() || root == Path::new("/") {
            bail!("{} is the file system of a machine", root.display());
        }
        fs::remove_dir_all(root).with_context(|| format!("cannot empty {}", root.display()))?;
    }
    for entry in entries {
        let path = root.join(&entry.path);
        let folder = path.parent().context("an entry below no folder")?;
        fs::create_dir_all(folder).with_context(|| format!("no {}", folder.display()))?;
        put(&entry.content, &path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    open_folders(root)
}

fn put(content: &Content, path: &Path) -> Result<()> {
    match content {
        Content::Folder => fs::create_dir_all(path)?,
        Content::Text(text) => {
            fs::write(path, text.as_bytes())?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
        }
        Content::Program(from) => {
            let mut strip = program("strip", Path::new("/"));
            succeed(strip.args(["--strip-debug", "-o"]).arg(path).arg(from))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        Content::File { from, executable } => {
            fs::copy(from, path)?;
            let mode = if *executable { 0o755 } else { 0o644 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        Content::Link(target) => symlink(target, path)?,
    }
    Ok(())
}

/// Folders may be entered by everybody, whatever the umask of who builds.
fn open_folders(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_understood_or_refused() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths = named_by_ldd(said).unwrap();
        let expected = [
            "/lib/x86_64-linux-gnu/libm.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(paths, expected.map(PathBuf::from));
        assert!(named_by_ldd("\tlibx.so => not found\n").is_err());
        assert!(named_by_ldd("\tnot a dynamic executable\n").is_err());
        assert!(named_by_ldd("").is_err());
    }

    #[test]
    fn the_bundle_has_authorities_and_nothing_else() {
        let bundle = authorities().unwrap();
        let count = |line: &str| bundle.lines().filter(|of| *of == line).count();
        let certificates = count("-----BEGIN CERTIFICATE-----");
        assert!(certificates > 50, "{certificates}");
        assert_eq!(count("-----END CERTIFICATE-----"), certificates);
        let is_pem = |line: &str| line.starts_with("-----") || !line.contains([' ', '\t']);
        assert!(bundle.lines().all(is_pem));
        assert!(!bundle.contains("PRIVATE"));
    }

    #[test]
    fn the_tree_is_written_with_its_modes() {
        let root = std::env::temp_dir().join(format!("culvert-tree-{}", std::process::id()));
        let entries = [
            entry("a/b", Content::Folder),
            entry("etc/passwd", Content::Text(PASSWD.into())),
            entry("bin/x", plain(Path::new("/proc/self/status"), true)),
            entry("l", Content::Link("a/b")),
        ];
        write(&entries, &root).unwrap();
        fs::write(root.join("left-over"), "").unwrap();
        write(&entries, &root).unwrap();
        assert!(!root.join("left-over").exists());
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            [mode("a/b"), mode("etc/passwd"), mode("bin/x")],
            [0o755, 0o644, 0o755]
        );
        assert!(root.join("l").is_dir());
        fs::write(root.join("etc/os-release"), "").unwrap();
        assert!(write(&entries, &root).is_err(), "a machine is not emptied");
        fs::remove_dir_all(&root).unwrap();
    }
}
