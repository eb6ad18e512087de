//! The names a queried name may stand for.

/// A name to look for in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The full name, in lower case.
    pub(super) name: String,
    /// It is what was asked for without one of the search domains.
    pub(super) is_stripped: bool,
    /// It is not a short name that was made longer: wildcards may stand for it too.
    pub(super) is_whole: bool,
}

/// What a client in `namespace` may mean by `name`, best first: the name as it is or a short name
/// made longer, then the same without each of the search domains that its resolver may have added.
pub(super) fn candidates(name: &str, namespace: &str, domain: &str) -> Vec<Candidate> {
    let mut found = Vec::with_capacity(8);
    add(&mut found, name, namespace, domain, false);
    let search = [
        format!(".{namespace}.svc.{domain}"),
        format!(".svc.{domain}"),
        format!(".{domain}"),
    ];
    for suffix in &search {
        if let Some(rest) = name.strip_suffix(suffix.as_str())
            && !rest.is_empty()
        {
            add(&mut found, rest, namespace, domain, true);
        }
    }
    found
}

fn add(found: &mut Vec<Candidate>, name: &str, namespace: &str, domain: &str, is_stripped: bool) {
    let mut push = |name: String, is_whole| {
        let is_new = found.iter().all(|candidate| candidate.name != name);
        if is_new {
            found.push(Candidate {
                name,
                is_stripped,
                is_whole,
            });
        }
    };
    push(name.to_owned(), true);
    let is_below_svc = name.ends_with(".svc");
    match name.split('.').count() {
        1 => push(format!("{name}.{namespace}.svc.{domain}"), false),
        2 => {
            push(format!("{name}.svc.{domain}"), false);
            push(format!("{name}.{namespace}.svc.{domain}"), false);
        }
        3 => {
            if is_below_svc {
                push(format!("{name}.{domain}"), false);
            }
            push(format!("{name}.svc.{domain}"), false);
        }
        4 if is_below_svc => push(format!("{name}.{domain}"), false),
        _ => {}
    }
}

/// The wildcard host names that cover `name`, from the narrowest to the widest.
pub(super) fn wildcards(name: &str) -> impl Iterator<Item = String> {
    let dots = name.match_indices('.');
    dots.map(|(at, _)| format!("*{}", &name[at..]))
}
