//! Figures of language and style, beside those of other projects. They are a guide and fail no
//! check: the aim is a sentence that is read once, not the absence of a word.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use syn::visit::{self, Visit};

use crate::source::{Comment, Source, is_test};
use crate::tidy::circles;
use crate::tree::Tree;

/// Words for persons, where the subject is usually a part of the program.
const PERSON_WORDS: [&str; 7] = ["who", "whoever", "whom", "nobody", "somebody", "anybody", "people"];

/// The column at which comments wrap.
const WIDTH: usize = 100;

/// A function with at least this number of lines after its first should give reasons in `//` lines.
const LONG: usize = 30;

/// The columns of the table.
const FOLDERS: [&str; 5] = ["core/src/", "arbiter/src/", "cli/src/", "workers/", "tests/"];

/// Kinds of prose, with the paths that their files begin with.
const PROSE: [(&str, &[&str]); 3] = [
    ("book", &["book/src/"]),
    ("README and the like", &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]),
    ("CHANGELOG", &["CHANGELOG.md"]),
];

/// The same figures of other projects, smallest to largest: async-io 2.6, axum 0.8, clap_builder
/// 4.6, hyper 1.12, mio 1.2, tokio 1.54 and tower 0.5. `cargo xtask guide` measured their sources
/// in cargo's registry.
const MODELS: [&str; 5] = ["0.0–0.1", "0.6–1.2", "4–16", "1–6", "0–27"];

/// Formats the figures of this repository.
pub(crate) fn report(tree: &Tree) -> String {
    let mut text = String::new();
    let columns: Vec<_> = FOLDERS.iter().map(|folder| Figures::of(tree, folder)).collect();
    write!(text, "{:46}", "a guide, no gate").expect("a string takes what is written");
    for folder in FOLDERS {
        write!(text, "{:>9}", folder.split('/').next().unwrap_or_default()).expect("as above");
    }
    writeln!(text, "   models").expect("as above");
    for (row, (label, _)) in Figures::default().rows().into_iter().enumerate() {
        write!(text, "{label:46}").expect("as above");
        for column in &columns {
            write!(text, "{:>9.1}", column.rows()[row].1).expect("as above");
        }
        writeln!(text, "   {}", MODELS[row]).expect("as above");
    }
    let mut prose: Vec<_> = PROSE.iter().map(|(label, files)| (*label, prose(tree, files))).collect();
    prose.push(("help texts", help(tree)));
    let prose: Vec<_> = prose.iter().map(|(label, words)| format!("{label} {:.1}", words.rate())).collect();
    writeln!(text, "person words in 1,000 words of text: {}", prose.join(", ")).expect("as above");
    let circles: Vec<_> =
        circles::largest(tree).iter().map(|(name, size)| format!("{name} {size}")).collect();
    writeln!(text, "files in the largest import circle, a module's parts included: {}", circles.join(", "))
        .expect("as above");
    text
}

/// Formats the figures of all sources in a tree.
pub(crate) fn measure(tree: &Tree) -> String {
    let lines =
        Figures::of(tree, "").rows().into_iter().map(|(label, value)| format!("  {label:46}{value:>9.1}\n"));
    lines.collect()
}

/// Whether the file is built for tests only.
pub(crate) fn is_test_file(path: &str) -> bool {
    path.split('/').any(|part| ["tests", "tests.rs", "testing.rs", "benches", "examples"].contains(&part))
}

#[derive(Default)]
struct Words {
    all: usize,
    persons: usize,
}

impl Words {
    fn add(&mut self, text: &str) {
        let words = text
            .split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '_')
            .filter(|word| !word.is_empty());
        let mut last = String::new();
        for word in words {
            let word = word.to_lowercase();
            self.all += 1;
            self.persons +=
                usize::from(PERSON_WORDS.contains(&word.as_str()) || last == "of" && word == "which");
            last = word;
        }
    }

    /// Person words in 1,000 words.
    fn rate(&self) -> f64 {
        share(self.persons, self.all) * 10.0
    }
}

/// The percentage that `part` is of `of`.
#[allow(clippy::cast_precision_loss, reason = "counts of lines and words")]
fn share(part: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { 100.0 * part as f64 / of as f64 }
}

/// Measurements of the code in a folder.
#[derive(Default)]
struct Figures {
    words: Words,
    comments: usize,
    wide: usize,
    functions: usize,
    called_once: usize,
    lines: usize,
    reasons: usize,
    long: usize,
    long_without_reason: usize,
}

impl Figures {
    fn of(tree: &Tree, folder: &str) -> Self {
        let mut figures = Self::default();
        let mut defined: BTreeMap<String, usize> = BTreeMap::new();
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        for (path, source) in tree.sources().filter(|(path, _)| path.starts_with(folder)) {
            figures.comments(&source.comments);
            // Test files would distort the figures of functions, except in the suite, which
            // consists of nothing else.
            if is_test_file(path) && folder != "tests/" {
                continue;
            }
            figures.lines += tree.text(path).unwrap_or_default().lines().count();
            figures.reasons += source.comments.iter().filter(|comment| !comment.doc).count();
            for Function { name, lines } in functions(source) {
                *defined.entry(name).or_default() += 1;
                if lines.1 - lines.0 >= LONG {
                    figures.long += 1;
                    let explains = |it: &Comment| !it.doc && (lines.0..=lines.1).contains(&it.line);
                    figures.long_without_reason += usize::from(!source.comments.iter().any(explains));
                }
            }
            for (ident, _) in &source.idents {
                *named.entry(ident).or_default() += 1;
            }
        }
        figures.functions = defined.values().sum();
        // The name occurs twice: in the definition and in one other place.
        let once =
            defined.iter().filter(|(name, count)| **count == 1 && named.get(name.as_str()) == Some(&2));
        figures.called_once = once.count();
        figures
    }

    fn comments(&mut self, comments: &[Comment]) {
        let mut text = String::new();
        for comment in comments {
            text += &comment.text;
            text.push('\n');
            self.wide += usize::from(comment.width > WIDTH);
        }
        self.comments += comments.len();
        self.words.add(&text);
    }

    fn rows(&self) -> [(&'static str, f64); 5] {
        [
            ("person words in 1,000 words of comment", self.words.rate()),
            ("lines of comment over 100 columns, in 100", share(self.wide, self.comments)),
            ("functions with one caller, in 100", share(self.called_once, self.functions)),
            ("lines of //, in 100 lines", share(self.reasons, self.lines)),
            ("functions over 30 lines without //, in 100", share(self.long_without_reason, self.long)),
        ]
    }
}

struct Function {
    name: String,
    /// Numbers of the first and the last line.
    lines: (usize, usize),
}

/// Lists functions with a body, except tests and default methods of traits.
fn functions(source: &Source) -> Vec<Function> {
    let mut found = Functions(Vec::new());
    found.visit_file(&source.syntax);
    found.0
}

struct Functions(Vec<Function>);

impl Functions {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let lines = (signature.fn_token.span.start().line, block.brace_token.span.close().end().line);
        self.0.push(Function { name: signature.ident.to_string(), lines });
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            self.add(&item.sig, &item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }
}

fn prose(tree: &Tree, files: &[&str]) -> Words {
    let mut words = Words::default();
    for path in
        tree.paths().filter(|path| files.iter().any(|file| path.starts_with(file)) && path.ends_with(".md"))
    {
        // Text and code blocks alternate.
        let text = tree.text(path).unwrap_or_default();
        text.split("\n```").step_by(2).for_each(|text| words.add(text));
    }
    words
}

/// Counts words in the help texts of settings and sub-commands.
fn help(tree: &Tree) -> Words {
    let mut found = Help(Words::default());
    let sources = tree.sources().filter(|(path, _)| path.starts_with("cli/src/") && !is_test_file(path));
    sources.for_each(|(_, source)| found.visit_file(&source.syntax));
    found.0
}

struct Help(Words);

impl Help {
    fn add(&mut self, text: &syn::Expr) {
        if let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = text {
            self.0.add(&text.value());
        }
    }
}

impl<'ast> Visit<'ast> for Help {
    fn visit_field_value(&mut self, field: &'ast syn::FieldValue) {
        if matches!(&field.member, syn::Member::Named(name) if name == "help" || name == "about") {
            self.add(&field.expr);
        }
        visit::visit_field_value(self, field);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if ["about", "after_help", "help", "long_about", "long_help"].iter().any(|name| call.method == name) {
            call.args.iter().for_each(|text| self.add(text));
        }
        visit::visit_expr_method_call(self, call);
    }
}

#[cfg(test)]
mod tests;
