//! Checks the rules of the contract. Each rule in the book's table needs a scenario named after it,
//! its number in a comment beside code, and a row in the table of ARCHITECTURE.md, whose names must
//! exist.

use std::collections::BTreeSet;

use syn::visit::{self, Visit};

use crate::tree::Tree;

/// The page with the rules, a row `| D1 | … |` each.
const PAGE: &str = "book/src/design.md";

/// The page with a row `| D1 … | where | scenarios |` for each rule.
const TABLE: &str = "ARCHITECTURE.md";

/// The file that defines `scenarios!`.
const SCENARIOS: &str = "tests/src/lib.rs";

/// Folders with code that keeps rules.
const CODE: [&str; 4] = ["core/src/", "arbiter/src/", "cli/src/", "workers/"];

pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let rules = rules(tree.text(PAGE).unwrap_or_default());
    if rules.is_empty() {
        return vec![format!("{PAGE} has no table of rules")];
    }
    let tests = test_names(tree);
    let beside = numbers_in_code(tree);
    let mut problems = Vec::new();
    for &rule in &rules {
        if !tests.iter().any(|name| number_of(name) == Some(rule)) {
            problems.push(format!("D{rule} has no scenario: no test is called d{rule}_…"));
        }
        if !beside.contains(&rule) {
            problems.push(format!("D{rule} stands in no comment beside code in {}", CODE.join(", ")));
        }
    }
    problems.extend(check_table(tree, &rules, &tests));
    for name in &tests {
        if let Some(number) = number_of(name).filter(|number| !rules.contains(number)) {
            problems.push(format!("{name} shows D{number}, which is no rule in {PAGE}"));
        }
    }
    problems
}

/// Checks that each rule has a row in [`TABLE`], and that the files, identifiers and scenarios in
/// the row exist. An identifier has to occur in one of the files of its row.
fn check_table(tree: &Tree, rules: &BTreeSet<u32>, tests: &BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut rows = BTreeSet::new();
    for line in tree.text(TABLE).unwrap_or_default().lines().filter(|line| line.starts_with("| D")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let number = cells[0].split(' ').next().and_then(|rule| rule.strip_prefix('D')?.parse().ok());
        let (Some(number), [_, places, scenarios]) = (number, &cells[..]) else {
            problems.push(format!("{TABLE}: not a row of three cells: {line}"));
            continue;
        };
        rows.insert(number);
        let (files, names): (Vec<_>, Vec<_>) = quoted(places).partition(|name| name.ends_with(".rs"));
        for file in files.iter().filter(|file| tree.source(file).is_none()) {
            problems.push(format!("{TABLE}: D{number} is decided in {file}, which is not there"));
        }
        for name in names {
            // Sources list identifiers, not paths, so only the last segment can be looked up.
            let last = name.rsplit("::").next().unwrap_or(name);
            let sources = files.iter().filter_map(|file| tree.source(file));
            if !sources.flat_map(|source| &source.idents).any(|(ident, _)| ident == last) {
                problems
                    .push(format!("{TABLE}: D{number} is decided by {name}, which is in none of {files:?}"));
            }
        }
        for name in quoted(scenarios).filter(|name| !tests.contains(*name)) {
            problems.push(format!("{TABLE}: D{number} is shown by {name}, which is no test"));
        }
        if files.is_empty() || quoted(scenarios).next().is_none() {
            problems.push(format!("{TABLE}: D{number} has a row without a file or without a scenario"));
        }
    }
    let missing =
        rules.difference(&rows).map(|rule| format!("{TABLE} does not say where D{rule} is decided"));
    problems.extend(missing);
    problems
}

/// The texts in backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Reads the numbers in the first column.
fn rules(page: &str) -> BTreeSet<u32> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| D")?.split_once(' '));
    cells.filter_map(|(number, _)| number.parse().ok()).collect()
}

/// The number in the name of a test: 6 for `d6_…`.
fn number_of(test: &str) -> Option<u32> {
    test.strip_prefix('d')?.split_once('_')?.0.parse().ok()
}

/// The names in `scenarios!`, and all functions with `#[test]`.
fn test_names(tree: &Tree) -> BTreeSet<String> {
    let mut found = Tests::default();
    for (path, source) in tree.sources() {
        found.visit_file(&source.syntax);
        if path == SCENARIOS {
            found.0.extend(source.idents.iter().map(|(ident, _)| ident.clone()));
        }
    }
    found.0.into_iter().filter(|name| number_of(name).is_some()).collect()
}

#[derive(Default)]
struct Tests(BTreeSet<String>);

impl<'ast> Visit<'ast> for Tests {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if item.attrs.iter().any(|attribute| attribute.path().is_ident("test")) {
            self.0.insert(item.sig.ident.to_string());
        }
        visit::visit_item_fn(self, item);
    }
}

/// The numbers of rules in comments, except in tests.
fn numbers_in_code(tree: &Tree) -> BTreeSet<u32> {
    let code = tree.sources().filter(|(path, _)| {
        CODE.iter().any(|folder| path.starts_with(folder)) && !crate::guide::is_test_file(path)
    });
    let comments = code.flat_map(|(_, source)| &source.comments);
    let words = comments.flat_map(|comment| comment.text.split(|c: char| !c.is_alphanumeric()));
    words.filter_map(|word| word.strip_prefix('D')?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tree::made_up;

    const PAGE: (&str, &str) =
        ("book/src/design.md", "| rule | what |\n|---|---|\n| D1 | Beats. |\n| D2 | Stops. |\n");
    const TABLE: (&str, &str) = (
        "ARCHITECTURE.md",
        "| D1 heartbeat | `f` (`core/src/worker.rs`) | `d1_beats` |\n| D2 | `core/src/worker.rs` | `d2_stops` |\n",
    );
    const LIST: &str = "macro_rules! scenarios { () => { m! { drain: d1_beats, d2_stops; } } }";
    const CODE: &str = "// D1: the loop beats.\n/// Stops accepting (D2).\nfn f() {}";

    #[test]
    fn a_rule_with_scenario_and_comment_passes() {
        let tree = made_up(&[PAGE, TABLE, ("tests/src/lib.rs", LIST), ("core/src/worker.rs", CODE)]);
        assert_eq!(check(&tree), [""; 0]);
    }

    #[test]
    fn a_rule_without_scenario_is_named() {
        let list = LIST.replace("d2_stops", "stops");
        let tree = made_up(&[PAGE, TABLE, ("tests/src/lib.rs", &list), ("core/src/worker.rs", CODE)]);
        let problems = check(&tree);
        assert_eq!(problems[0], "D2 has no scenario: no test is called d2_…");
        assert!(problems[1].contains("D2 is shown by d2_stops, which is no test"), "{problems:?}");
        // A test elsewhere is one as well.
        let test = ("core/src/worker/tests.rs", "#[test] fn d2_stops() {}");
        let tree = made_up(&[PAGE, TABLE, ("tests/src/lib.rs", &list), ("core/src/worker.rs", CODE), test]);
        assert_eq!(check(&tree), [""; 0]);
    }

    #[test]
    fn a_rule_without_a_comment_beside_code_is_named() {
        let code = "// D1: the loop beats.\nfn f() -> &'static str { \"D2\" }";
        // Comments of tests do not count.
        let test = ("core/src/worker/tests.rs", "// D2");
        let tree = made_up(&[PAGE, TABLE, ("tests/src/lib.rs", LIST), ("core/src/worker.rs", code), test]);
        let problems = check(&tree);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("D2 stands in no comment"), "{problems:?}");
    }

    #[test]
    fn a_row_that_is_missing_or_names_what_is_not_there_is_named() {
        let of = |table: &str| {
            let files =
                [PAGE, ("ARCHITECTURE.md", table), ("tests/src/lib.rs", LIST), ("core/src/worker.rs", CODE)];
            check(&made_up(&files))
        };
        let first = "| D1 | `f` (`core/src/worker.rs`) | `d1_beats` |\n";
        assert_eq!(of(first), ["ARCHITECTURE.md does not say where D2 is decided"]);
        for (row, problem) in [
            ("| D2 | `g` (`core/src/worker.rs`) | `d2_stops` |", "D2 is decided by g"),
            ("| D2 | `core/src/gone.rs` | `d2_stops` |", "D2 is decided in core/src/gone.rs"),
            ("| D2 | `core/src/worker.rs` | `d2_gone` |", "D2 is shown by d2_gone"),
            ("| D2 | `core/src/worker.rs` | by all |", "D2 has a row without"),
            ("| D2 | `core/src/worker.rs` |", "not a row of three cells"),
        ] {
            let table = format!("{first}{row}\n");
            let problems = of(&table);
            assert!(problems.iter().any(|found| found.contains(problem)), "{row}: {problems:?}");
        }
    }

    #[test]
    fn a_scenario_of_no_rule_and_a_page_without_rules_are_problems() {
        let list = LIST.replace("d2_stops", "d2_stops, d7_lingers");
        let tree = made_up(&[PAGE, TABLE, ("tests/src/lib.rs", &list), ("core/src/worker.rs", CODE)]);
        assert_eq!(check(&tree), ["d7_lingers shows D7, which is no rule in book/src/design.md"]);
        assert_eq!(check(&made_up(&[("tests/src/lib.rs", LIST)])).len(), 1);
    }
}
