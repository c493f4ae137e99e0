//! Checks that `unsafe` occurs in two places only.

use crate::tree::Tree;

/// Each stands for a file, and for the folder with its parts.
const PLACES: [&str; 2] = ["arbiter/src/sys", "core/src/worker/sys"];

pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, source) in tree.sources() {
        let allowed =
            |place: &&str| path.strip_prefix(*place).is_some_and(|rest| rest.starts_with(['.', '/']));
        if PLACES.iter().any(allowed) {
            continue;
        }
        for (_, line) in source.idents.iter().filter(|(ident, _)| ident == "unsafe") {
            problems.push(format!("{path}:{line}: `unsafe` outside {}", PLACES.join(" and ")));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tree::made_up;

    #[test]
    fn unsafe_elsewhere_is_named_with_its_line() {
        let tree = made_up(&[("core/src/conn.rs", "fn f() {\n    unsafe { g() }\n}")]);
        assert_eq!(
            check(&tree),
            ["core/src/conn.rs:2: `unsafe` outside arbiter/src/sys and core/src/worker/sys"]
        );
        let tree = made_up(&[("core/src/worker/system.rs", "unsafe fn f() {}")]);
        assert_eq!(check(&tree).len(), 1);
    }

    #[test]
    fn unsafe_in_its_places_words_and_attributes_pass() {
        let tree = made_up(&[
            ("arbiter/src/sys.rs", "fn f() { unsafe { g() } }"),
            ("core/src/worker/sys/epoll.rs", "fn f() { unsafe { g() } }"),
            ("cli/src/lib.rs", "#![forbid(unsafe_code)]\n// No unsafe here.\nconst S: &str = \"unsafe\";"),
        ]);
        assert!(check(&tree).is_empty());
    }
}
