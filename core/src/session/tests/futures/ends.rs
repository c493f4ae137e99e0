//! Other ends of exchanges: panics, clients that disconnect, and drains.

use std::sync::Mutex;

use super::*;

/// A body whose size hint panics.
struct Hint;

impl http_body::Body for Hint {
    type Data = Bytes;
    type Error = AppError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Framed> {
        Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        panic!("on purpose")
    }
}

#[test]
fn a_panic_anywhere_costs_its_connection_and_is_counted() {
    type Make = fn(Request<Incoming>) -> LocalFuture<Response<Body>>;
    let makes: [Make; 3] = [
        |_| panic!("before there is a future"),
        |_| Box::pin(async { panic!("in the future") }),
        |_| Box::pin(async { Response::new(Body::new(Hint)) }),
    ];
    for make in makes {
        let mut bench = Bench::of(App::call(Answer(make))).bytes(0, post("/", "body") + &get("/"));
        let transcript = bench.run();
        assert!(
            transcript.out.starts_with("HTTP/1.1 500 ") && transcript.out.contains(CLOSE),
            "{transcript:?}"
        );
        assert_eq!((count(&transcript.out, "HTTP/1.1"), bench.service.counters.panics.get()), (1, 1));
    }
    let mut bench = served(|_| async {
        let mut frames = VecDeque::from([data("part")]);
        made(move |_| frames.pop_front().expect("on purpose"))
    })
    .bytes(0, get("/"));
    let transcript = bench.run();
    assert!(transcript.out.ends_with("4\r\npart\r\n"), "{transcript:?}");
    assert_eq!(
        (transcript.reason, bench.service.counters.panics.get()),
        (Some(CloseReason::ApplicationFailed), 1)
    );
}

#[test]
fn a_panicking_destructor_harms_no_other_connection() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose")
        }
    }
    let mut bench = served(|_| async {
        let _bomb = Bomb;
        pending().await
    })
    .bytes(0, get("/"))
    .drain(100, 1000);
    assert_eq!(bench.run().reason, Some(CloseReason::DeadlineCut));
}

#[test]
fn a_client_gone_in_both_directions_cancels_the_future() {
    let dropped = Count::default();
    let counted = dropped.clone();
    let mut bench = served(move |_| {
        let alive = Dropped(counted.clone());
        async move {
            let _alive = alive;
            pending().await
        }
    })
    .bytes(0, get("/"))
    .at(1000, Event::Gone);
    bench.until(999);
    assert_eq!((bench.reason, dropped.get()), (None, 0));
    assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::TransportFailed), 1000));
    bench.session = None;
    assert_eq!(dropped.get(), 1);
}

#[test]
fn a_client_that_has_ended_its_side_still_gets_its_answer() {
    let gate = Gate::default();
    let mut bench = served(once_open(&gate, "late"))
        .bytes(0, get("/"))
        .at(10, Event::HalfClose)
        .at(5000, Event::Open(gate));
    let transcript = bench.run();
    assert!(transcript.out.ends_with("late"), "{transcript:?}");
    assert_eq!((transcript.reason, bench.now()), (Some(CloseReason::PeerClosed), 5000));
}

/// An application that waits for `gate` or for the end of its client's side, and answers which
/// came.
fn told(gate: &Gate) -> Bench {
    let gate = gate.clone();
    served(move |request: Request<Incoming>| {
        let (gate, end) = (gate.clone(), request.body().info().client_end.clone());
        async move {
            let (mut opened, mut ended) = (pin!(gate.opened()), pin!(end.ended()));
            poll_fn(|cx| match (ended.as_mut().poll(cx), opened.as_mut().poll(cx)) {
                (Poll::Pending, Poll::Pending) => Poll::Pending,
                _ => Poll::Ready(text(format!("ended: {}", end.is_set()))),
            })
            .await
        }
    })
}

#[test]
fn d14_a_future_sees_the_half_close_and_answers() {
    let mut bench = told(&Gate::default()).bytes(0, get("/")).at(700, Event::HalfClose);
    bench.until(699);
    assert_eq!(bench.out(), "");
    let transcript = bench.run();
    assert!(transcript.out.ends_with("ended: true"), "{transcript:?}");
    assert_eq!((transcript.reason, bench.now()), (Some(CloseReason::PeerClosed), 700));
    // A client that stays is not reported as gone.
    let gate = Gate::default();
    let mut bench = told(&gate).bytes(0, get("/")).at(900, Event::Open(gate));
    bench.until(1000);
    assert!(bench.out().ends_with("ended: false"), "{}", bench.out());
}

#[test]
fn d14_a_half_close_with_the_request_is_seen_too() {
    for pipelined in [false, true] {
        let bench = told(&Gate::default());
        let requests = if pipelined { get("/").repeat(3) } else { get("/") };
        let mut bench = bench.bytes(0, requests).at(0, Event::HalfClose);
        let transcript = bench.run();
        let answers = if pipelined { 3 } else { 1 };
        assert_eq!(count(&transcript.out, "ended: true"), answers, "{transcript:?}");
        assert_eq!((transcript.reason, bench.now()), (Some(CloseReason::PeerClosed), 0));
    }
}

#[test]
fn d14_a_half_close_after_unread_bytes_is_seen() {
    let mut bench = told(&Gate::default()).bytes(0, post("/", "")).at(500, Event::HalfClose);
    bench.pipe.0.borrow_mut().incoming.extend(get("/").bytes());
    bench.until(499);
    bench.pipe.0.borrow_mut().incoming.extend([b'x'; 100_000]);
    bench.until(500);
    assert!(bench.out().contains("ended: true"), "{}", bench.out());
}

#[test]
fn a_signal_that_outlives_its_connection_is_set() {
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let mut bench = served(move |request: Request<Incoming>| {
        *keep.lock().expect("not poisoned") = Some(request.body().info().client_end.clone());
        async { text("done") }
    })
    .bytes(0, get("/"));
    bench.until(10);
    let end = kept.lock().expect("not poisoned").take().expect("it was called");
    assert!(!end.is_set());
    bench.session = None;
    assert!(end.is_set());
}

#[test]
fn cancel_on_half_close_drops_a_running_future_only() {
    for at in [0, 100] {
        let dropped = Count::default();
        let counted = dropped.clone();
        let mut bench = served(move |request: Request<Incoming>| {
            let alive = Dropped(counted.clone());
            async move {
                let _alive = alive;
                if request.uri().path() == "/fast" { text("fast") } else { pending().await }
            }
        })
        .limits(|limits| limits.cancel_on_half_close = true)
        .bytes(0, get("/fast") + &get("/"))
        .at(at, Event::HalfClose);
        let transcript = bench.run();
        assert!(transcript.out.ends_with("fast"), "a request answered at once is answered: {transcript:?}");
        assert_eq!((transcript.reason, bench.now()), (Some(CloseReason::PeerAborted), at));
        assert_eq!(dropped.get(), 2);
    }
}

#[test]
fn d10_an_unanswered_future_is_dropped_with_503_at_the_deadline() {
    for pipelined in [false, true] {
        let dropped = Count::default();
        let counted = dropped.clone();
        let mut bench = served(move |request: Request<Incoming>| {
            let alive = Dropped(counted.clone());
            async move {
                let _alive = alive;
                if request.uri().path() == "/fast" { text("fast") } else { pending().await }
            }
        })
        .bytes(0, if pipelined { get("/fast") + &get("/") } else { get("/") })
        .drain(1000, 5000);
        bench.until(4999);
        let before = usize::from(pipelined);
        assert_eq!(dropped.get(), before);
        bench.until(5000);
        assert_eq!(dropped.get(), before + 1, "at once");
        assert_eq!(count(&bench.out(), "HTTP/1.1 503 "), 1, "{}", bench.out());
        assert!(bench.out().contains(CLOSE) && bench.pipe.0.borrow().half_closed);
        assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::DeadlineCut), 5400));
    }
}

#[test]
fn d10_no_request_begins_after_the_deadline() {
    let calls = Count::default();
    let counted = calls.clone();
    let mut bench = served(move |_| {
        counted.add();
        async { text("hello") }
    });
    bench.world.drain = Some(Drain::new(Reason::Stop, START, START + ms(1000)));
    bench.pipe.0.borrow_mut().incoming.extend(get("/").repeat(40).bytes());
    let session = bench.session.as_mut().expect("it is here");
    assert_eq!(drive(session, &mut bench.io, &bench.world.cx()), Next::Again);
    let answered = calls.get();
    bench.world.now = START + ms(1000);
    let transcript = bench.run();
    assert_eq!((count(&transcript.out, "200 OK"), calls.get()), (answered, answered));
    assert_eq!(count(&transcript.out, "HTTP/1.1 503 "), 1, "{transcript:?}");
    assert_eq!(transcript.reason, Some(CloseReason::DeadlineCut));
}

#[test]
fn d10_a_503_that_does_not_leave_is_not_waited_for() {
    let mut bench = served(|_| pending()).bytes(0, get("/")).drain(1000, 5000);
    bench.pipe.0.borrow_mut().room = 10;
    assert_eq!((bench.run().reason, bench.now()), (Some(CloseReason::DeadlineCut), 5400));
}

#[test]
fn d10_a_lame_duck_with_a_late_drain_order_runs_its_futures() {
    let gate = Gate::default();
    let late = Drain::new(Reason::Stop, START, START + ms(2000)).lameduck();
    let bench = served(once_open(&gate, "late")).at(0, Event::Drain(late)).bytes(1000, get("/"));
    let transcript = bench.at(3000, Event::Open(gate)).at(4000, Event::Eof).run();
    assert_eq!(count(&transcript.out, "200 OK"), 1, "{transcript:?}");
    assert_eq!(transcript.reason, Some(CloseReason::PeerClosed));
}

#[test]
fn d10_a_response_that_has_begun_is_cut() {
    let dropped = Count::default();
    let counted = dropped.clone();
    let mut bench = served(move |_| {
        let alive = Dropped(counted.clone());
        async move {
            let mut first = Some("part");
            made(move |_| {
                let _ = &alive;
                first.take().map_or(Poll::Pending, data)
            })
        }
    })
    .bytes(0, get("/"))
    .drain(1000, 5000);
    assert_eq!((bench.run().reason, bench.now(), dropped.get()), (Some(CloseReason::DeadlineCut), 5000, 1));
    assert!(bench.out().ends_with("part\r\n"));
}

#[test]
fn d5_close_is_announced_as_things_are_when_the_future_is_done() {
    let gate = Gate::default();
    let mut bench =
        served(once_open(&gate, "hello")).bytes(0, get("/")).drain(1000, 60_000).at(2000, Event::Open(gate));
    let transcript = bench.run();
    assert!(transcript.out.ends_with("Connection: close\r\n\r\nhello"), "{transcript:?}");
    assert_eq!(transcript.reason, Some(CloseReason::Drained));
}

#[test]
fn d6_the_last_of_pipelined_requests_announces_close() {
    let mut bench = served(tester).drain(0, 60_000).bytes(100, get("/").repeat(40));
    let transcript = bench.run();
    assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (40, 1));
    assert!(transcript.out.ends_with("Connection: close\r\n\r\nhello"));
}

#[test]
fn d14_the_drain_wakes_its_waiters_and_forgets_dropped_ones() {
    let mut bench = served(|request: Request<Incoming>| async move {
        let drain = request.body().info().drain.clone();
        drain.drained().await;
        text("drained")
    })
    .bytes(0, get("/"))
    .drain(3000, 60_000);
    bench.until(2999);
    assert_eq!((bench.world.shown.waiting(), bench.out().as_str()), (1, ""));
    bench.until(3000);
    assert!(bench.out().ends_with("drained"));
    assert_eq!(bench.world.shown.waiting(), 0);

    let mut gone = served(|request: Request<Incoming>| async move {
        let drain = request.body().info().drain.clone();
        drain.drained().await;
        text("")
    })
    .bytes(0, get("/"))
    .at(10, Event::Gone);
    gone.run();
    gone.session = None;
    assert_eq!(gone.world.shown.waiting(), 0);
}

#[test]
fn bytes_after_an_upgrade_that_was_not_made_are_an_error() {
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let mut bench = served(move |mut request: Request<Incoming>| {
        *keep.lock().unwrap() = request.body_mut().upgrade();
        let twice = request.body_mut().upgrade().is_some();
        async move { text(if twice { "twice" } else { "no, thanks" }) }
    })
    .bytes(0, upgrade());
    bench.until(10);
    assert!(bench.out().ends_with("no, thanks"), "{}", bench.out());
    let mut rest = kept.lock().unwrap().take().expect("it was offered");
    let frame = Pin::new(&mut rest).poll_frame(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(frame, Poll::Ready(Some(Err(_)))));
}

#[test]
fn a_future_over_its_timeout_is_dropped_with_503() {
    for in_turns in [false, true] {
        let dropped = Count::default();
        let count = dropped.clone();
        let bench = served(move |_| {
            let guard = Dropped(count.clone());
            async move {
                let _guard = guard;
                pending().await
            }
        });
        let bench = if in_turns { bench.placed() } else { bench };
        let mut bench = bench
            .limits(|limits| limits.request_timeout = ms(1000))
            .bytes(0, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
            .bytes(400, "b");
        // If a handler starts only once its body has arrived, its time begins then.
        let due = if in_turns { 1400 } else { 1000 };
        assert_eq!((bench.until(due - 1).out().as_str(), dropped.get()), ("", 0));
        let out = bench.until(due).out();
        assert!(out.starts_with("HTTP/1.1 503 ") && out.contains(CLOSE), "{out}");
        assert_eq!(dropped.get(), 1);
        assert_eq!(bench.run().reason, Some(CloseReason::TimedOut(Timer::Request)));
        let tally = bench.service.counters.tally();
        assert_eq!((tally.timed_out, tally.finished, tally.statuses[4]), (1, 0, 1));
    }
}

#[test]
fn a_response_of_a_future_over_its_timeout_is_cut() {
    let mut bench = served(|_| async {
        let mut parts = VecDeque::from([Bytes::from_static(b"part")]);
        made(move |_| parts.pop_front().map_or(Poll::Pending, data))
    })
    .limits(|limits| limits.request_timeout = ms(1000))
    .bytes(0, get("/"));
    let transcript = bench.run();
    assert!(transcript.out.ends_with("4\r\npart\r\n"), "no final chunk: {transcript:?}");
    assert_eq!(transcript.reason, Some(CloseReason::TimedOut(Timer::Request)));
    assert_eq!(bench.now(), 3000, "its second, and the linger");
    assert_eq!(bench.service.counters.timed_out.get(), 1);
}

#[test]
fn a_timeout_ends_with_its_future() {
    let gate = Gate::default();
    let mut bench = served(once_open(&gate, "in time"))
        .limits(|limits| limits.request_timeout = ms(1000))
        .bytes(0, get("/"))
        .at(999, Event::Open(gate));
    let transcript = bench.run();
    assert!(transcript.out.ends_with("in time"), "{transcript:?}");
    assert_eq!(transcript.reason, Some(CloseReason::IdleTimeout));
}

#[test]
fn a_response_that_fails_with_its_request_is_not_the_applications_fault() {
    for (ends, reason) in [(true, CloseReason::PeerAborted), (false, CloseReason::TimedOut(Timer::Body))] {
        let bench =
            served(|request: Request<Incoming>| async move { Response::new(Body::new(request.into_body())) });
        let bench = bench.bytes(0, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
        let mut bench = if ends { bench.at(1, Event::Eof) } else { bench };
        let transcript = bench.run();
        assert_eq!(transcript.reason, Some(reason));
        assert!(transcript.out.ends_with("\r\n\r\nhalf"), "{transcript:?}");
    }
}
