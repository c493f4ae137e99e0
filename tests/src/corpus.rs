//! Requests as files, with what becomes of them: `corpus/README.md` has the format.

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
}

/// One response and the fate of its connection.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) status: u16,
    /// Whether the connection can be used again; otherwise close is announced and it ends.
    pub(crate) keep: bool,
    /// The body, where it matters.
    pub(crate) body: Option<String>,
}

/// All cases, sorted by name.
pub(crate) fn cases() -> Vec<Case> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
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
        let expected: Vec<Expected> = lines
            .map(|line| Expected::parse(line).unwrap_or_else(|| panic!("what {name} expects: {line:?}")))
            .collect();
        assert!(!expected.is_empty(), "{name} expects nothing");
        Self { name, request, expected }
    }
}

impl Expected {
    /// `STATUS keep|close [BODY]`
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ');
        let status = words.next()?.parse().ok()?;
        let keep = match words.next()? {
            "keep" => true,
            "close" => false,
            _ => return None,
        };
        Some(Self { status, keep, body: words.next().map(|body| body.replace("\\n", "\n")) })
    }
}
