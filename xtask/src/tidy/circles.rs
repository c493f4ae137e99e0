//! Checks that the files of a crate import one another without circles.
//!
//! A file imports another if a path in it leads to an item that is defined there. Re-exports are
//! followed to the definition (`modules.rs`); a re-export alone is no import. A module and its own
//! parts may import one another: if one module contains all others of a circle, the circle is
//! examined again without that module. Method calls are not seen; they need a value, whose type was
//! imported somewhere.

mod modules;

use std::collections::{BTreeMap, BTreeSet};

use self::modules::{Import, imports};
use crate::tree::Tree;

/// The root file of each crate.
const ROOTS: [&str; 5] =
    ["core/src/lib.rs", "arbiter/src/lib.rs", "cli/src/lib.rs", "cli/src/main.rs", "workers/*/src/lib.rs"];

/// An import that closes a circle and stays.
#[allow(dead_code, reason = "none stays at present")]
pub(crate) struct Tie {
    from: &'static str,
    to: &'static str,
    why: &'static str,
}

/// Every import that closes a circle and stays, with the reason. The check fails on an entry that
/// no circle needs.
pub(crate) const ALLOWED: &[Tie] = &[];

pub(crate) fn check(tree: &Tree, allowed: &[Tie]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut needed = vec![false; allowed.len()];
    for root in tree.paths().filter(|path| ROOTS.iter().any(|pattern| is_root(pattern, path))) {
        let graph = Graph::of(imports(tree, root));
        for circle in graph.circles(allowed) {
            problems.push(graph.told(&circle));
        }
        for (needed, number) in needed.iter_mut().zip(0..) {
            // An entry is needed if the circles change without it.
            let others = allowed.iter().enumerate().filter(|(other, _)| *other != number).map(|(_, tie)| tie);
            *needed |= graph.has(&allowed[number]) && graph.circles(others) != graph.circles(allowed);
        }
    }
    let spare = allowed.iter().zip(needed).filter(|(_, needed)| !needed);
    problems.extend(spare.map(|(Tie { from, to, .. }, _)| {
        format!("no circle needs {from} → {to}: take it out of ALLOWED (xtask/src/tidy/circles.rs)")
    }));
    let bare = allowed.iter().filter(|tie| tie.why.is_empty());
    problems.extend(bare.map(|Tie { from, to, .. }| format!("{from} → {to} is allowed without a reason")));
    problems
}

/// The number of files in the largest circle of each crate, counting modules and their own parts.
pub(crate) fn largest(tree: &Tree) -> Vec<(String, usize)> {
    let roots = tree.paths().filter(|path| ROOTS.iter().any(|pattern| is_root(pattern, path)));
    let sizes = roots.map(|root| {
        let graph = Graph::of(imports(tree, root));
        let files: Vec<_> = (0..graph.files.len()).collect();
        let edges: Vec<_> = graph.edges.keys().copied().collect();
        let largest = groups(&files, &edges).iter().map(Vec::len).max();
        (root.split("/src/").next().unwrap_or_default().to_owned(), largest.unwrap_or(0))
    });
    sizes.filter(|(_, size)| *size > 0).collect()
}

fn is_root(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, after)) => {
            let middle = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            middle.is_some_and(|middle| !middle.contains('/'))
        }
    }
}

/// The files of a crate and the imports between them.
struct Graph {
    /// Paths of files, with the paths of their modules.
    files: Vec<(String, Vec<String>)>,
    /// From and to, as indices into `files`, with an example of a path.
    edges: BTreeMap<(usize, usize), String>,
}

impl Graph {
    fn of((files, imports): (Vec<(String, Vec<String>)>, Vec<Import>)) -> Self {
        let mut edges = BTreeMap::new();
        for Import { from, to, line, path } in imports {
            edges.entry((from, to)).or_insert_with(|| format!("line {line}: {path}"));
        }
        Self { files, edges }
    }

    fn has(&self, tie: &Tie) -> bool {
        self.edges.keys().any(|&(from, to)| self.is(tie, from, to))
    }

    fn is(&self, tie: &Tie, from: usize, to: usize) -> bool {
        self.files[from].0 == tie.from && self.files[to].0 == tie.to
    }

    /// Groups of files that reach one another, without the imports that `allowed` lists.
    fn circles<'a>(&self, allowed: impl IntoIterator<Item = &'a Tie>) -> Vec<Vec<usize>> {
        let allowed: Vec<_> = allowed.into_iter().collect();
        let edges = self.edges.keys().copied();
        let counted = edges.filter(|&(from, to)| !allowed.iter().any(|tie| self.is(tie, from, to)));
        self.circles_among(&(0..self.files.len()).collect::<Vec<_>>(), &counted.collect::<Vec<_>>())
    }

    fn circles_among(&self, files: &[usize], edges: &[(usize, usize)]) -> Vec<Vec<usize>> {
        let mut circles = Vec::new();
        for group in groups(files, edges) {
            let parent = group.iter().find(|&&one| group.iter().all(|&other| self.contains(one, other)));
            match parent {
                Some(parent) => {
                    let rest: Vec<_> = group.iter().copied().filter(|file| file != parent).collect();
                    circles.extend(self.circles_among(&rest, edges));
                }
                None => circles.push(group),
            }
        }
        circles
    }

    fn contains(&self, module: usize, part: usize) -> bool {
        self.files[part].1.starts_with(&self.files[module].1)
    }

    fn told(&self, circle: &[usize]) -> String {
        let mut text = format!("{} files import one another in a circle:", circle.len());
        for (&(from, to), shown) in &self.edges {
            if circle.contains(&from) && circle.contains(&to) {
                text += &format!("\n       {} → {} ({shown})", self.files[from].0, self.files[to].0);
            }
        }
        text
    }
}

/// Strongly connected components of at least two files.
fn groups(files: &[usize], edges: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let mut targets: BTreeMap<usize, Vec<usize>> = files.iter().map(|&file| (file, Vec::new())).collect();
    for &(from, to) in edges.iter().filter(|(_, to)| files.contains(to)) {
        targets.entry(from).and_modify(|targets| targets.push(to));
    }
    let reached = |start: usize| {
        let mut seen = BTreeSet::from([start]);
        let mut next = vec![start];
        while let Some(file) = next.pop() {
            next.extend(targets[&file].iter().copied().filter(|&to| seen.insert(to)));
        }
        seen
    };
    let reached: BTreeMap<usize, BTreeSet<usize>> = files.iter().map(|&file| (file, reached(file))).collect();
    let mut grouped = BTreeSet::new();
    let mut groups = Vec::new();
    for (file, others) in &reached {
        let mutual = others.iter().copied().filter(|other| reached[other].contains(file));
        let group: Vec<usize> = mutual.collect();
        if group.len() > 1 && group.iter().all(|file| grouped.insert(*file)) {
            groups.push(group);
        }
    }
    groups
}

#[cfg(test)]
mod tests;
