//! The files of a repository in memory, so that checks read nothing and tests make up trees of a
//! few lines.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::source::Source;

/// Folders with the output of tools.
const SKIPPED: [&str; 4] = ["target", "fuzz/artifacts", "fuzz/corpus", "fuzz/target"];

/// Files by their path relative to the root, with `/` between folders.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, String>,
    sources: BTreeMap<String, Source>,
    broken: Vec<String>,
}

impl Tree {
    /// Reads every file below `root`, except hidden ones and [`SKIPPED`].
    ///
    /// # Panics
    ///
    /// If a folder or file cannot be read.
    pub(crate) fn read(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        walk(root, "", &mut files);
        Self::of(files)
    }

    fn of(files: BTreeMap<String, String>) -> Self {
        let mut tree = Self { files, ..Self::default() };
        for (path, text) in tree.files.iter().filter(|(path, _)| path.ends_with(".rs")) {
            match Source::parse(text) {
                Ok(source) => drop(tree.sources.insert(path.clone(), source)),
                Err(error) => tree.broken.push(format!("{path}: {error}")),
            }
        }
        tree
    }

    /// All paths, in order.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// All Rust files that parse, in order.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.sources.iter().map(|(path, source)| (path.as_str(), source))
    }

    pub(crate) fn source(&self, path: &str) -> Option<&Source> {
        self.sources.get(path)
    }

    /// Rust files that do not parse, with the reason. Other checks do not see their contents.
    pub(crate) fn broken(&self) -> Vec<String> {
        self.broken.clone()
    }
}

fn walk(folder: &Path, below: &str, files: &mut BTreeMap<String, String>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        let kind = entry.file_type().unwrap_or_else(|error| panic!("{path}: {error}"));
        if name.starts_with('.') || SKIPPED.contains(&path.as_str()) {
            continue;
        }
        if kind.is_dir() {
            walk(&entry.path(), &path, files);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap_or_else(|error| panic!("{path}: {error}"));
            files.insert(path, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

/// Makes a tree of the given files.
#[cfg(test)]
pub(crate) fn made_up(files: &[(&str, &str)]) -> Tree {
    Tree::of(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
}
