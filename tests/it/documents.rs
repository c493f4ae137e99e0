//! Statements of documents about tests.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_test_named_in_security_exists() {
    let package = std::env::var_os("CARGO_MANIFEST_DIR");
    let root = Path::new(&package.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into())).join("..");
    let mut sources = String::new();
    for folder in ["tests", "core/src", "arbiter/src"] {
        read_all(&root.join(folder), &mut sources);
    }
    let text = fs::read_to_string(root.join("SECURITY.md")).expect("it is there");
    let names: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|name| is_test(name)).collect();
    assert!(names.len() > 20, "so few: {names:?}");
    for name in names {
        assert!(sources.contains(&format!("fn {name}(")), "SECURITY.md names {name}");
    }
}

/// Whether `name` is spelled like the name of a test.
fn is_test(name: &str) -> bool {
    name.contains('_') && name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.contains(['/', '.'])
}

fn read_all(folder: &Path, sources: &mut String) {
    let entries = fs::read_dir(folder).expect("the folder is there");
    for path in entries.map(|entry| -> PathBuf { entry.expect("a folder can be read").path() }) {
        if path.is_dir() {
            read_all(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(&path).expect("source is text"));
        }
    }
}
