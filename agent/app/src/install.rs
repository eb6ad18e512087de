//! `culvert install --render`: the manifests of `deploy/kubernetes`, as this release has them, with
//! the few settings that an installation has. The way: [`files`] (embedded) -> [`kustomize`]
//! (resources and patches, as kubectl would) -> [`settings`] (image, namespace, `--set`) -> text.
//!
//! Nothing is asked of a cluster and nothing is applied: what is printed can be read first.

mod files;
mod kustomize;
mod patch;
mod settings;

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::InstallFlags;
use crate::config::ConfigError;

/// Why no manifests can be printed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    /// A flag cannot be used.
    #[error(transparent)]
    Setting(#[from] ConfigError),
    /// The manifests this program carries are wrong; a defect of the release.
    #[error("{file} of this release: {problem}")]
    Embedded {
        /// Path below `deploy/kubernetes`.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A role would refuse to start with these arguments.
    #[error("{role} would refuse its arguments: {problem}")]
    Arguments {
        /// `control` or `node`.
        role: &'static str,
        /// What its command line says.
        problem: String,
    },
}

/// The manifests as one text of YAML documents.
pub(crate) fn render(flags: &InstallFlags) -> Result<String, InstallError> {
    let settings = settings::Settings::new(flags)?;
    let mut objects = match flags.overlay {
        None => kustomize::build(files::ALL, "base")?,
        Some(overlay) => kustomize::build(files::ALL, overlay.directory())?,
    };
    for extra in &flags.with {
        for object in kustomize::build(files::ALL, extra.directory())? {
            if !objects.iter().any(|known| is_same(known, &object)) {
                objects.push(object);
            }
        }
    }
    settings.apply(&mut objects)?;
    text(&objects)
}

/// Whether two objects have one kind, namespace and name.
fn is_same(one: &Value, other: &Value) -> bool {
    let pointers = [
        "/apiVersion",
        "/kind",
        "/metadata/namespace",
        "/metadata/name",
    ];
    let mut names = pointers.iter();
    names.all(|pointer| one.pointer(pointer) == other.pointer(pointer))
}

fn text(objects: &[Value]) -> Result<String, InstallError> {
    let mut text = format!(
        "# Culvert {}: apply with `kubectl apply -f -`.\n",
        crate::VERSION
    );
    for object in objects {
        let yaml = serde_saphyr::to_string(object).map_err(|error| InstallError::Embedded {
            file: "an object".to_owned(),
            problem: error.to_string(),
        })?;
        // Writing to a String cannot fail.
        let _ = write!(text, "---\n{yaml}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
