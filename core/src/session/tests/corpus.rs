//! The corpus of requests with the machine alone: what reaches the application, what is refused and
//! how the connection ends, however the bytes are split.

use proptest::prelude::*;

use self::files::{Case, Expected, cases};
use super::*;
use crate::machine::CloseReason;
use crate::testing::{Event, Transcript, without_interim};

#[path = "../../../../tests/src/corpus.rs"]
#[allow(clippy::disallowed_methods, reason = "tests read files")]
mod files;

/// Reads the whole request, records it in the form of the corpus, and then answers.
pub(super) struct Reader {
    log: Log,
    short: bool,
}

impl Handler for Reader {
    fn call(&self, head: &Head<'_>, mut body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
        let mut log = self.log.lock().expect("not poisoned");
        let [method, target] = [head.method(), head.target()].map(|text| text.as_bytes().escape_ascii());
        log.push(format!("request {method} {target}"));
        for (name, value) in head.fields() {
            let field = format!("field {}: {}", name.as_bytes().escape_ascii(), value.escape_ascii());
            log.push(field.trim_end().to_owned());
        }
        let mut content = Vec::new();
        let read = body.read_to_end(&mut content);
        if !content.is_empty() {
            log.push(format!("body {}", content.escape_ascii()));
        }
        log.extend(read.is_err().then(|| "fault".to_owned()));
        drop(log);
        read?;
        Ok(out.send(ResponseHead::new(200), "")?)
    }

    fn is_short(&self, _: &Head<'_>) -> bool {
        self.short
    }
}

/// The outcome of `bytes`, with a pause at each of `cuts`, if the peer then ends its side.
pub(super) fn read(bytes: &[u8], cuts: impl IntoIterator<Item = usize>, short: bool) -> Transcript {
    let log = Log::default();
    let mut bench = Bench { log: log.clone(), ..Bench::new(Reader { log, short }) };
    let (mut from, mut at) = (0, 0);
    for cut in cuts.into_iter().chain([bytes.len()]) {
        bench = bench.bytes(at, &bytes[from..cut]);
        (from, at) = (cut, at + 1);
    }
    let mut transcript = bench.at(at, Event::Eof).run();
    transcript.out = without_interim(&transcript.out);
    transcript
}

impl Case {
    fn check(&self, transcript: &Transcript) {
        let Self { name, expected, events, .. } = self;
        assert_eq!(&transcript.log, events, "{name}");
        let answered = events.iter().filter(|event| event.starts_with("request ")).count()
            - usize::from(events.iter().any(|event| event == "fault"));
        let heads: Vec<_> =
            transcript.out.split("\r\n\r\n").filter(|head| head.starts_with("HTTP/1.1 ")).collect();
        assert_eq!(heads.len(), expected.len(), "{name}: {}", transcript.out);
        for (n, (head, Expected { status, keep, .. })) in heads.into_iter().zip(expected).enumerate() {
            let status = if n < answered { 200 } else { *status };
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {status}: {head}");
            assert_eq!(!head.contains(CLOSE.trim_end()), *keep, "{name}: {head}");
        }
        let end = match (expected.last().is_some_and(|last| last.keep), expected.len() == answered) {
            (true, _) => CloseReason::PeerClosed,
            (false, true) => CloseReason::Finished,
            (false, false) => CloseReason::Refused,
        };
        assert_eq!(transcript.reason, Some(end), "{name}");
    }
}

#[test]
fn each_corpus_case_is_read_as_expected_whole_and_byte_by_byte() {
    for case in cases() {
        for short in [false, true] {
            let whole = read(&case.request, [], short);
            case.check(&whole);
            // Long requests in the corpus are long because a letter repeats.
            let step = 1 + case.request.len() / 1000;
            let bytes = read(&case.request, (1..case.request.len()).step_by(step), short);
            assert_eq!(bytes, whole, "{}, byte by byte", case.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn each_corpus_case_is_read_as_expected_in_any_pieces(
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..8), short in any::<bool>(),
    ) {
        for case in cases() {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(case.request.len())).collect();
            cuts.sort_unstable();
            case.check(&read(&case.request, cuts, short));
        }
    }
}
