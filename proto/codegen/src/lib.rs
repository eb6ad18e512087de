//! Generates the Rust code of `proto/src/gen` from the .proto files, without protoc.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The .proto files, relative to [`proto_dir`].
const FILES: [&str; 7] = [
    "authorization.proto",
    "ca.proto",
    "discovery.proto",
    "gateway.proto",
    "node.proto",
    "otlp.proto",
    "workload.proto",
];

/// The folder that holds the .proto files and the crate `proto`.
pub fn proto_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder the checked-in code lives in.
pub fn generated_dir() -> PathBuf {
    proto_dir().join("src/gen")
}

/// Writes the code of every package into `out`, one file each. Maps become ordered maps, so that
/// equal messages have equal bytes: resource versions are hashes of those.
pub fn generate(out: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let root = proto_dir();
    let descriptors = protox::compile(FILES.map(|file| root.join(file)), [&root])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .btree_map(".")
        .out_dir(out)
        .compile_fds(descriptors)
        .context("generating code")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn contents(dir: &Path) -> BTreeMap<String, String> {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(&path).unwrap())
            })
            .collect()
    }

    #[test]
    fn checked_in_code_is_what_the_proto_files_say() {
        let fresh = std::env::temp_dir().join(format!("proto-codegen-{}", std::process::id()));
        generate(&fresh).unwrap();
        let (expected, found) = (contents(&fresh), contents(&generated_dir()));
        fs::remove_dir_all(&fresh).unwrap();
        assert_eq!(
            expected.keys().collect::<Vec<_>>(),
            found.keys().collect::<Vec<_>>()
        );
        for (name, code) in expected {
            assert!(
                code == found[&name],
                "{name} differs: run `cargo xtask codegen`"
            );
        }
    }
}
