//! No import circle between the top-level modules of a room.
//!
//! A reader of words, not a compiler: it finds `crate::x` and `super::x` paths outside tests,
//! follows names that the root file re-exports to the module that defines them, and reports every
//! set of modules that reach each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Member;

/// Which module imports which.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// One sentence for each circle.
pub(super) fn faults(members: &[Member]) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for member in members {
        let imports = imports(&sources(&member.folder.join("src"))?);
        for circle in circles(&imports) {
            faults.push(format!(
                "{}: import circle: {}",
                member.name,
                arrows(&imports, &circle)
            ));
        }
    }
    Ok(faults)
}

/// The imports inside a circle, as what there is to mend.
fn arrows(imports: &Imports, circle: &BTreeSet<String>) -> String {
    let mut arrows = Vec::new();
    for module in circle {
        let inside = imports
            .get(module)
            .into_iter()
            .flatten()
            .filter(|to| circle.contains(*to));
        let inside: Vec<&str> = inside.map(String::as_str).collect();
        arrows.push(format!("{module} -> {}", inside.join(" + ")));
    }
    arrows.join(", ")
}

/// A source file: its module path below the crate root (empty for lib.rs and main.rs) and text.
struct Source {
    modules: Vec<String>,
    text: String,
}

fn sources(folder: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        let listing =
            std::fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))?;
        for entry in listing {
            let path = entry.context("cannot list a source folder")?.path();
            if path.is_dir() {
                open.push(path);
            } else if let Some(modules) = module_path(folder, &path) {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                found.push(Source { modules, text });
            }
        }
    }
    Ok(found)
}

/// The module a file holds; none for tests, generated code and further binaries.
fn module_path(folder: &Path, file: &Path) -> Option<Vec<String>> {
    let inner: PathBuf = file.strip_prefix(folder).ok()?.with_extension("");
    if file.extension()? != "rs" {
        return None;
    }
    let mut modules: Vec<String> = inner
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if modules.iter().any(|part| part == "tests") || modules.first()? == "bin" {
        return None;
    }
    if matches!(modules.last()?.as_str(), "mod" | "lib" | "main") {
        modules.pop();
    }
    Some(modules)
}

fn imports(sources: &[Source]) -> Imports {
    let tops: BTreeSet<&str> = sources
        .iter()
        .filter_map(|source| source.modules.first())
        .map(String::as_str)
        .collect();
    let mut exported = BTreeMap::new();
    for source in sources.iter().filter(|source| source.modules.is_empty()) {
        exported.extend(re_exports(&words(&source.text), &tops));
    }
    let mut imports = Imports::new();
    for source in sources {
        let Some(own) = source.modules.first() else {
            continue;
        };
        let from = imports.entry(own.clone()).or_default();
        for name in root_names(&words(&source.text), source.modules.len()) {
            let module = if tops.contains(name.as_str()) {
                Some(&name)
            } else {
                exported.get(&name)
            };
            if let Some(module) = module.filter(|module| *module != own) {
                from.insert(module.clone());
            }
        }
    }
    imports
}

/// Names the root file re-exports (`pub use x::{A, y::B as C}`), each with its top-level module.
fn re_exports(words: &[String], tops: &BTreeSet<&str>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (at, word) in words.iter().enumerate() {
        if word != "use" {
            continue;
        }
        let end = words[at..]
            .iter()
            .position(|word| word == ";")
            .map_or(words.len(), |n| at + n);
        let mut path = &words[at + 1..end];
        if let [start, colons, rest @ ..] = path
            && matches!(start.as_str(), "crate" | "self")
            && colons == "::"
        {
            path = rest;
        }
        let Some((top, names)) = path.split_first() else {
            continue;
        };
        if !tops.contains(top.as_str()) {
            continue;
        }
        // A name is followed by the end of its path, and is not what `as` renames.
        for (index, name) in names.iter().enumerate() {
            let next = names.get(index + 1).map_or(";", String::as_str);
            if is_name(name) && name != "as" && matches!(next, ";" | "," | "}") {
                found.insert(name.clone(), top.clone());
            }
        }
    }
    found
}

/// First names below the crate root that a file at `depth` modules mentions.
fn root_names(words: &[String], depth: usize) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let begins = match words[at].as_str() {
            "crate" => Some(at + 1),
            "super" => after_supers(words, at, depth),
            _ => None,
        };
        // `a::super` is no path of ours; `$crate` neither.
        let continues = at > 0 && words[at - 1] == "::";
        match begins {
            Some(next) if !continues && words.get(next).is_some_and(|word| word == "::") => {
                names.extend(first_names(&words[next + 1..]));
                at = next + 1;
            }
            _ => at += 1,
        }
    }
    names
}

/// The place after as many `super` as lead from `depth` to the crate root, if there are that many.
fn after_supers(words: &[String], at: usize, depth: usize) -> Option<usize> {
    let mut place = at;
    for step in 0..depth {
        if step > 0 {
            (words.get(place)? == "::").then_some(())?;
            place += 1;
        }
        (words.get(place)? == "super").then_some(())?;
        place += 1;
    }
    Some(place)
}

/// The name that follows, or every first name of the group that follows.
fn first_names(words: &[String]) -> Vec<String> {
    if words.first().is_none_or(|word| word != "{") {
        return words
            .first()
            .filter(|word| is_name(word))
            .cloned()
            .into_iter()
            .collect();
    }
    let (mut names, mut depth, mut fresh) = (Vec::new(), 0_usize, true);
    for word in words {
        match word.as_str() {
            "{" => depth += 1,
            "}" if depth <= 1 => break,
            "}" => depth -= 1,
            "," if depth == 1 => fresh = true,
            name if depth == 1 && fresh && is_name(name) => {
                names.push(name.to_owned());
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The words of Rust source: names, `::` and single punctuation; without comments, strings and
/// items under `#[cfg(test)]`.
fn words(text: &str) -> Vec<String> {
    without_tests(split(text))
}

fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = skipped(rest);
        if skip > 0 {
            rest = &rest[skip..];
        } else if is_name(rest) {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            words.push(rest[..end].to_owned());
            rest = &rest[end..];
        } else {
            let length = if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            words.push(rest[..length].to_owned());
            rest = &rest[length..];
        }
    }
    words
}

/// How many bytes at the start of `rest` are space, a comment or a literal.
fn skipped(rest: &str) -> usize {
    let first = rest.chars().next().unwrap_or(' ');
    if first.is_whitespace() {
        first.len_utf8()
    } else if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        rest.find("*/").map_or(rest.len(), |end| end + 2)
    } else if let Some(hashes) = raw_string(rest) {
        let close = format!("\"{}", "#".repeat(hashes));
        let open = rest.find('"').map_or(0, |quote| quote + 1);
        rest[open..]
            .find(&close)
            .map_or(rest.len(), |end| open + end + close.len())
    } else if first == '"' {
        string_end(rest)
    } else if first == '\'' {
        char_end(rest)
    } else {
        0
    }
}

/// The number of `#` when a raw string begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn string_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character literal; a lifetime is no literal and only its quote is skipped.
fn char_end(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    let inner = chars.next().map(|(_, c)| c);
    let literal = inner == Some('\\') || chars.next().is_some_and(|(_, c)| c == '\'');
    if !literal {
        return 1;
    }
    let from = if inner == Some('\\') { 3 } else { 2 };
    let close = rest.char_indices().skip(from).find(|(_, c)| *c == '\'');
    close.map_or(rest.len(), |(at, _)| at + 1)
}

/// Leaves out what follows a `#[cfg(test)]`: up to a `;`, or to the end of the first braces.
fn without_tests(words: Vec<String>) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < words.len() {
        if words[at..].len() >= MARK.len() && words[at..].iter().zip(MARK).all(|(a, b)| a == b) {
            at = item_end(&words, at + MARK.len());
        } else {
            kept.push(words[at].clone());
            at += 1;
        }
    }
    kept
}

fn item_end(words: &[String], from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, word) in words.iter().enumerate().skip(from) {
        match word.as_str() {
            ";" if depth == 0 => return at + 1,
            "{" => depth += 1,
            "}" if depth <= 1 => return at + 1,
            "}" => depth -= 1,
            _ => {}
        }
    }
    words.len()
}

/// Sets of two or more modules that reach each other.
fn circles(imports: &Imports) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> = imports
        .keys()
        .map(|module| (module, reached(imports, module)))
        .collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for (module, to) in &reach {
        let mutual = to
            .iter()
            .filter(|other| reach.get(**other).is_some_and(|r| r.contains(module)));
        let circle: BTreeSet<String> = mutual.map(|other| (*other).clone()).collect();
        if circle.len() > 1 && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

fn reached<'a>(imports: &'a Imports, module: &'a String) -> BTreeSet<&'a String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![module];
    while let Some(next) = open.pop() {
        for other in imports.get(next).into_iter().flatten() {
            if seen.insert(other) {
                open.push(other);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests;
