//! Response bodies.

use super::*;

#[test]
fn a_body_is_made_only_as_fast_as_it_is_sent() {
    let frames = Count::default();
    let counted = frames.clone();
    let mut bench = served(move |_| {
        let frames = counted.clone();
        async move {
            made(move |_| {
                frames.add();
                data(vec![b'x'; 1000])
            })
        }
    })
    .bytes(0, get("/"))
    .at(1000, Event::Room(100_000));
    bench.pipe.0.borrow_mut().room = 0;
    bench.until(999);
    let first = frames.get();
    assert!((65..=67).contains(&first), "{first} frames for {HIGH_WATER} bytes");
    bench.until(20_000);
    assert!((first + 98..=first + 100).contains(&frames.get()), "{}", frames.get());
    assert_eq!(bench.run().reason, Some(CloseReason::TimedOut(Timer::Write)));
}

#[test]
fn a_known_size_is_announced_and_an_unknown_one_chunked() {
    let answer = |request: Request<Incoming>| async move {
        let mut frames = VecDeque::from([data("ab"), data("cd")]);
        let size = (request.uri().path() == "/known").then_some(4);
        Response::new(Body::new(Made(
            move |_: &mut Context<'_>| frames.pop_front().unwrap_or(Poll::Ready(None)),
            size,
        )))
    };
    let known = served(answer).bytes(0, get("/known")).at(1, Event::Eof).run().out;
    assert!(known.ends_with("Content-Length: 4\r\n\r\nabcd"), "{known}");
    let unknown = served(answer).bytes(0, get("/")).at(1, Event::Eof).run().out;
    assert!(unknown.contains("chunked") && unknown.ends_with("2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"), "{unknown}");
}

#[test]
fn a_body_that_is_not_sent_is_not_made_either() {
    let head = get("/").replace("GET", "HEAD");
    for (script, status) in [(head, 200), (get("/"), 204), (get("/"), 304), (get("/"), 205)] {
        let polls = Count::default();
        let counted = polls.clone();
        let transcript = served(move |_| {
            let polls = counted.clone();
            async move {
                // The body would never end.
                let mut response = made(move |_| {
                    polls.add();
                    data("x")
                });
                *response.status_mut() = http::StatusCode::from_u16(status).expect("valid");
                response
            }
        })
        .bytes(0, script.repeat(2))
        .at(1, Event::Eof)
        .run();
        assert_eq!((count(&transcript.out, "HTTP/1.1"), polls.get()), (2, 0), "{status}: {transcript:?}");
        assert_eq!(transcript.reason, Some(CloseReason::PeerClosed));
    }
}

#[test]
fn a_body_that_belies_its_length_or_fails_cuts_the_response() {
    for (length, end) in [("6", "\r\n\r\nabcd"), ("3", "\r\n\r\n")] {
        let transcript =
            served(move |_| async move { with(parts([Bytes::from("abcd")]), "Content-Length", length) })
                .bytes(0, get("/"))
                .run();
        assert!(transcript.out.ends_with(end), "{length}: {transcript:?}");
        assert_eq!(transcript.reason, Some(CloseReason::ApplicationFailed));
    }
    let failed = served(tester).bytes(0, get("/late-fail")).run();
    assert!(failed.out.ends_with("4\r\npart\r\n"), "no final chunk: {failed:?}");
    assert_eq!(failed.reason, Some(CloseReason::ApplicationFailed));
}

#[test]
fn trailers_are_dropped() {
    let transcript = served(|_| async {
        let trailers = Poll::Ready(Some(Ok(Frame::trailers(http::HeaderMap::new()))));
        let mut frames = VecDeque::from([data("ab"), trailers]);
        made(move |_| frames.pop_front().unwrap_or(Poll::Ready(None)))
    })
    .bytes(0, get("/"))
    .at(1, Event::Eof)
    .run();
    assert!(transcript.out.ends_with("2\r\nab\r\n0\r\n\r\n"), "{transcript:?}");
}

#[test]
fn an_invalid_response_is_a_500() {
    let mut bench = served(|_| async {
        let mut response = text("");
        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        response
    })
    .bytes(0, get("/").repeat(2))
    .at(1, Event::Eof);
    assert_eq!(count(&bench.run().out, "HTTP/1.1 500 "), 2);
}
