//! Resolves the paths in a crate to the files that define their items. Tests are skipped:
//! `#[cfg(test)]`, `#[test]`.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, UseTree, Visibility};

use crate::source::is_test;
use crate::tree::Tree;

/// A path in one file that leads to an item defined in another.
pub(super) struct Import {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) line: usize,
    pub(super) path: String,
}

/// The files of the crate with the root file `root`, with their module paths, and their imports of
/// one another.
pub(super) fn imports(tree: &Tree, root: &str) -> (Vec<(String, Vec<String>)>, Vec<Import>) {
    let mut krate = Crate { tree, files: Vec::new(), modules: Vec::new(), paths: Vec::new() };
    krate.add_file(root, None, &[]);
    let imports = krate.resolve_all();
    (krate.files, imports)
}

/// One crate.
struct Crate<'a> {
    tree: &'a Tree,
    files: Vec<(String, Vec<String>)>,
    modules: Vec<Module>,
    /// All paths written in the crate.
    paths: Vec<Written>,
}

/// A module, in its own file or inline.
struct Module {
    file: usize,
    parent: Option<usize>,
    /// The names that it defines or imports. One name may be a module and an item.
    names: BTreeMap<String, Vec<Name>>,
    /// Glob imports: `use …::*`.
    globs: Vec<Vec<String>>,
    /// Whether it calls macros that may define items.
    expands: bool,
    /// First segments of the paths in its code, without its `use` items.
    mentioned: BTreeSet<String>,
}

enum Name {
    Item,
    Module(usize),
    Use(Vec<String>),
}

/// A path in the source.
struct Written {
    module: usize,
    line: usize,
    segments: Vec<String>,
    /// The name that a `pub use` gives to it. A re-export alone is no import.
    re_export: Option<String>,
}

/// The target of a path.
enum Place {
    Item(usize),
    Module(usize),
}

impl Crate<'_> {
    fn add_file(&mut self, path: &str, parent: Option<usize>, module: &[String]) -> Option<usize> {
        let source = self.tree.source(path)?;
        self.files.push((path.to_owned(), module.to_vec()));
        let id = self.add_module(self.files.len() - 1, parent);
        // The submodules of `lib`, `main` and `mod` are beside the file, those of others in its
        // folder.
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let stem = name.trim_end_matches(".rs");
        let folder = if ["lib", "main", "mod"].contains(&stem) {
            folder.to_owned()
        } else {
            format!("{folder}/{stem}")
        };
        self.add_items(id, &source.syntax.items, &folder, module);
        Some(id)
    }

    fn add_module(&mut self, file: usize, parent: Option<usize>) -> usize {
        self.modules.push(Module {
            file,
            parent,
            names: BTreeMap::new(),
            globs: Vec::new(),
            expands: false,
            mentioned: BTreeSet::new(),
        });
        self.modules.len() - 1
    }

    fn add_items(&mut self, id: usize, items: &[Item], folder: &str, module: &[String]) {
        for item in items.iter().filter(|item| !is_test(attributes(item))) {
            match item {
                Item::Mod(item) => self.add_child(id, item, folder, module),
                Item::Use(item) => {
                    let public = !matches!(item.vis, Visibility::Inherited);
                    let line = item.use_token.span.start().line;
                    for (segments, alias) in flatten(&item.tree) {
                        let re_export = public.then(|| alias.clone());
                        if alias == "*" {
                            self.modules[id].globs.push(segments.clone());
                        } else {
                            let names = &mut self.modules[id].names;
                            names.entry(alias).or_default().push(Name::Use(segments.clone()));
                        }
                        self.paths.push(Written { module: id, line, segments, re_export });
                    }
                }
                item => {
                    self.modules[id].expands |= matches!(item, Item::Macro(call) if call.ident.is_none());
                    if let Some(name) = name(item) {
                        self.modules[id].names.entry(name).or_default().push(Name::Item);
                    }
                    let mut found = Paths { paths: Vec::new() };
                    found.visit_item(item);
                    for (line, segments) in found.paths {
                        self.modules[id].mentioned.insert(segments[0].clone());
                        // A single name is defined here or imported by a `use`, which is recorded
                        // itself.
                        if segments.len() > 1 {
                            self.paths.push(Written { module: id, line, segments, re_export: None });
                        }
                    }
                }
            }
        }
    }

    fn add_child(&mut self, id: usize, item: &ItemMod, folder: &str, module: &[String]) {
        let name = item.ident.to_string();
        let module = [module, std::slice::from_ref(&name)].concat();
        let child = if let Some((_, items)) = &item.content {
            let child = self.add_module(self.modules[id].file, Some(id));
            self.add_items(child, items, &format!("{folder}/{name}"), &module);
            Some(child)
        } else {
            let beside = format!("{folder}/{name}.rs");
            let within = format!("{folder}/{name}/mod.rs");
            let path = if self.tree.source(&beside).is_some() { beside } else { within };
            self.add_file(&path, Some(id), &module)
        };
        if let Some(child) = child {
            self.modules[id].names.entry(name).or_default().push(Name::Module(child));
        }
    }

    fn resolve_all(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        for Written { module, line, segments, re_export } in &self.paths {
            let Module { file: from, mentioned, .. } = &self.modules[*module];
            if re_export.as_ref().is_some_and(|alias| !mentioned.contains(alias)) {
                continue;
            }
            // Importing a module is no import of its items, unless a glob imports all of them.
            let glob = segments.last().is_some_and(|last| last == "*");
            let to = match self.resolve(*module, segments, 0) {
                Some(Place::Item(file)) => file,
                Some(Place::Module(id)) if glob => self.modules[id].file,
                _ => continue,
            };
            if to != *from {
                imports.push(Import { from: *from, to, line: *line, path: segments.join("::") });
            }
        }
        imports
    }

    /// None if the path leads out of the crate. `depth` ends the search in re-exports of
    /// themselves.
    fn resolve(&self, module: usize, segments: &[String], depth: u32) -> Option<Place> {
        let (first, rest) = segments.split_first()?;
        if depth > 32 {
            return None;
        }
        match first.as_str() {
            "crate" => self.descend(0, rest, depth),
            "self" => self.descend(module, rest, depth),
            "super" => match rest.first().map(String::as_str) {
                Some("super") => self.resolve(self.modules[module].parent?, rest, depth + 1),
                _ => self.descend(self.modules[module].parent?, rest, depth),
            },
            _ => self.descend(module, segments, depth),
        }
    }

    fn descend(&self, module: usize, segments: &[String], depth: u32) -> Option<Place> {
        let Some((first, rest)) = segments.split_first().filter(|(first, _)| *first != "*") else {
            return Some(Place::Module(module));
        };
        let Module { file, names, globs, expands, .. } = &self.modules[module];
        // Before `::` a name is a module; at the end of a path it is an item, if there is one. A
        // module may be there twice, under conditions.
        let names = names.get(first).map(Vec::as_slice).unwrap_or_default();
        let is_preferred = |name: &&Name| matches!(name, Name::Module(_)) != rest.is_empty();
        let ordered =
            names.iter().filter(is_preferred).chain(names.iter().filter(|name| !is_preferred(name)));
        let found = ordered.into_iter().find_map(|name| match name {
            Name::Module(child) => self.descend(*child, rest, depth),
            // The rest of the path is a variant or an associated item.
            Name::Item => Some(Place::Item(*file)),
            Name::Use(path) if path[..] == *segments => None,
            Name::Use(path) => match self.resolve(module, path, depth + 1)? {
                Place::Module(id) => self.descend(id, rest, depth + 1),
                item => Some(item),
            },
        });
        let through_globs = || {
            globs.iter().filter(|glob| glob[..glob.len() - 1] != *segments).find_map(|glob| {
                match self.resolve(module, &glob[..glob.len() - 1], depth + 1)? {
                    Place::Module(id) if id != module => self.descend(id, segments, depth + 1),
                    _ => None,
                }
            })
        };
        // A macro may have made it.
        let expanded = || (names.is_empty() && *expands && module != 0).then_some(Place::Item(*file));
        found.or_else(through_globs).or_else(expanded)
    }
}

/// Lists the paths of a `use` item, with the names that they get. A path that ends in `self` is
/// that of the module.
fn flatten(tree: &UseTree) -> Vec<(Vec<String>, String)> {
    let with = |first: String, rest: Vec<(Vec<String>, String)>| {
        rest.into_iter().map(move |(mut path, alias)| {
            path.insert(0, first.clone());
            if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
                path.pop();
                let alias = if alias == "self" { path.last().cloned().unwrap_or_default() } else { alias };
                return (path, alias);
            }
            (path, alias)
        })
    };
    match tree {
        UseTree::Path(path) => with(path.ident.to_string(), flatten(&path.tree)).collect(),
        UseTree::Name(name) => vec![(vec![name.ident.to_string()], name.ident.to_string())],
        UseTree::Rename(rename) => vec![(vec![rename.ident.to_string()], rename.rename.to_string())],
        UseTree::Glob(_) => vec![(vec!["*".to_owned()], "*".to_owned())],
        UseTree::Group(group) => group.items.iter().flat_map(flatten).collect(),
    }
}

/// Collects the paths in code, with their lines.
struct Paths {
    paths: Vec<(usize, Vec<String>)>,
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Fn(item) => &item.attrs[..],
            syn::ImplItem::Const(item) => &item.attrs,
            _ => &[],
        };
        if !is_test(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let line = item.use_token.span.start().line;
        self.paths.extend(flatten(&item.tree).into_iter().map(|(path, _)| (line, path)));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let line = path.segments.first().map_or(0, |first| first.ident.span().start().line);
            self.paths.push((line, path.segments.iter().map(|segment| segment.ident.to_string()).collect()));
        }
        visit::visit_path(self, path);
    }

    /// The arguments of a macro are tokens: every sequence of identifiers with `::` between them
    /// may be a path.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

impl Paths {
    fn tokens(&mut self, tokens: TokenStream) {
        let mut run: Vec<String> = Vec::new();
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    // Only two colons continue a path: `name: Type` has one.
                    if colons != 2 && !run.is_empty() {
                        self.paths.push((line, std::mem::take(&mut run)));
                    }
                    if run.is_empty() {
                        line = ident.span().start().line;
                    }
                    run.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !run.is_empty() => colons += 1,
                other => {
                    if !run.is_empty() {
                        self.paths.push((line, std::mem::take(&mut run)));
                    }
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        if !run.is_empty() {
            self.paths.push((line, run));
        }
    }
}

/// The name of an item in its module.
fn name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
