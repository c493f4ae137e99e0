use super::*;

fn comments(text: &str) -> Vec<(usize, usize, String, bool)> {
    let source = Source::parse(text).unwrap();
    source.comments.into_iter().map(|it| (it.line, it.width, it.text, it.doc)).collect()
}

#[test]
fn comments_are_found_with_line_and_width() {
    let text = "//! Head.\n\n/// Doc.\nfn f() {\n    // Why.\n    g(); // Behind.\n}\n";
    let expected = [
        (1, 9, "Head.".to_owned(), true),
        (3, 8, "Doc.".to_owned(), true),
        (5, 11, "Why.".to_owned(), false),
        (6, 19, "Behind.".to_owned(), false),
    ];
    assert_eq!(comments(text), expected);
}

#[test]
fn slashes_within_strings_are_no_comments() {
    assert_eq!(comments("const URL: &str = \"https://example.com\"; const C: char = '/';"), []);
    assert_eq!(comments("const RAW: &str = r#\"// \"none\" \"#;"), []);
}

#[test]
fn block_comments_nest_and_count_line_by_line() {
    let found = comments("fn f() {}\n/* one\n/* two */ three */ fn g() {}\n");
    let lines: Vec<_> = found.into_iter().map(|(line, _, text, _)| (line, text)).collect();
    assert_eq!(lines, [(2, "one".to_owned()), (3, "two */ three".to_owned())]);
}

#[test]
fn identifiers_within_macro_calls_are_seen() {
    let source = Source::parse("fn f() { m! { unsafe { g() } } }").unwrap();
    assert!(source.idents.contains(&("unsafe".to_owned(), 1)));
}

#[test]
fn doc_comments_are_told_from_attributes() {
    assert_eq!(comments("#[doc = \"Written as an attribute.\"]\nfn f() {}"), []);
}
