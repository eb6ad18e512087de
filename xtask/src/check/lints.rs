//! Every member's manifest inherits the workspace's lints.

use anyhow::{Context, Result};

use super::Member;

/// One sentence for each member that sets its own lints or none.
pub(super) fn faults(members: &[Member]) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for member in members {
        let path = member.folder.join("Cargo.toml");
        let manifest = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if !inherits(&manifest) {
            faults.push(format!(
                "{} does not inherit the lints: add `[lints]` and `workspace = true` to {}",
                member.name,
                path.display()
            ));
        }
    }
    Ok(faults)
}

fn inherits(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim);
    if !lines.any(|line| line == "[lints]") {
        return false;
    }
    let mut table = lines.take_while(|line| !line.starts_with('['));
    table.any(|line| line.split_whitespace().collect::<String>() == "workspace=true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lints_table_counts() {
        assert!(inherits(
            "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n\n[dependencies]\n"
        ));
        assert!(!inherits("[package]\nworkspace = true\n"));
        assert!(!inherits("[lints]\n\n[dependencies]\nworkspace = true\n"));
        assert!(!inherits("[lints.rust]\nunsafe_code = \"allow\"\n"));
    }
}
