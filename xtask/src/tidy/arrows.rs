//! Checks that dependencies between our packages point downward: `cli → arbiter, workers/* → core`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// For each package, the packages that it may depend on, and those that its tests may use besides.
/// A name that ends in `*` matches every name that begins with the rest.
const ARROWS: &[(&str, &[&str], &[&str])] = &[
    ("remuda-core", &[], &[]),
    ("remuda-arbiter", &["remuda-core"], &[]),
    ("remuda", &["remuda-core", "remuda-arbiter", WORKERS], &["remuda-conformance"]),
    // Tests and benchmarks may use every package.
    ("remuda-conformance", &["remuda*"], &["remuda*"]),
    ("remuda-benches", &["remuda*"], &["remuda*"]),
    // The model of the hand-off imports nothing of the code; `per-request` is an example of a
    // third-party backend.
    ("remuda-model", &[], &[]),
    ("per-request", &["remuda", "remuda-core", "remuda-conformance"], &["remuda-conformance"]),
    ("xtask", &[], &[]),
    // Backends do not depend on one another.
    (WORKERS, &["remuda-core"], &[]),
];

/// Packages whose folder is in `workers/`.
const WORKERS: &str = "workers/*";

/// Runs `cargo metadata`.
///
/// # Panics
///
/// If `cargo metadata` fails.
pub(crate) fn metadata(root: &Path) -> Value {
    let arguments = ["metadata", "--format-version", "1", "--no-deps", "--locked"];
    let output = Command::new("cargo").args(arguments).current_dir(root).output().expect("cargo is there");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

pub(crate) fn check(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_ours = |name: &str| packages.iter().any(|package| package["name"] == name);
    let is_worker = |name: &str| {
        let of_name = packages.iter().find(|package| package["name"] == name);
        let manifest = of_name.and_then(|package| package["manifest_path"].as_str());
        manifest.is_some_and(|path| path.contains("/workers/"))
    };
    let matches = |pattern: &str, name: &str| match pattern {
        WORKERS => is_worker(name),
        _ => pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start)),
    };
    let mut problems = Vec::new();
    if packages.is_empty() {
        problems.push("cargo metadata names no package".to_owned());
    }
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, normal, tests)) = ARROWS.iter().find(|(pattern, ..)| matches(pattern, name)) else {
            problems.push(format!("{name} has no line in ARROWS (xtask/src/tidy/arrows.rs)"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            // Tests may depend on packages above: cargo permits circles of dev-dependencies.
            let allowed =
                if dependency["kind"] == "dev" { [*normal, *tests].concat() } else { normal.to_vec() };
            if is_ours(on) && !allowed.iter().any(|pattern| matches(pattern, on)) {
                problems.push(format!("{name} depends on {on}: allowed are {allowed:?}"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::check;

    fn package(name: &str, folder: &str, dependencies: &[(&str, Value)]) -> Value {
        let dependencies: Vec<_> =
            dependencies.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
        json!({ "name": name, "manifest_path": format!("/r/{folder}/Cargo.toml"), "dependencies": dependencies })
    }

    #[test]
    fn an_arrow_upward_or_between_backends_is_named() {
        let metadata = json!({ "packages": [
            package("remuda-core", "core", &[("remuda-arbiter", Value::Null)]),
            package("remuda-arbiter", "arbiter", &[("remuda-core", Value::Null)]),
            package("remuda-mio", "workers/mio", &[("remuda-core", Value::Null), ("remuda-sync", Value::Null)]),
            package("remuda-sync", "workers/sync", &[("tokio", Value::Null)]),
        ] });
        let problems = check(&metadata);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("remuda-core depends on remuda-arbiter"));
        assert!(problems[1].starts_with("remuda-mio depends on remuda-sync"));
    }

    #[test]
    fn what_only_tests_may_depend_on_is_told_apart() {
        let on_suite = |kind| {
            json!({ "packages": [
                package("remuda", "cli", &[("remuda-conformance", kind)]),
                package("remuda-conformance", "tests", &[("remuda", Value::Null)]),
            ] })
        };
        assert!(check(&on_suite(json!("dev"))).is_empty());
        assert_eq!(check(&on_suite(Value::Null)).len(), 1);
    }

    #[test]
    fn a_package_without_a_line_and_an_empty_workspace_are_problems() {
        assert_eq!(check(&json!({ "packages": [package("stranger", "stranger", &[])] })).len(), 1);
        assert_eq!(check(&json!({ "packages": [] })).len(), 1);
    }
}
