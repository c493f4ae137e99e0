//! How exchanges end otherwise: panics, clients that go, and drains.

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
fn a_destructor_that_panics_costs_nobody_else() {
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
fn a_client_that_is_gone_both_ways_cancels_the_future() {
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

#[test]
fn d10_a_future_without_an_answer_is_dropped_at_the_deadline_and_its_client_told() {
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
fn d10_what_is_read_before_the_deadline_is_not_begun_after_it() {
    let calls = Count::default();
    let counted = calls.clone();
    let mut bench = served(move |_| {
        counted.add();
        async { text("hello") }
    });
    bench.world.drain = Some(Drain::new(Reason::Stop, START, START + ms(1000)));
    bench.pipe.0.borrow_mut().incoming.extend(get("/").repeat(40).bytes());
    let session = bench.session.as_mut().expect("it is here");
    assert_eq!(drive(session, &mut bench.io, &bench.world.cx()), Outcome::Again);
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
fn d10_a_lame_duck_whose_order_to_drain_is_late_goes_on_with_futures() {
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
fn d6_the_last_of_pipelined_requests_announces_and_each_is_answered() {
    let mut bench = served(tester).drain(0, 60_000).bytes(100, get("/").repeat(40));
    let transcript = bench.run();
    assert_eq!((count(&transcript.out, "200 OK"), count(&transcript.out, CLOSE)), (40, 1));
    assert!(transcript.out.ends_with("Connection: close\r\n\r\nhello"));
}

#[test]
fn d14_the_drain_wakes_who_awaits_it_and_forgets_who_does_not() {
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
fn what_follows_an_upgrade_that_was_offered_and_not_made_is_an_error() {
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
fn a_future_that_takes_too_long_is_dropped_and_its_client_told_503() {
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
        let bench = if in_turns { bench.in_turns() } else { bench };
        let mut bench = bench
            .limits(|limits| limits.request_timeout = ms(1000))
            .bytes(0, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
            .bytes(400, "b");
        // Where a turn is waited for until the body is there, the time begins with the turn.
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
fn a_response_of_a_future_that_takes_too_long_is_cut() {
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
fn a_future_that_is_done_in_time_is_not_held_to_it_later() {
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
