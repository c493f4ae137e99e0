use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use super::*;
use crate::tree::made_up;

const PAGE: Generated =
    Generated { page: "book/src/made-up.md", package: "p", binary: "b", test: "the_page_is_made" };

/// The problem if the test prints this and exits with `status`.
fn problem(stdout: &str, status: i32) -> Option<String> {
    PAGE.problem(|arguments| {
        assert!(arguments.ends_with(&["-p", "p", "--test", "b", "--", "--exact", "the_page_is_made"]));
        Ok(Output { status: ExitStatus::from_raw(status << 8), stdout: stdout.into(), stderr: Vec::new() })
    })
}

#[test]
fn a_page_whose_test_fails_is_stale() {
    let problem = problem("assertion failed", 101).unwrap();
    assert!(problem.starts_with("book/src/made-up.md is stale"), "{problem}");
    assert!(problem.contains("assertion failed"), "{problem}");
}

#[test]
fn a_test_that_does_not_exist_proves_nothing() {
    let problem = problem("test result: ok. 0 passed; 0 failed", 0).unwrap();
    assert!(problem.contains("there is no test the_page_is_made"), "{problem}");
    assert!(PAGE.problem(|_| Err(io::ErrorKind::NotFound.into())).is_some());
}

#[test]
fn a_page_whose_test_passes_is_fresh() {
    assert_eq!(problem("test result: ok. 1 passed; 0 failed", 0), None);
}

#[test]
fn a_marked_page_that_no_test_compares_is_named() {
    let marked = "<!-- What follows is made: `just book` writes it. -->";
    let mut files: Vec<_> = PAGES.iter().map(|generated| (generated.page, marked)).collect();
    assert!(check_known(&made_up(&files)).is_empty());
    files.push(("book/src/other.md", marked));
    assert_eq!(check_known(&made_up(&files)).len(), 1);
    files[0].1 = "By hand.";
    assert_eq!(check_known(&made_up(&files)).len(), 2);
    assert_eq!(check_known(&made_up(&[])).len(), PAGES.len());
}
