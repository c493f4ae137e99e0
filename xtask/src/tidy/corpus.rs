//! Checks the corpus of requests: each `NAME.http` has a `NAME.expect` (tests/corpus/README.md).

use crate::tree::Tree;

const FOLDER: &str = "tests/corpus/";

pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    let mut cases = 0;
    for path in tree.paths().filter(|path| path.starts_with(FOLDER) && !path.ends_with(".md")) {
        let counterpart = match path.rsplit_once('.') {
            Some((name, "http")) => format!("{name}.expect"),
            Some((name, "expect")) => format!("{name}.http"),
            _ => {
                problems.push(format!("{path}: neither .http nor .expect"));
                continue;
            }
        };
        if tree.text(&counterpart).is_none() {
            problems.push(format!("{path}: {counterpart} is missing"));
        }
        let text = tree.text(path).unwrap_or_default();
        if path.ends_with(".expect") {
            cases += 1;
            problems.extend(outcome(text).err().map(|what| format!("{path}: {what}")));
        }
    }
    if cases == 0 {
        problems.push(format!("{FOLDER} has no case"));
    }
    problems
}

/// Checks that the outcome gives a reason, and a status or a request.
fn outcome(text: &str) -> Result<(), &'static str> {
    let (reasons, outcomes): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('#'));
    if reasons.iter().all(|line| line.trim_start_matches('#').trim().is_empty()) {
        return Err("no line `# why`");
    }
    let counts = |line: &&str| {
        let word = line.split(' ').next().unwrap_or_default();
        word.parse::<u16>().is_ok() || word == "request"
    };
    if outcomes.iter().any(counts) { Ok(()) } else { Err("neither a status nor a request") }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tree::made_up;

    #[test]
    fn a_pair_with_a_reason_and_a_status_passes() {
        let tree = made_up(&[
            ("tests/corpus/README.md", "How."),
            ("tests/corpus/valid/get.http", "GET / HTTP/1.1\r\n\r\n"),
            ("tests/corpus/valid/get.expect", "# RFC 9112 §2.1\n200 keep\n"),
        ]);
        assert!(check(&tree).is_empty());
    }

    #[test]
    fn each_half_without_the_other_is_named() {
        let tree = made_up(&[
            ("tests/corpus/invalid/a.http", "x"),
            ("tests/corpus/invalid/b.expect", "# why\n400 close\n"),
        ]);
        assert_eq!(
            check(&tree),
            [
                "tests/corpus/invalid/a.http: tests/corpus/invalid/a.expect is missing",
                "tests/corpus/invalid/b.expect: tests/corpus/invalid/b.http is missing",
            ]
        );
    }

    #[test]
    fn an_outcome_without_reason_or_status_and_other_files_are_named() {
        let of =
            |expect| made_up(&[("tests/corpus/valid/a.http", ""), ("tests/corpus/valid/a.expect", expect)]);
        assert_eq!(check(&of("200 keep\n")), ["tests/corpus/valid/a.expect: no line `# why`"]);
        assert_eq!(check(&of("# why\n")), ["tests/corpus/valid/a.expect: neither a status nor a request"]);
        let tree = made_up(&[("tests/corpus/valid/notes.txt", "")]);
        assert_eq!(check(&tree).len(), 2, "an unknown file, and no case at all");
    }
}
