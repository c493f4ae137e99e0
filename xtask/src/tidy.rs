//! Checks of the repository as a whole. A check is a function of a [`Tree`] that returns a list of
//! problems.

mod arrows;
pub(crate) mod circles;
mod code_map;
mod corpus;
mod examples;
mod generated;
mod rules;
mod unsafe_code;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use crate::guide;
use crate::tree::Tree;

/// Prints the guide, runs the checks, and prints their problems. `pages`: also check that generated
/// pages are fresh.
pub(crate) fn run(root: &Path, pages: bool) -> ExitCode {
    let start = Instant::now();
    let tree = Tree::read(root);
    print!("{}", guide::report(&tree));
    let metadata = arrows::metadata(root);
    let mut checks = vec![
        ("every file parses", tree.broken()),
        ("unsafe is in the two sys places", unsafe_code::check(&tree)),
        ("crates depend downward", arrows::check(&metadata)),
        ("files import one another without circles", circles::check(&tree, circles::ALLOWED)),
        ("corpus files come in pairs", corpus::check(&tree)),
        ("every rule has its scenario and its place", rules::check(&tree)),
        ("the code map is complete", code_map::check(&tree)),
        ("ARCHITECTURE.md names what exists", code_map::check_names(&tree)),
        ("public traits and the root have examples", examples::check(&tree)),
        ("generated pages are known", generated::check_known(&tree)),
    ];
    if pages {
        checks.push(("generated pages are fresh", generated::check_fresh(root)));
    }
    for (name, problems) in &checks {
        println!("{} {name}", if problems.is_empty() { "ok  " } else { "FAIL" });
        for problem in problems {
            eprintln!("     {problem}");
        }
    }
    println!("tidy: {:.1} s", start.elapsed().as_secs_f32());
    if checks.iter().all(|(_, problems)| problems.is_empty()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
