//! Checks the book and the other pages: generated parts are up to date, links lead somewhere, and
//! the settings files and command lines shown are valid.
//!
//! `BLESS=1 cargo test -p remuda --test book` writes the generated parts. (The name is not of the
//! form `REMUDA_*`, because those variables are settings.)
// The pages describe the default build.
#![cfg(all(feature = "mio", feature = "smol", feature = "tokio", not(feature = "async-std")))]

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use remuda::settings::{Here, Setting, elsewhere, find, table};
use tempfile::TempDir;

/// Ends the written part of a page; the generated part follows.
const MARK: &str = "`just book` writes it. -->\n";

#[test]
fn the_settings_page_is_generated_from_the_table() {
    let path = root().join("book/src/settings.md");
    let page = read(&path);
    let (by_hand, _) = page.split_once(MARK).expect("the page says where its generated part begins");
    let wanted = format!("{by_hand}{MARK}{}", reference());
    if env::var_os("BLESS").is_some() {
        fs::write(&path, wanted).unwrap();
    } else {
        assert!(page == wanted, "{} is not up to date; write it with `just book`", path.display());
    }
}

#[test]
fn the_page_of_other_servers_is_generated_from_the_table() {
    let path = root().join("book/src/elsewhere.md");
    let page = read(&path);
    let (by_hand, _) = page.split_once(MARK).expect("the page says where its generated part begins");
    let mut wanted = format!("{by_hand}{MARK}");
    let mut server = "";
    for other in elsewhere() {
        if server != other.server {
            server = other.server;
            write!(wanted, "\n## {server}\n\n| {server} | remuda |\n|---|---|\n").unwrap();
        }
        let names: Vec<_> = other.names.iter().map(|name| format!("`{name}`")).collect();
        writeln!(wanted, "| {} | {} |", names.join(", "), linked(other.here)).unwrap();
    }
    if env::var_os("BLESS").is_some() {
        fs::write(&path, wanted).unwrap();
    } else {
        assert!(page == wanted, "{} is not up to date; write it with `just book`", path.display());
    }
}

/// The counterpart in remuda, with a link to its setting.
fn linked(here: Here) -> String {
    match here {
        Here::Named(name, _) if find(name).is_some() => {
            here.to_string().replacen(&format!("--{name}"), &format!("[`--{name}`](settings.md#{name})"), 1)
        }
        _ => here.to_string(),
    }
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = root().join("book/src/SUMMARY.md");
    let linked: BTreeSet<_> = links(&read(&summary)).collect();
    let there = pages().into_iter().filter(|page| page.parent() == summary.parent() && *page != summary);
    let there: BTreeSet<_> =
        there.map(|page| page.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(there, linked);
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        for link in links(&read(&page)).filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link} does not exist", page.display());
            assert!(
                anchor.is_empty() || anchors(&read(&target)).any(|there| there == anchor),
                "{}: {link} has no such heading",
                page.display()
            );
        }
    }
}

#[test]
fn every_settings_file_shown_is_valid() {
    let shown = fences("toml");
    assert!(!shown.is_empty());
    for (page, text) in shown {
        let place = TempDir::new().unwrap();
        fs::write(place.path().join("remuda.toml"), text).unwrap();
        checks_out(&page, "remuda", &place);
    }
}

#[test]
fn every_command_line_shown_is_valid() {
    let shown = fences("sh");
    let lines = shown.iter().flat_map(|(page, text)| text.lines().map(move |line| (page, line)));
    let mut ours = lines.filter(|(_, line)| line.starts_with("remuda ")).peekable();
    assert!(ours.peek().is_some());
    for (page, line) in ours {
        let place = TempDir::new().unwrap();
        fs::write(place.path().join("remuda.toml"), "").unwrap();
        checks_out(page, line, &place);
    }
}

/// Asserts that the program, called by the shell as `line`, accepts its settings.
#[track_caller]
fn checks_out(page: &Path, line: &str, place: &TempDir) {
    let program = Path::new(env!("CARGO_BIN_EXE_remuda"));
    let line = format!("{line} --check-config");
    let output = Command::new("/bin/sh")
        .args(["-c", &line])
        .current_dir(place)
        .env_clear()
        .env("PATH", program.parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}: {line}: {output:?}", page.display());
}

/// The generated part of the settings page.
fn reference() -> String {
    let mut text = String::new();
    let mut category = None;
    for setting in table() {
        if category.replace(setting.category) != Some(setting.category) {
            write!(text, "\n## {}\n", setting.category).unwrap();
        }
        text += &entry(setting);
    }
    text
}

fn entry(setting: &Setting) -> String {
    let Setting { name, kind, default, help, about, .. } = setting;
    let short = setting.short.map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let value = kind.placeholder();
    let value = if kind.is_switch() { format!("[={value}]") } else { format!(" {value}") };
    let platform = setting.platform.map(|platform| match platform.prefix {
        "" => format!("; overrides `{}`", platform.variable),
        prefix => format!("; overrides `{}`, whose value gets the prefix `{prefix}`", platform.variable),
    });
    let default = if default.is_empty() { "none".to_owned() } else { format!("`{default}`") };
    format!(
        "\n### {name}\n\n{help}. {about}\n\n\
         - Flag: {short}`--{name}{value}`\n\
         - Variable: `{}`{}\n\
         - Default: {default}\n\
         - Allowed: {kind}\n",
        setting.variable(),
        platform.unwrap_or_default(),
    )
}

/// Every page of the book and in the root folder.
fn pages() -> Vec<PathBuf> {
    let of = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = of(root()).chain(of(root().join("book/src")));
    all.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The blocks of code in `language` on every page.
fn fences(language: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for page in pages() {
        let text = read(&page);
        // Text and code alternate.
        for block in text.split("\n```").skip(1).step_by(2) {
            let (info, code) = block.split_once('\n').unwrap();
            if info.split(',').next() == Some(language) {
                found.push((page.clone(), code.to_owned()));
            }
        }
    }
    found
}

/// The targets of a page's links, outside of code.
fn links(page: &str) -> impl Iterator<Item = String> {
    let text: String = page.split("\n```").step_by(2).collect();
    let ends: Vec<_> = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).collect();
    ends.into_iter().map(|(link, _)| link.to_owned()).collect::<Vec<_>>().into_iter()
}

/// The anchors of a page's headings.
fn anchors(page: &str) -> impl Iterator<Item = String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    // As mdBook and code forges derive them: words and hyphens only.
    headings.map(|line| {
        let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
