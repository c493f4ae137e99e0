//! The corpus: requests as files, with their outcomes. `corpus/README.md` has the format.
//!
//! The unit tests of the machine include this file too.

use std::fs;
use std::path::{Path, PathBuf};

/// One file of bytes and its outcome.
#[derive(Debug)]
pub(crate) struct Case {
    /// Folder and name.
    pub(crate) name: String,
    /// What the client sends.
    pub(crate) request: Vec<u8>,
    /// The responses, in order.
    pub(crate) expected: Vec<Expected>,
    /// What an application that reads all bodies sees, a line for each part.
    #[allow(dead_code, reason = "the built-in application does not report it")]
    pub(crate) events: Vec<String>,
}

/// One response and the fate of its connection.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) status: u16,
    /// Whether the connection can be reused. Otherwise close is announced and it ends.
    pub(crate) keep: bool,
    /// Whether the connection may end with a cut response, because the response had begun when the
    /// fault arrived.
    #[allow(dead_code, reason = "no response is cut if the body is read before it")]
    pub(crate) cut: bool,
    /// The body, if it matters.
    #[allow(dead_code, reason = "it is that of the built-in application")]
    pub(crate) body: Option<String>,
}

/// All cases, sorted by name.
pub(crate) fn cases() -> Vec<Case> {
    // Cargo's variable is right even after this package was moved. It names the package under test,
    // which may be one from elsewhere: its folder has no corpus beside it.
    let moved =
        std::env::var_os("CARGO_MANIFEST_DIR").map(|package| Path::new(&package).join("../tests/corpus"));
    let corpus = moved
        .filter(|corpus| corpus.is_dir())
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus"));
    let mut requests: Vec<PathBuf> = ["valid", "invalid"]
        .iter()
        .flat_map(|folder| fs::read_dir(corpus.join(folder)).expect("the corpus has two folders"))
        .map(|entry| entry.expect("a folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "http"))
        .collect();
    requests.sort();
    assert!(!requests.is_empty(), "the corpus is empty");
    requests.iter().map(|path| Case::read(&corpus, path)).collect()
}

impl Case {
    fn read(corpus: &Path, path: &Path) -> Self {
        let name = path.strip_prefix(corpus).expect("it is in the corpus").display().to_string();
        let request = fs::read(path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = fs::read_to_string(path.with_extension("expect"));
        let text = text.unwrap_or_else(|error| panic!("what {name} expects: {error}"));
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let (responses, events): (Vec<_>, Vec<_>) =
            lines.partition(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        let expected: Vec<Expected> = responses
            .iter()
            .map(|line| Expected::parse(line).unwrap_or_else(|| panic!("what {name} expects: {line:?}")))
            .collect();
        assert!(!expected.is_empty(), "{name} expects nothing");
        Self { name, request, expected, events: events.into_iter().map(str::to_owned).collect() }
    }
}

impl Expected {
    /// `STATUS keep|close|cut [BODY]`
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ');
        let status = words.next()?.parse().ok()?;
        let (keep, cut) = match words.next()? {
            "keep" => (true, false),
            "close" => (false, false),
            "cut" => (false, true),
            _ => return None,
        };
        let body = words.next().map(|body| body.replace("\\r", "\r").replace("\\n", "\n"));
        Some(Self { status, keep, cut, body })
    }
}
