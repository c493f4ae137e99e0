//! The probe over all backends that are built in, and the book's copy of its table. A separate
//! binary, because it compares times: no other test runs beside it.
//!
//! `BLESS=1 cargo test -p remuda-conformance --test probe` writes the table into the book.

use std::io::{self, Write};
use std::path::Path;
use std::{env, fs};

use remuda_conformance::probe::{Report, backends};

/// The marks before and after the table.
const MARKS: [&str; 2] = [
    "<!-- What follows is the table as the probe printed it: `just book` writes it. -->\n\n",
    "\n<!-- End of the table. -->\n",
];

#[test]
fn the_probe_sees_no_difference() {
    let report = Report::of(&backends(), Path::new(env!("CARGO_BIN_EXE_fixture")));
    // Printed by hand for the log of a run: the test harness hides the output of a passing test.
    let skipped = report.skipped().unwrap_or_default();
    writeln!(io::stdout().lock(), "{report}{skipped}").expect("standard output takes a table");
    assert_eq!(report.differences(), [""; 0]);

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../book/src/contract.md");
    let page = fs::read_to_string(&path).expect("the book has a page for it");
    let (before, rest) = page.split_once(MARKS[0]).expect("the page says where the table begins");
    let (table, after) = rest.split_once(MARKS[1]).expect("the page says where the table ends");
    if env::var_os("BLESS").is_some() {
        let [begin, end] = MARKS;
        fs::write(&path, format!("{before}{begin}{report}{end}{after}")).expect("the page can be written");
    } else {
        assert_eq!(report.differences_from(table), [""; 0], "write the page anew with `just book`");
    }
}
