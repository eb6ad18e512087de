//! What comes from outside: its licences, and security-relevant crates in one version only.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{metadata, text};
use crate::workspace::Workspace;

/// Licences that may be linked into an Apache-2.0 program without further conditions.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Two versions of one of these would mean two places to mend, or two that misunderstand each
/// other's types.
const SINGLE: [&str; 16] = [
    "aws-lc-rs",
    "aws-lc-sys",
    "aya",
    "h2",
    "http",
    "hyper",
    "k8s-openapi",
    "prost",
    "rcgen",
    "ring",
    "rustls",
    "rustls-webpki",
    "tokio",
    "tokio-rustls",
    "tonic",
    "x509-parser",
];

/// A second TLS stack has no place here.
const BANNED: [&str; 3] = ["native-tls", "openssl", "openssl-sys"];

struct Outside {
    name: String,
    version: String,
    licence: Option<String>,
}

/// One sentence for each crate that breaks a rule.
pub(super) fn faults(workspace: &Workspace) -> Result<Vec<String>> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = metadata(workspace, &["--filter-platform", &host])?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let crates = packages.iter().map(outside).collect::<Result<Vec<_>>>()?;
    Ok(judge(&crates))
}

fn outside(package: &Value) -> Result<Outside> {
    Ok(Outside {
        name: text(package, "name")?,
        version: text(package, "version")?,
        licence: package["license"].as_str().map(str::to_owned),
    })
}

fn judge(crates: &[Outside]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in crates {
        versions.entry(&one.name).or_default().insert(&one.version);
        match &one.licence {
            Some(licence) if is_allowed(licence) => {}
            Some(licence) => {
                faults.push(format!("{} {} is under {licence}", one.name, one.version));
            }
            None => faults.push(format!("{} {} names no licence", one.name, one.version)),
        }
        if BANNED.contains(&one.name.as_str()) {
            faults.push(format!(
                "{} is banned: rustls is the only TLS stack",
                one.name
            ));
        }
    }
    for name in SINGLE {
        if let Some(found) = versions.get(name)
            && found.len() > 1
        {
            let list = found.iter().copied().collect::<Vec<_>>().join(", ");
            faults.push(format!("{name} is there in several versions: {list}"));
        }
    }
    faults
}

/// Whether an SPDX expression can be met with allowed licences only. An exception (`WITH`) gives
/// more rights, so it does not matter which.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words };
    reader.any() == Some(true) && reader.words.is_empty()
}

/// Reads an expression; `None` where it is malformed.
struct Reader<'a> {
    words: &'a [&'a str],
}

impl<'a> Reader<'a> {
    fn take(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn take_if(&mut self, word: &str) -> bool {
        let there = self.words.first() == Some(&word);
        if there {
            self.take();
        }
        there
    }

    fn any(&mut self) -> Option<bool> {
        let mut allowed = self.all()?;
        while self.take_if("OR") {
            allowed |= self.all()?;
        }
        Some(allowed)
    }

    fn all(&mut self) -> Option<bool> {
        let mut allowed = self.one()?;
        while self.take_if("AND") {
            allowed &= self.one()?;
        }
        Some(allowed)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take_if("(") {
            let inner = self.any()?;
            return self.take_if(")").then_some(inner);
        }
        let licence = self.take()?;
        if self.take_if("WITH") {
            self.take()?;
        }
        Some(ALLOWED.contains(&licence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions_are_understood() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-2.0-only OR MIT",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
            "(MIT OR GPL-3.0-only) AND Unicode-3.0",
            "ISC AND (Apache-2.0 OR ISC) AND BSD-3-Clause",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "GPL-3.0-only",
            "MIT AND GPL-2.0-only",
            "",
            "MIT OR",
            "MIT )",
            "(MIT",
            "Foo MIT",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    fn outside(name: &str, version: &str, licence: Option<&str>) -> Outside {
        let licence = licence.map(str::to_owned);
        Outside {
            name: name.to_owned(),
            version: version.to_owned(),
            licence,
        }
    }

    #[test]
    fn doubles_missing_licences_and_banned_crates_are_found() {
        let mit = Some("MIT");
        let faults = judge(&[
            outside("rustls", "0.23.1", mit),
            outside("rustls", "0.22.0", mit),
            outside("rand", "0.9.0", mit),
            outside("rand", "0.8.0", mit),
            outside("odd", "1.0.0", None),
            outside("openssl-sys", "0.9.0", mit),
        ]);
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].contains("odd") && faults[1].contains("banned"));
        assert!(faults[2].contains("0.22.0, 0.23.1"));
    }
}
