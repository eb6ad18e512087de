use super::*;

fn source(modules: &[&str], text: &str) -> Source {
    Source {
        modules: modules.iter().map(|&one| one.to_owned()).collect(),
        text: text.to_owned(),
    }
}

fn found(sources: &[Source]) -> Vec<Vec<String>> {
    circles(&imports(sources))
        .into_iter()
        .map(|circle| circle.into_iter().collect())
        .collect()
}

#[test]
fn a_line_of_imports_is_no_circle() {
    let room = [
        source(&[], "mod a; mod b; mod c;"),
        source(&["a"], "use crate::b::B; use crate::c;"),
        source(&["b"], "use crate::c::C;"),
        source(&["c"], "use std::fmt;"),
    ];
    assert!(found(&room).is_empty());
}

#[test]
fn a_circle_over_three_modules_is_found() {
    let room = [
        source(&["a"], "fn f() { crate::b::go() }"),
        source(&["b", "inner"], "use crate::{c::C, d};"),
        source(&["c"], "use super::a::A;"),
        source(&["d"], ""),
    ];
    assert_eq!(found(&room), [["a", "b", "c"]]);
}

#[test]
fn names_the_root_re_exports_lead_to_their_module() {
    let room = [
        source(
            &[],
            "mod a; mod b; pub use a::{Alpha, deep::Beta as Gamma}; pub use b::Other;",
        ),
        source(&["a"], "use crate::Other;"),
        source(&["b"], "use crate::Gamma;"),
    ];
    assert_eq!(found(&room), [["a", "b"]]);
    let renamed_away = [
        source(&[], "pub use a::deep::Beta as Gamma; pub use b::Other;"),
        source(&["a"], "use crate::Other;"),
        source(&["b"], "use crate::Beta;"),
    ];
    assert!(found(&renamed_away).is_empty());
}

#[test]
fn supers_count_only_when_they_lead_to_the_root() {
    let room = [
        source(&["a", "x"], "use super::b::B;"),
        source(&["a", "y"], "use super::super::c::C;"),
        source(&["b"], "use crate::a::A;"),
        source(&["c"], "use crate::a::A;"),
    ];
    assert_eq!(found(&room), [["a", "c"]]);
}

#[test]
fn tests_comments_and_strings_do_not_import() {
    let room = [
        source(
            &["a"],
            "// crate::b\n/* crate::b */ const S: &str = \"\\\" crate::b\";\n\
             const R: &str = r#\"crate::b \"x\"#; const Q: char = '\"'; fn f<'a>(x: &'a str) {}\n\
             #[cfg(test)] mod tests { use crate::b::B; fn g() { {} } }\n\
             #[cfg(test)] use crate::b::C;\n fn last() {}",
        ),
        source(&["b"], "use crate::a::last;"),
    ];
    assert!(found(&room).is_empty());
    // What stands behind those is still read.
    let room = [
        source(
            &["a"],
            "const Q: char = '\\''; #[cfg(test)] mod tests { } use crate::b::B;",
        ),
        source(&["b"], "use crate::a::last;"),
    ];
    assert_eq!(found(&room), [["a", "b"]]);
}

#[test]
fn files_know_their_module() {
    let folder = Path::new("/r/src");
    let path = |file: &str| module_path(folder, &folder.join(file));
    assert_eq!(path("lib.rs"), Some(vec![]));
    assert_eq!(path("a.rs"), Some(vec!["a".to_owned()]));
    assert_eq!(path("a/mod.rs"), Some(vec!["a".to_owned()]));
    assert_eq!(path("a/b.rs"), Some(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(path("a/tests.rs"), None);
    assert_eq!(path("bin/demo.rs"), None);
    assert_eq!(path("notes.md"), None);
}
