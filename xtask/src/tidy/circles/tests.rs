use super::*;
use crate::tree::made_up;

const ROOT: &str = "core/src/lib.rs";

fn circles(files: &[(&str, &str)]) -> Vec<String> {
    check(&made_up(files), &[])
}

/// `core` with files `a` and `b` as given.
fn two(root: &str, a: &str, b: &str) -> Vec<String> {
    circles(&[(ROOT, root), ("core/src/a.rs", a), ("core/src/b.rs", b)])
}

#[test]
fn two_files_that_import_one_another_are_a_circle() {
    let found =
        two("mod a; mod b;", "use crate::b::B;\npub struct A(B);", "use super::a::A;\npub struct B(Box<A>);");
    assert_eq!(
        found,
        ["2 files import one another in a circle:\n       \
          core/src/a.rs → core/src/b.rs (line 1: crate::b::B)\n       \
          core/src/b.rs → core/src/a.rs (line 1: super::a::A)"]
    );
}

#[test]
fn imports_one_way_are_none() {
    assert_eq!(two("mod a; mod b;", "use crate::b::B;\npub struct A(B);", "pub struct B;"), [""; 0]);
}

#[test]
fn grouped_imports_inline_paths_and_macro_arguments_count() {
    let b = "use super::a::{A, Other as _};\npub struct B(Box<A>);";
    for a in [
        "use crate::{b::{self, B}, c};\npub struct A;",
        "pub struct A;\nfn f() { crate::b::B; }",
        "pub struct A;\nfn f() -> Option<super::b::B> { None }",
        "pub struct A;\nfn f() { assert!(g(crate::b::B)); }",
        "use crate::b;\npub struct A;\nfn f() { b::B; }",
        "pub struct A;\nfn f() { use crate::b::B; }",
        "use crate::b::*;\npub struct A;",
    ] {
        assert_eq!(two("mod a; mod b;", a, b).len(), 1, "{a}");
    }
}

#[test]
fn a_re_export_leads_to_the_file_that_defines() {
    // Through the root, which re-exports both.
    let root = "mod a; mod b; pub use self::a::A; pub use self::b::*;";
    assert_eq!(two(root, "use crate::B;\npub struct A(B);", "use crate::A;\npub struct B(Box<A>);").len(), 1);
    assert_eq!(two(root, "use crate::B;\npub struct A(B);", "pub struct B;"), [""; 0]);
    // To re-export is no import.
    let facade = "pub(crate) use crate::b::B;\npub struct A;";
    let b = "use crate::a::A;\npub struct B(A);";
    assert_eq!(two("mod a; mod b;", facade, b), [""; 0]);
    assert_eq!(two("mod a; mod b;", &format!("{facade}\nfn f(_: B) {{}}"), b).len(), 1);
}

#[test]
fn a_module_and_its_own_parts_may_know_one_another() {
    let parts = [
        (ROOT, "mod a;"),
        ("core/src/a.rs", "mod x; mod y; use self::x::X; pub struct A(X, self::y::Y);"),
        ("core/src/a/x.rs", "use super::A; pub struct X(Box<A>);"),
        ("core/src/a/y.rs", "use super::A; pub struct Y(Box<A>);"),
    ];
    assert_eq!(circles(&parts), [""; 0]);
    // The parts among themselves may not.
    let mut tied = parts;
    tied[2].1 = "use super::y::Y; pub struct X(Box<Y>);";
    tied[3].1 = "use super::x::X; pub struct Y(Box<X>);";
    assert_eq!(circles(&tied).len(), 1);
}

#[test]
fn a_circle_of_two_modules_through_a_part_of_one_is_found() {
    let found = circles(&[
        (ROOT, "mod a; mod b;"),
        ("core/src/a.rs", "mod x; use self::x::X; pub struct A(X);"),
        ("core/src/a/x.rs", "use crate::b::B; pub struct X(B);"),
        ("core/src/b.rs", "use crate::a::A; pub struct B(Box<A>);"),
    ]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("3 files"), "{}", found[0]);
}

#[test]
fn items_that_a_macro_makes_are_in_the_file_that_calls_it() {
    let a = "make! { A }\nfn f(_: crate::b::B) {}";
    assert_eq!(two("mod a; mod b;", a, "use crate::a::A;\npub struct B(A);").len(), 1);
    assert_eq!(two("mod a; mod b;", "make! { A }", "use crate::a::A;\npub struct B(A);"), [""; 0]);
}

#[test]
fn a_module_that_is_there_twice_is_searched_twice() {
    let a = "#[cfg(unix)]\npub mod imp { pub struct C; }\n#[cfg(not(unix))]\npub mod imp { pub struct A; }\n\
             fn f(_: crate::b::B) {}";
    assert_eq!(two("mod a; mod b;", a, "use crate::a::imp::A;\npub struct B(A);").len(), 1);
}

#[test]
fn tests_may_import_what_they_like() {
    let b = "use crate::a::A;\npub struct B(A);";
    for a in [
        "pub struct A;\n#[cfg(test)]\nuse crate::b::B;",
        "pub struct A;\n#[cfg(test)]\nmod tests { use crate::b::B; }",
        "pub struct A;\nimpl A { #[cfg(test)] fn f(_: crate::b::B) {} }",
    ] {
        assert_eq!(two("mod a; mod b;", a, b), [""; 0], "{a}");
    }
}

#[test]
fn an_allowed_import_opens_its_circle_and_needs_a_reason() {
    let tree = made_up(&[
        (ROOT, "mod a; mod b;"),
        ("core/src/a.rs", "use crate::b::B;\npub struct A(B);"),
        ("core/src/b.rs", "use crate::a::A;\npub struct B(Box<A>);"),
    ]);
    let tie = |why| Tie { from: "core/src/b.rs", to: "core/src/a.rs", why };
    assert_eq!(check(&tree, &[tie("a B holds its A")]), [""; 0]);
    assert_eq!(check(&tree, &[tie("")]), ["core/src/b.rs → core/src/a.rs is allowed without a reason"]);
}

#[test]
fn an_allowed_import_that_no_circle_needs_is_named() {
    let tree = made_up(&[
        (ROOT, "mod a; mod b;"),
        ("core/src/a.rs", "use crate::b::B;\npub struct A(B);"),
        ("core/src/b.rs", "pub struct B;"),
    ]);
    let found = check(&tree, &[Tie { from: "core/src/a.rs", to: "core/src/b.rs", why: "once it was" }]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("no circle needs core/src/a.rs → core/src/b.rs"));
}
