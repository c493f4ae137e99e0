//! Checks the generated pages of the book. A test writes each of them if the variable `BLESS` is
//! set, and fails otherwise if the page is stale. `just book` writes all of them.

use std::io;
use std::path::Path;
use std::process::{Command, Output};

use crate::tree::Tree;

/// A page, and the test that generates it.
struct Generated {
    page: &'static str,
    package: &'static str,
    binary: &'static str,
    test: &'static str,
}

const PAGES: &[Generated] = &[
    Generated {
        page: "book/src/settings.md",
        package: "remuda",
        binary: "book",
        test: "the_settings_page_is_generated_from_the_table",
    },
    Generated {
        page: "book/src/elsewhere.md",
        package: "remuda",
        binary: "book",
        test: "the_page_of_other_servers_is_generated_from_the_table",
    },
    Generated {
        page: "book/src/contract.md",
        package: "remuda-conformance",
        binary: "probe",
        test: "the_probe_sees_no_difference",
    },
];

/// A comment on each generated page contains this.
const MARK: &str = "`just book` writes it";

/// Checks that every page with the mark is in the list, and every page in the list has the mark.
pub(crate) fn check_known(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for path in tree.paths().filter(|path| path.starts_with("book/") && path.ends_with(".md")) {
        let marked = tree.text(path).is_some_and(|text| text.contains(MARK));
        let listed = PAGES.iter().any(|generated| generated.page == path);
        if marked && !listed {
            problems.push(format!("{path} says that {MARK}, and no test in PAGES compares it"));
        } else if listed && !marked {
            problems.push(format!("{path} is generated and does not say that {MARK}"));
        }
    }
    let missing = PAGES.iter().filter(|generated| tree.text(generated.page).is_none());
    problems.extend(missing.map(|generated| format!("{} is missing", generated.page)));
    problems
}

/// Runs the tests. They start servers.
pub(crate) fn check_fresh(root: &Path) -> Vec<String> {
    let cargo = |arguments: &[&str]| {
        // This check must not write, even if the caller has set the variable.
        Command::new("cargo").args(arguments).env_remove("BLESS").current_dir(root).output()
    };
    PAGES.iter().filter_map(|generated| generated.problem(cargo)).collect()
}

impl Generated {
    /// Runs the test of this page, and returns the problem if there is one. A test that did not run
    /// is a problem as well.
    fn problem(&self, cargo: impl FnOnce(&[&str]) -> io::Result<Output>) -> Option<String> {
        let Self { page, package, binary, test } = self;
        let arguments =
            ["test", "--quiet", "--locked", "-p", package, "--test", binary, "--", "--exact", test];
        let output = match cargo(&arguments) {
            Ok(output) => output,
            Err(error) => return Some(format!("{page}: cargo: {error}")),
        };
        let printed = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let printed = format!("{printed}{}", String::from_utf8_lossy(&output.stderr));
            return Some(format!("{page} is stale, or its test fails: write it with `just book`\n{printed}"));
        }
        (!printed.contains("1 passed")).then(|| format!("{page}: there is no test {test} in {package}"))
    }
}

#[cfg(test)]
mod tests;
