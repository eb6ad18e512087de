//! `cargo xtask image`: the container image, made without a container engine.
//!
//! The way: programs -> [`tree`] (what lies where in the image) -> [`layout`] (one layer, as an OCI
//! image layout). The Dockerfile takes the same tree, so both ways make the same file system.
//! [`trial`] unpacks the layer and runs every role in it.

mod layout;
mod tree;
mod trial;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::setup;
use crate::steps::Steps;
use crate::workspace::Workspace;

pub(crate) use trial::{TRIAL, run as trial};

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    profile: Profile,
    output: Option<PathBuf>,
    root: Option<PathBuf>,
    tried: bool,
}

impl Request {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut request = Self {
            profile: Profile::Release,
            output: None,
            root: None,
            tried: false,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} needs a value"))
            };
            match word.as_str() {
                "--profile" => {
                    request.profile = match value()?.as_str() {
                        "dev" => Profile::Dev,
                        "release" => Profile::Release,
                        other => bail!("--profile is dev or release, not `{other}`"),
                    }
                }
                "--output" => request.output = Some(PathBuf::from(value()?)),
                "--root" => request.root = Some(PathBuf::from(value()?)),
                "--try" => request.tried = true,
                other => bail!("image knows --profile, --output, --root and --try, not `{other}`"),
            }
        }
        Ok(request)
    }
}

/// Builds the programs and writes the image, or with `--root` only its file system.
pub(crate) fn run(workspace: &Workspace, steps: &mut Steps, arguments: &[String]) -> Result<()> {
    let request = Request::parse(arguments)?;
    setup::compiler(workspace, steps)?;
    let here = std::env::current_dir().context("no current directory")?;
    if let Some(root) = &request.root {
        return staged(workspace, steps, request.profile, &here.join(root));
    }
    let output = match &request.output {
        Some(folder) => here.join(folder),
        None => workspace.target().join("image/oci"),
    };
    make(workspace, steps, request.profile, &output)?;
    if request.tried {
        steps.step(TRIAL, || trial(workspace, &output))?;
    }
    println!("{}", output.display());
    Ok(())
}

/// The image of the programs that the tests run.
pub(crate) fn make_for_tests(workspace: &Workspace, steps: &mut Steps) -> Result<PathBuf> {
    let output = workspace.target().join("image/dev");
    make(workspace, steps, Profile::Dev, &output)?;
    Ok(output)
}

fn make(workspace: &Workspace, steps: &mut Steps, profile: Profile, output: &Path) -> Result<()> {
    let root = workspace.target().join("image/root");
    staged(workspace, steps, profile, &root)?;
    steps.step("image: layer, configuration, index", || {
        layout::write(&root, output)
    })
}

fn staged(workspace: &Workspace, steps: &mut Steps, profile: Profile, root: &Path) -> Result<()> {
    let [culvert, cni, object] = build::shipped(workspace, steps, profile)?;
    steps.step("image: file system", || {
        let licence = workspace.root().join("LICENSE");
        let entries = tree::entries(&culvert, &cni, &object, &licence)?;
        tree::write(&entries, root)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Request::parse(&words)
    }

    #[test]
    fn arguments_are_understood_or_refused() {
        let request = parse("--profile dev --output out").unwrap();
        assert_eq!(request.profile, Profile::Dev);
        assert_eq!(request.output, Some(PathBuf::from("out")));
        assert_eq!(parse("").unwrap().profile, Profile::Release);
        assert!(parse("--try").unwrap().tried && !request.tried);
        assert_eq!(parse("--root r").unwrap().root, Some(PathBuf::from("r")));
        for wrong in ["--profile fast", "--output", "extra"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
