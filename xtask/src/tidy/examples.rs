//! Checks that the documentation of public traits, and of the names at the root of the library
//! `remuda`, has an example. `cargo test --doc` compiles the examples.

use std::collections::BTreeMap;

use syn::{Attribute, Expr, ExprLit, Item, Lit, Meta, UseTree, Visibility};

use crate::source::{Source, is_test};
use crate::tree::Tree;

const ROOT: &str = "cli/src/lib.rs";

const CODE: [&str; 3] = ["core/src/", "arbiter/src/", "cli/src/"];

/// The interface to the simulation, which is hidden from the documentation.
const HIDDEN: &str = "arbiter/src/supervisor.rs";

pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let root = tree.source(ROOT).map(root_names).unwrap_or_default();
    let mut without = BTreeMap::new();
    let mut problems = Vec::new();
    for (path, source) in
        tree.sources().filter(|(path, _)| CODE.iter().any(|folder| path.starts_with(folder)))
    {
        for Public { name, is_trait, line, has_example } in public_items(source) {
            if has_example {
                without.insert(name, None);
            } else if is_trait && path != HIDDEN {
                problems.push(format!("{path}:{line}: the trait {name} has no example"));
            } else if root.contains(&name) {
                without.entry(name).or_insert_with(|| Some(format!("{path}:{line}")));
            }
        }
    }
    for name in root {
        if let Some(Some(place)) = without.remove(&name) {
            problems.push(format!("{place}: {name} is at the root and has no example"));
        }
    }
    problems
}

/// The names that the root defines or re-exports, except those of other crates.
fn root_names(source: &Source) -> Vec<String> {
    let mut names = Vec::new();
    for item in &source.syntax.items {
        match item {
            Item::Use(item) if matches!(item.vis, Visibility::Public(_)) => match &item.tree {
                UseTree::Path(path) if path.ident == "self" => collect(&path.tree, &mut names),
                _ => {}
            },
            Item::Fn(item) if matches!(item.vis, Visibility::Public(_)) => {
                names.push(item.sig.ident.to_string())
            }
            _ => {}
        }
    }
    names
}

fn collect(tree: &UseTree, names: &mut Vec<String>) {
    match tree {
        UseTree::Path(path) => collect(&path.tree, names),
        UseTree::Name(name) => names.push(name.ident.to_string()),
        UseTree::Rename(rename) => names.push(rename.ident.to_string()),
        UseTree::Group(group) => group.items.iter().for_each(|tree| collect(tree, names)),
        UseTree::Glob(_) => {}
    }
}

/// A public item at the top of a file.
struct Public {
    name: String,
    is_trait: bool,
    line: usize,
    has_example: bool,
}

fn public_items(source: &Source) -> Vec<Public> {
    let mut found = Vec::new();
    for item in &source.syntax.items {
        let (attributes, visibility, ident, is_trait) = match item {
            Item::Trait(item) => (&item.attrs, &item.vis, &item.ident, true),
            Item::Struct(item) => (&item.attrs, &item.vis, &item.ident, false),
            Item::Enum(item) => (&item.attrs, &item.vis, &item.ident, false),
            Item::Fn(item) => (&item.attrs, &item.vis, &item.sig.ident, false),
            _ => continue,
        };
        if let Visibility::Public(token) = visibility
            && !is_test(attributes)
        {
            let line = token.span.start().line;
            found.push(Public {
                name: ident.to_string(),
                is_trait,
                line,
                has_example: has_example(attributes),
            });
        }
    }
    found
}

/// Whether the documentation has a block of code that is Rust.
fn has_example(attributes: &[Attribute]) -> bool {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    // Every second fence begins a block.
    let fences: Vec<_> = lines.filter_map(|line| Some(line.trim().strip_prefix("```")?.to_owned())).collect();
    fences.iter().step_by(2).any(|info| info.is_empty() || info.starts_with("no_run"))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tree::made_up;

    const EXAMPLE: &str = "/// Does.\n///\n/// ```\n/// f();\n/// ```\n";

    #[test]
    fn a_public_trait_without_an_example_is_named() {
        let code =
            format!("{EXAMPLE}pub trait With {{}}\n/// Does.\npub trait Without {{}}\ntrait Private {{}}");
        let problems = check(&made_up(&[("core/src/a.rs", &code)]));
        assert_eq!(problems, ["core/src/a.rs:8: the trait Without has no example"]);
    }

    #[test]
    fn a_picture_is_no_example() {
        let code = "/// ```text\n/// a → b\n/// ```\npub trait Drawn {}";
        assert_eq!(check(&made_up(&[("core/src/a.rs", code)])).len(), 1);
        let code = "/// ```text\n/// a → b\n/// ```\n///\n/// ```no_run\n/// f();\n/// ```\n#[must_use]\npub trait Drawn {}";
        assert_eq!(check(&made_up(&[("core/src/a.rs", code)])), [""; 0]);
    }

    #[test]
    fn a_name_at_the_root_without_an_example_is_named() {
        let root =
            format!("pub use self::app::{{App, Head}};\npub use bytes::Bytes;\n{EXAMPLE}pub fn run() {{}}");
        let app = format!("{EXAMPLE}pub struct App;");
        let head = "/// Of a request.\npub struct Head;\n/// Not at the root.\npub struct Other;";
        let files =
            [("cli/src/lib.rs", root.as_str()), ("core/src/app.rs", &app), ("core/src/head.rs", head)];
        assert_eq!(check(&made_up(&files)), ["core/src/head.rs:2: Head is at the root and has no example"]);
    }
}
