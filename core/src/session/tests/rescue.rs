//! D20: a worker that ends between any two stores to the entry of a connection. Whatever its keeper
//! then does is right: a connection that moves has nothing of a request read and nothing of a
//! response unsent, and an answer follows whole responses.

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::app::App;
use crate::pump::Io;
use crate::rescue::tests::OBSERVER;
use crate::rescue::{ByteCounts, Entry, EntryMemory, Standing};
use crate::session::Session;
use crate::testing::{Event, START, ms};

/// What a keeper would do, and what was read and written at that moment.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Decision {
    standing: Standing,
    /// The numbers of the kernel were known.
    counted: bool,
    read: u64,
    written: u64,
}

/// The decisions at every moment of a connection on which `requests` arrive in `pieces`, after
/// another worker has had it and left the kernel's counts at `before`.
fn decisions(
    mut bench: Bench,
    requests: &str,
    pieces: &[usize],
    before: ByteCounts,
) -> (Vec<Decision>, String) {
    let memory: &'static EntryMemory = Box::leak(Box::default());
    bench.io = Io::new(bench.pipe.clone()).published(Entry::new(memory));
    let Some(Session::Http1(session)) = bench.session.as_mut() else { panic!("it was closed") };
    session.connection_mut().publish(Entry::new(memory), Some(before));
    let made = Rc::new(RefCell::new(Vec::new()));
    OBSERVER.set(Some(Box::new({
        let (pipe, made) = (bench.pipe.clone(), made.clone());
        move |memory| {
            let ends = pipe.0.borrow();
            let (read, written) = (ends.taken, ends.outgoing.len() as u64);
            let now = ByteCounts { read: before.read + read, written: before.written + written };
            for counts in [Some(now), None] {
                let found = memory.found();
                let standing = found.resolve(counts);
                assert!(found.needs_counts() || standing == found.resolve(None), "{found:?}");
                let decision =
                    standing.map(|standing| Decision { standing, counted: counts.is_some(), read, written });
                made.borrow_mut().extend(decision);
            }
        }
    })));
    let mut rest = requests.as_bytes();
    let mut lengths = pieces.iter().cycle();
    let mut at = 0;
    while !rest.is_empty() {
        let (piece, left) = rest.split_at((*lengths.next().expect("it has pieces")).min(rest.len()));
        rest = left;
        at += 1;
        bench.schedule(START + ms(at), Event::Bytes(piece.to_vec()));
    }
    bench.until(at + 10);
    OBSERVER.set(None);
    let out = bench.out();
    (made.take(), out)
}

/// Where each message of `out` begins, and its end, with the number of final responses before.
fn boundaries(out: &str) -> Vec<(u64, u32)> {
    let mut finals = 0;
    let mut found: Vec<_> = out
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| {
            let before = (at as u64, finals);
            finals += u32::from(!out[at..].starts_with("HTTP/1.1 1"));
            before
        })
        .collect();
    found.push((out.len() as u64, finals));
    found
}

/// Asserts that every decision is right.
fn assert_right(made: &[Decision], requests: &[String], out: &str) {
    let boundaries = boundaries(out);
    let ends: Vec<u64> = requests
        .iter()
        .scan(0, |end, request| {
            *end += request.len() as u64;
            Some(*end)
        })
        .collect();
    let read_for = |n: u32| n.checked_sub(1).map_or(0, |n| ends[n as usize]);
    for decision in made {
        let whole = boundaries.iter().find(|(at, _)| *at == decision.written).map(|(_, finals)| *finals);
        match decision.standing {
            Standing::Fresh => assert_eq!((decision.read, decision.written), (0, 0), "{decision:?}"),
            Standing::Idle { served, .. } => {
                assert_eq!(whole, Some(served), "a response is not sent completely: {decision:?}");
                assert_eq!(decision.read, read_for(served), "part of a request was read: {decision:?}");
            }
            Standing::Unanswered => {
                let served =
                    whole.unwrap_or_else(|| panic!("it would follow part of a response: {decision:?}"));
                // Without the kernel's numbers, a connection about to be read counts as read.
                assert!(
                    !decision.counted || decision.read > read_for(served),
                    "there is no request: {decision:?}"
                );
            }
            Standing::Head => {
                let served = whole.expect("half a head follows whole responses");
                assert!(decision.read > read_for(served), "{decision:?}");
            }
            Standing::Begun | Standing::Closing => {}
        }
    }
}

fn request() -> impl Strategy<Value = String> {
    let body =
        |n: usize| format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\n\r\n{}", "b".repeat(n));
    prop_oneof![
        Just("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        (1..3000_usize).prop_map(|n| format!("GET /sized?{n} HTTP/1.1\r\nHost: x\r\n\r\n")),
        (1..4_usize).prop_map(|n| format!("GET /hints?{n} HTTP/1.1\r\nHost: x\r\n\r\n")),
        (1..200_usize).prop_map(body),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_time: 60_000, ..ProptestConfig::with_cases(256) })]
    #[test]
    fn d20_at_every_store_the_keeper_would_do_what_is_right(
        requests in prop::collection::vec(request(), 1..6),
        pieces in prop::collection::vec(1..400_usize, 1..4),
        (read_most, write_most) in (1..300_usize, 1..300_usize),
        (short, by_request) in (any::<bool>(), any::<bool>()),
        (read, written) in (0..1000_u64, 0..1000_u64),
    ) {
        // Bytes arrive at random, or the first request alone and all others together.
        let pieces = if by_request { vec![requests[0].len(), usize::MAX] } else { pieces };
        let read_most = if by_request { usize::MAX } else { read_most };
        let bench = Bench::of(App::blocking(Tester { short, ..Tester::default() }));
        {
            let mut ends = bench.pipe.0.borrow_mut();
            (ends.read_most, ends.write_most) = (read_most, write_most);
        }
        let (made, out) = decisions(bench, &requests.concat(), &pieces, ByteCounts { read, written });
        assert_right(&made, &requests, &out);
        let has = |wanted: fn(&Standing) -> bool| made.iter().any(|decision| wanted(&decision.standing));
        prop_assert!(has(|standing| matches!(standing, Standing::Idle { served: 1.., .. })), "it rests at its end");
        prop_assert!(has(|standing| matches!(standing, Standing::Unanswered)), "it has a request in flight");
        let served = boundaries(&out).last().map(|(_, finals)| *finals);
        prop_assert_eq!(served, Some(requests.len() as u32));
    }

    #[test]
    fn d20_nothing_is_cut_after_a_whole_response_or_before_the_first(
        requests in prop::collection::vec(request(), 1..6),
        pieces in prop::collection::vec(1..400_usize, 1..4),
        (short, by_request) in (any::<bool>(), any::<bool>()),
        (read, written) in (0..1000_u64, 0..1000_u64),
    ) {
        let pieces = if by_request { vec![usize::MAX] } else { pieces };
        let bench = Bench::of(App::blocking(Tester { short, ..Tester::default() }));
        {
            // Each write takes all that is queued, so none ends between two responses.
            let mut ends = bench.pipe.0.borrow_mut();
            (ends.read_most, ends.write_most) = (usize::MAX, usize::MAX);
        }
        let (made, out) = decisions(bench, &requests.concat(), &pieces, ByteCounts { read, written });
        assert_right(&made, &requests, &out);
        let boundaries = boundaries(&out);
        for decision in made.iter().filter(|decision| decision.counted) {
            let is_whole = boundaries.iter().any(|(at, _)| *at == decision.written);
            prop_assert!(!is_whole || decision.standing != Standing::Begun, "{:?}", decision);
        }
    }
}
