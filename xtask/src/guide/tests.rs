use super::*;
use crate::tree::made_up;

#[test]
fn person_words_are_counted_in_comments_and_nowhere_else() {
    let code = "/// Whoever asks, of which nobody knows.\nfn who() -> &'static str { \"somebody\" }";
    let figures = Figures::of(&made_up(&[("core/src/a.rs", code)]), "core/src/");
    assert_eq!((figures.words.all, figures.words.persons), (6, 3));
    // A line's end is no end of a sentence.
    let code = "// The workers of\n// which one is left.\nfn f() {}";
    assert_eq!(Figures::of(&made_up(&[("core/src/a.rs", code)]), "core/src/").words.persons, 1);
}

#[test]
fn wide_comments_are_counted_with_their_indent() {
    let at_limit = format!("    // {}", "x".repeat(93));
    let over = format!("    // {}", "x".repeat(94));
    let code = format!("fn f() {{\n{at_limit}\n{over}\n}}\n");
    let figures = Figures::of(&made_up(&[("core/src/a.rs", &code)]), "core/src/");
    assert_eq!((figures.comments, figures.wide), (2, 1));
}

#[test]
fn functions_with_one_caller_are_counted() {
    let code = "pub fn a() { b(); c(); c(); }\nfn b() {}\nfn c() {}\n#[test]\nfn d() {}";
    let figures = Figures::of(&made_up(&[("core/src/a.rs", code)]), "core/src/");
    assert_eq!((figures.functions, figures.called_once), (3, 1));
}

#[test]
fn a_long_function_is_silent_without_a_line_of_reasons() {
    let body = "    g();\n".repeat(30);
    let silent = format!("/// Doc.\nfn f() {{\n{body}}}\n");
    let told = format!("fn f() {{\n{body}    // Why.\n}}\n");
    let short = "fn f() {\n    g();\n}\n".to_owned();
    for (code, expected) in [(silent, (1, 1)), (told, (1, 0)), (short, (0, 0))] {
        let figures = Figures::of(&made_up(&[("core/src/a.rs", &code)]), "core/src/");
        assert_eq!((figures.long, figures.long_without_reason), expected, "{code}");
    }
}

#[test]
fn prose_is_counted_without_its_code_and_help_without_the_rest() {
    let page = "Nobody waits.\n\n```sh\nwho\n```\n\nPeople read.\n";
    let settings =
        "fn f() -> S { S { help: \"For whom\", name: \"who\" } }\nfn g(c: C) { c.about(\"Nobody\"); }";
    let tree = made_up(&[("book/src/a.md", page), ("cli/src/settings/a.rs", settings)]);
    let words = prose(&tree, &["book/src/"]);
    assert_eq!((words.all, words.persons), (4, 2));
    let words = help(&tree);
    assert_eq!((words.all, words.persons), (3, 2));
}
