//! Request bodies, read by the application or by the machine.

use super::*;

#[test]
fn a_request_is_what_the_client_sent() {
    let script =
        "PUT /a%20b?c=d HTTP/1.0\r\nhost: x\r\nX-Two: 1\r\nConnection: keep-alive\r\nx-two: 2\r\n\r\n";
    let bench = &mut served(|request: Request<Incoming>| async move {
        assert_eq!(request.method(), Method::PUT);
        assert_eq!(
            (request.uri().to_string().as_str(), request.version()),
            ("/a%20b?c=d", http::Version::HTTP_10)
        );
        assert_eq!(request.headers().get_all("x-two").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert!(!request.body().info().drain.is_set());
        assert_eq!(request.body().info().connection.requests, 1);
        assert!(request.body().is_end_stream());
        text("fine")
    })
    .bytes(0, script)
    .at(1, Event::Eof);
    assert!(bench.run().out.ends_with("fine"));
}

#[test]
fn a_body_is_read_one_frame_for_each_poll() {
    let gate = Gate::default();
    let ask = gate.clone();
    let bench = &mut served(move |request: Request<Incoming>| {
        let gate = ask.clone();
        async move {
            gate.opened().await;
            let body = request.into_body();
            assert_eq!(body.size_hint().exact(), Some(300_000));
            let mut body = body;
            let first =
                body.frame().await.expect("there is one").expect("it is whole").into_data().expect("data");
            assert_eq!(body.size_hint().exact(), Some(300_000 - first.len() as u64));
            pending::<()>().await;
            text("")
        }
    })
    .bytes(0, post("/", &"b".repeat(300_000)))
    .at(10_000, Event::Open(gate));
    bench.until(9_000);
    let left = bench.pipe.0.borrow().incoming.len();
    assert!(left >= 300_000 - 64 * 1024, "{left} bytes left");
    bench.until(11_000);
    let then = bench.pipe.0.borrow().incoming.len();
    assert!(then <= left && then >= left - 64 * 1024, "{left}, then {then} bytes left");
    assert!(!bench.connection().interest().read, "one frame was asked for");
}

#[test]
fn a_large_body_is_echoed_with_little_buffered() {
    let body = "0123456789".repeat(100_000);
    let mut bench =
        served(|request: Request<Incoming>| async move { Response::new(Body::new(request.into_body())) })
            .bytes(0, post("/", &body))
            .at(1, Event::Eof);
    let transcript = bench.run();
    assert!(transcript.out.contains("Content-Length: 1000000\r\n"), "its size is known");
    assert!(transcript.out.ends_with(&body));
    assert!(bench.peak_unsent < HIGH_WATER + 16 * 1024 + 200, "{}", bench.peak_unsent);
    assert_eq!(bench.world.alert.all.load(Ordering::Relaxed), 0, "the machine does not wake itself");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "an application may have threads of its own")]
fn a_body_may_be_read_on_another_thread() {
    for _ in 0..50 {
        let body = "x".repeat(100_000);
        let mut bench = served(|request: Request<Incoming>| {
            let (gate, mut body) = (Gate::default(), request.into_body());
            let (done, count) = (gate.clone(), Count::default());
            let counted = count.clone();
            thread::spawn(move || {
                block_on(async move {
                    while let Some(frame) = body.frame().await {
                        counted.0.fetch_add(
                            frame.expect("it is whole").into_data().expect("data").len(),
                            Ordering::SeqCst,
                        );
                    }
                });
                done.open();
            });
            async move {
                gate.opened().await;
                text(format!("{} bytes", count.get()))
            }
        });
        bench.pipe.0.borrow_mut().incoming.extend(post("/", &body).bytes());
        while bench.out().is_empty() {
            bench.world.alert.take();
            let session = bench.session.as_mut().expect("it is here");
            let Next::Wait { interest, .. } = drive(session, &mut bench.io, &bench.world.cx()) else {
                continue;
            };
            match bench.pipe.readiness(interest) {
                readiness if readiness.readable => bench.io.ready(readiness),
                _ if bench.out().is_empty() => bench.world.alert.wait(),
                _ => {}
            }
        }
        assert!(bench.out().ends_with("100000 bytes"), "{}", bench.out());
    }
}

#[test]
fn a_dropped_body_is_discarded_or_ends_the_connection() {
    for (size, answers, close) in [(30_000, 2, 0), (300_000, 1, 1)] {
        let gate = Gate::default();
        let wait = gate.clone();
        let mut bench = served(move |request: Request<Incoming>| {
            let gate = wait.clone();
            async move {
                drop(request);
                gate.opened().await;
                text("enough")
            }
        })
        .bytes(0, post("/", &"b".repeat(size)) + &get("/"))
        .at(100, Event::Open(gate))
        .at(200, Event::Eof);
        bench.until(99);
        assert!(!bench.connection().interest().read, "{size}: it reads later");
        let out = bench.run().out;
        assert_eq!((count(&out, "200 OK"), count(&out, CLOSE)), (answers, close), "{size}");
    }
}

#[test]
fn a_truncated_body_is_an_error_and_never_a_short_one() {
    for script in ["Content-Length: 9\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let bench = &mut served(|request: Request<Incoming>| async move {
            let mut body = request.into_body();
            let first = body.frame().await.expect("a frame").expect("is whole").into_data().expect("data");
            let error = body.frame().await.expect("an error").expect_err("it is truncated");
            assert_eq!((&first[..], error), (&b"half"[..], BodyError::Truncated));
            assert!(!body.is_end_stream());
            text("truncated")
        })
        .bytes(0, format!("POST / HTTP/1.1\r\nHost: a\r\n{script}"))
        .at(1, Event::Eof);
        let transcript = bench.run();
        assert!(transcript.out.contains(CLOSE) && transcript.out.ends_with("truncated"), "{transcript:?}");
    }
}

#[test]
fn a_faulty_body_is_refused_despite_the_applications_response() {
    for (chunks, status) in [("4\r\nfourX", "400"), ("b\r\nhello world\r\n0\r\n\r\n", "413")] {
        let mut bench = served(tester).limits(|limits| limits.body = 10).bytes(0, chunked(chunks));
        let transcript = bench.run();
        assert!(transcript.out.starts_with(&format!("HTTP/1.1 {status} ")), "{transcript:?}");
        assert_eq!((count(&transcript.out, "HTTP/1.1"), transcript.reason), (1, Some(CloseReason::Refused)));
    }
}

#[test]
fn a_body_has_its_time_while_it_is_awaited_and_no_longer() {
    let mut bench = served(tester).bytes(0, post("/echo", "1234567890").trim_end_matches("0")).bytes(100, "");
    let transcript = bench.run();
    assert!(transcript.out.starts_with("HTTP/1.1 408 "), "{transcript:?}");
    assert_eq!((transcript.reason, bench.now()), (Some(CloseReason::TimedOut(Timer::Body)), 32_000));

    let gate = Gate::default();
    let mut bench = served(once_open(&gate, "slow")).bytes(0, LATER).at(100_000, Event::Open(gate));
    assert!(bench.run().out.ends_with("slow"), "the body was not read");
}

#[test]
fn rfc9110_10_1_1_a_100_is_sent_at_the_first_poll() {
    let gate = Gate::default();
    let ask = gate.clone();
    let mut bench = served(move |request: Request<Incoming>| {
        let gate = ask.clone();
        async move {
            gate.opened().await;
            text(request.into_body().collect().await.expect("it comes").to_bytes())
        }
    })
    .bytes(0, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    .at(1000, Event::Open(gate))
    .bytes(2000, "body");
    bench.until(999);
    assert_eq!(bench.out(), "");
    bench.until(1000);
    assert_eq!(bench.out(), "HTTP/1.1 100 Continue\r\n\r\n");
    let out = bench.run().out;
    assert!(out.ends_with("body") && !out.contains(CLOSE), "{out}");
}
