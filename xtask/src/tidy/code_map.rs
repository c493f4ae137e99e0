//! Checks that the code map of ARCHITECTURE.md names every module, and no module that does not
//! exist.
//!
//! A list below a heading such as "### `core/src/`" is the map of that folder. Its entries begin
//! with the names of modules.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::Tree;

const PAGE: &str = "ARCHITECTURE.md";

/// Folders that must have a list.
const FOLDERS: [&str; 4] = ["core/src/", "core/src/worker/", "arbiter/src/", "cli/src/"];

/// Files that need no entry.
const ASIDE: [&str; 4] = ["lib", "main", "testing", "tests"];

pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let map = map(tree.text(PAGE).unwrap_or_default());
    let mut problems = Vec::new();
    for folder in FOLDERS {
        let Some(listed) = map.get(folder) else {
            problems.push(format!("{PAGE} has no list below a heading `{folder}`"));
            continue;
        };
        let there = modules(tree, folder);
        let missing = there.difference(listed).map(|name| format!("{PAGE} does not list {folder}{name}.rs"));
        let gone = listed
            .difference(&there)
            .map(|name| format!("{PAGE} lists {folder}{name}.rs, which is not there"));
        problems.extend(missing.chain(gone));
    }
    problems
}

/// Checks that types, methods and files that the page names exist: `CamelCase`, `a::b`, `file.rs`.
pub(crate) fn check_names(tree: &Tree) -> Vec<String> {
    let idents: BTreeSet<&str> =
        tree.sources().flat_map(|(_, source)| &source.idents).map(|(ident, _)| ident.as_str()).collect();
    // Text and code blocks alternate.
    let text: String = tree.text(PAGE).unwrap_or_default().split("\n```").step_by(2).collect();
    let mut problems = Vec::new();
    for name in text.split('`').skip(1).step_by(2) {
        let is_known = if name.ends_with(".rs") {
            tree.paths().any(|path| path == name || path.ends_with(&format!("/{name}")))
        } else {
            let segments: Vec<&str> = name.split("::").collect();
            let is_ident = |text: &&str| text.chars().all(|c| c.is_alphanumeric() || c == '_');
            let is_type = name.contains(char::is_lowercase) && name.starts_with(char::is_uppercase);
            let is_code = segments.iter().all(is_ident) && (segments.len() > 1 || is_type);
            // The first segment may be a crate.
            !is_code
                || segments.iter().skip(usize::from(segments.len() > 1)).all(|part| idents.contains(part))
        };
        if !is_known {
            problems.push(format!("{PAGE} names `{name}`, which is not there"));
        }
    }
    problems
}

/// Reads the names in the list of each folder.
fn map(page: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut map: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut folder = None;
    for line in page.lines() {
        if line.starts_with('#') {
            folder = line.split('`').nth(1);
        } else if let (Some(folder), Some(entry)) = (folder, line.strip_prefix("- ")) {
            // Names are before the colon: - `session`, `machine`: text
            let (names, _) = entry.split_once("`: ").unwrap_or((entry, ""));
            let names = names.split('`').skip(1).step_by(2);
            map.entry(folder).or_default().extend(names);
        }
    }
    map
}

fn modules<'a>(tree: &'a Tree, folder: &str) -> BTreeSet<&'a str> {
    let files = tree.paths().filter_map(|path| path.strip_prefix(folder)?.strip_suffix(".rs"));
    files.filter(|name| !name.contains('/') && !ASIDE.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::{FOLDERS, check, check_names};
    use crate::tree::made_up;

    const FILES: [(&str, &str); 6] = [
        ("core/src/lib.rs", ""),
        ("core/src/conn.rs", ""),
        ("core/src/conn/state.rs", ""),
        ("core/src/session.rs", ""),
        ("core/src/machine.rs", ""),
        ("core/src/testing.rs", ""),
    ];

    fn found(list: &str) -> Vec<String> {
        let others: String =
            FOLDERS[1..].iter().map(|folder| format!("### `{folder}`\n- nothing\n")).collect();
        let page = format!("# Architecture\n### `core/src/`\n{list}{others}");
        let files: Vec<_> = FILES.into_iter().chain([("ARCHITECTURE.md", page.as_str())]).collect();
        check(&made_up(&files))
    }

    #[test]
    fn a_map_of_all_modules_passes() {
        assert_eq!(found("- `conn`: a `Connection`\n- `session`, `machine`: both\n"), [""; 0]);
    }

    #[test]
    fn a_module_that_is_missing_and_one_that_is_gone_are_named() {
        let problems = found("- `conn`, `chunks`: text\n- `session`: text\n");
        let expected = [
            "ARCHITECTURE.md does not list core/src/machine.rs",
            "ARCHITECTURE.md lists core/src/chunks.rs, which is not there",
        ];
        assert_eq!(problems, expected);
    }

    #[test]
    fn names_that_do_not_exist_are_found() {
        let code = ("core/src/conn.rs", "pub struct Connection;\nimpl Connection { fn step() {} }");
        let names = |page| check_names(&made_up(&[code, ("ARCHITECTURE.md", page)]));
        let known =
            "`Connection::step` in `core/src/conn.rs`, or `conn.rs`; `--help`, `503`, `name`, `TERM`.";
        assert_eq!(names(known), [""; 0]);
        assert_eq!(names("`Gone`, `Connection::gone` and `core/src/gone.rs`").len(), 3);
        assert_eq!(names("```text\n`Gone`\n```\n"), [""; 0]);
    }

    #[test]
    fn a_page_without_the_map_is_a_problem() {
        assert_eq!(check(&made_up(&[("ARCHITECTURE.md", "# Architecture\n")])).len(), FOLDERS.len());
    }
}
