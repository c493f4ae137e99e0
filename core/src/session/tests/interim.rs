//! Interim responses and trailers, from both kinds of application.

use http::{HeaderMap, HeaderValue, Request, Response};

use super::*;
use crate::app::{App, AsyncHandler, Body, Incoming, RequestInfo};
use crate::config::HIGH_WATER;
use crate::conn::RespondError;
use crate::http1::FieldError;
use crate::testing::{Event, Gate};

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";

fn hints() -> ResponseHead {
    ResponseHead::new(103).field("Link", "</a.css>; rel=preload")
}

/// Sends hints, and answers once a gate is open.
struct Waiting(Gate);

#[async_trait::async_trait(?Send)]
impl AsyncHandler for Waiting {
    async fn call(&self, request: Request<Incoming>) -> Response<Body> {
        let info = request.body().info();
        info.interim(&hints()).expect("it has room");
        self.0.opened().await;
        info.interim(&hints()).expect("it has room");
        Response::new("late".into())
    }
}

/// The interim responses that `bench` has sent by its end, and how its first response ends.
fn sent(mut bench: Bench, script: &str) -> (usize, bool) {
    bench = bench.bytes(0, script).at(9, Event::Eof);
    let out = bench.run().out;
    (count(&out, "HTTP/1.1 103 "), out.contains("hello"))
}

#[test]
fn rfc8297_hints_are_sent_while_the_application_is_at_work() {
    let gate = Gate::default();
    let mut bench =
        Bench::of(App::future(Waiting(gate.clone()))).bytes(0, get("/")).at(100, Event::Open(gate));
    bench.until(99);
    assert_eq!(bench.out(), HINTS);
    let out = bench.until(100).out();
    assert!(out.starts_with(&format!("{HINTS}{HINTS}HTTP/1.1 200 OK\r\n")) && out.ends_with("late"), "{out}");

    // When the blocking handler continues, they have been sent.
    let handler = |_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>| {
        out.interim(&hints())?;
        assert_eq!(out.connection().requests, 1);
        Ok(out.send(ResponseHead::new(200), "late")?)
    };
    let mut bench = Bench::new(handler).bytes(0, get("/"));
    bench.pipe.0.borrow_mut().room = HINTS.len() - 1;
    bench = bench.at(50, Event::Room(1)).at(100, Event::Room(1000));
    let out = bench.until(150).out();
    assert!(out.starts_with(&format!("{HINTS}HTTP/1.1 200 OK\r\n")), "{out}");
    assert_eq!(bench.now(), 150);
}

#[test]
fn rfc9110_15_2_a_client_of_http_1_0_is_sent_no_interim_response() {
    let kinds: [fn() -> Bench; 3] = [bench, short_bench, || futures::served(futures::tester)];
    for kind in kinds {
        assert_eq!(sent(kind(), &get("/hints?2")), (2, true));
        assert_eq!(sent(kind(), &get("/hints?2").replace("1.1", "1.0")), (0, true));
        assert_eq!(sent(kind(), &get("/hints?2").replace("GET", "HEAD")), (2, false));
    }
}

#[test]
fn disabled_interim_responses_are_dropped_without_an_error() {
    let kinds: [fn() -> Bench; 3] = [bench, short_bench, || futures::served(futures::tester)];
    for kind in kinds {
        let off = kind()
            .limits(|limits| limits.interim_responses = crate::config::Limits::default().interim_responses);
        assert_eq!(sent(off, &get("/hints?2")), (0, true));
    }
}

#[test]
fn a_final_status_is_refused_as_an_interim_response() {
    let (bad_field, bad_name) = (hints().field("X", "a\r\nb: c"), hints().field("X\r\nb", "c"));
    let cases = [
        (ResponseHead::new(100), RespondError::NotInterim(100)),
        (ResponseHead::new(101), RespondError::NotInterim(101)),
        (ResponseHead::new(200), RespondError::NotInterim(200)),
        (bad_field, FieldError::Value("X".to_owned()).into()),
        (bad_name, FieldError::Name("X\r\nb".to_owned()).into()),
    ];
    for (head, error) in cases {
        let expected = error.to_string();
        let (blocking, future) = (head.clone(), head);
        let handler = move |_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>| {
            let error = out.interim(&blocking).expect_err("it is none");
            Ok(out.send(ResponseHead::new(200), error.to_string())?)
        };
        let answer = move |request: Request<Incoming>| {
            let error = request.body().info().interim(&future).expect_err("it is none");
            async move { futures::text(error.to_string()) }
        };
        for mut bench in [Bench::new(handler), futures::served(answer)] {
            bench.schedule(crate::testing::START, Event::Bytes(get("/").into()));
            let out = bench.until(1).out();
            assert!(out.starts_with("HTTP/1.1 200 ") && out.ends_with(&expected), "{out}");
        }
    }
}

#[test]
fn unread_interim_responses_are_bounded() {
    let head = ResponseHead::new(103).field("Link", "l".repeat(1000));
    let mut bench = futures::served(move |request: Request<Incoming>| {
        let info = request.body().info().clone();
        let accepted = (0..1000).take_while(|_| info.interim(&head).is_ok()).count();
        let error = info.interim(&head).expect_err("it is full");
        assert!(matches!(error, RespondError::Full { waiting } if waiting >= HIGH_WATER), "{error}");
        async move { futures::text(format!("{accepted} accepted")) }
    })
    .bytes(0, get("/"));
    bench.pipe.0.borrow_mut().room = 0;
    bench.until(1);
    assert!(bench.peak_unsent < HIGH_WATER + 2048, "{}", bench.peak_unsent);
    bench.schedule(bench.world.now, Event::Room(1_000_000));
    let out = bench.until(2).out();
    assert!(out.ends_with(&format!("{} accepted", count(&out, "HTTP/1.1 103 "))), "{out}");

    // A blocking handler waits.
    let mut bench = bench_of(false).bytes(0, get("/hints?2000"));
    bench.pipe.0.borrow_mut().room = 1000;
    for at in 1..200 {
        bench.schedule(crate::testing::START + crate::testing::ms(at), Event::Room(1000));
    }
    let out = bench.at(200, Event::Eof).run().out;
    assert!(out.ends_with("hello") && count(&out, "HTTP/1.1 103 ") == 2000, "{}", out.len());
}

#[test]
fn an_interim_response_that_comes_too_late_is_refused() {
    use std::sync::{Arc, Mutex};
    let kept = Arc::new(Mutex::new(None::<RequestInfo>));
    let keep = kept.clone();
    let mut bench = futures::served(move |request: Request<Incoming>| {
        let former = keep.lock().expect("not poisoned").replace(request.body().info().clone());
        let late = former.map(|info| info.interim(&hints()));
        async move { futures::text(format!("{late:?}")) }
    })
    .bytes(0, get("/").repeat(2));
    let out = bench.until(1).out();
    assert!(out.ends_with("Some(Err(NoRequest))") && !out.contains("103"), "{out}");
    drop(kept);
}

#[test]
fn rfc9110_6_5_trailers_of_a_response_follow_chunks_only() {
    let ask = "POST /trailers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
               0\r\nX-Sum: 7\r\nContent-Length: 9\r\nAuthorization: b\r\n\r\n";
    let kinds: [fn() -> Bench; 2] = [bench, || futures::served(futures::tester)];
    for kind in kinds {
        let out = kind().bytes(0, ask).at(9, Event::Eof).run().out;
        assert!(out.contains("\r\nTrailer: X-Sum\r\n"), "{out}");
        assert!(out.ends_with("\r\n\r\n4\r\ndone\r\n0\r\nx-sum: 7\r\n\r\n"), "{out}");
        let out = kind().bytes(0, ask.replace("POST", "HEAD")).at(9, Event::Eof).run().out;
        assert!(!out.contains("x-sum") && !out.contains("Trailer") && out.ends_with("\r\n\r\n"), "{out}");
    }
    let ask = "POST /trailers HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n";
    let out = futures::served(futures::tester).bytes(0, ask).at(9, Event::Eof).run().out;
    assert!(out.contains("\r\nContent-Length: 4\r\n") && out.ends_with("\r\n\r\ndone"), "{out}");
    // HTTP/1.0 cannot be sent trailers; what the application has of its own is dropped.
    let own = || HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("\"x\""))]);
    let handler = move |head: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>| {
        let ok = ResponseHead::new(if head.path() == "/none" { 204 } else { 200 });
        let ok = if head.path() == "/length" { ok.field("Content-Length", "4") } else { ok };
        let mut out = out.stream(ok.field("Trailer", "ETag"))?;
        out.write_all(b"done")?;
        out.finish(own());
        Ok(())
    };
    for (target, version, end) in [
        ("/", "1.1", "4\r\ndone\r\n0\r\netag: \"x\"\r\n\r\n"),
        ("/", "1.0", "\r\n\r\ndone"),
        ("/length", "1.1", "\r\n\r\ndone"),
        ("/none", "1.1", "\r\n\r\n"),
    ] {
        let script = get(target).replace("1.1", version);
        let out = Bench::new(handler).bytes(0, script).at(9, Event::Eof).run().out;
        assert!(out.ends_with(end) && out.contains("Trailer") == end.contains("etag"), "{target}: {out}");
    }
}

#[test]
fn rfc9112_7_1_2_trailers_of_a_request_are_not_among_its_fields() {
    let script =
        "POST /trailers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 7\r\n\r\n";
    let transcript = bench().bytes(0, script).at(9, Event::Eof).run();
    assert_eq!(transcript.log.len(), 1);
    assert!(!transcript.log[0].contains("X-Sum") && transcript.out.contains("x-sum: 7"), "{transcript:?}");
}

#[test]
fn rfc9110_10_1_1_other_expectations_are_417_in_http_1_1_only() {
    for expectation in ["200-ok", "100-continue, more", "100-continue;a=b", "\"100-continue\""] {
        let script = get("/").replace("\r\n\r\n", &format!("\r\nExpect: {expectation}\r\n\r\n"));
        let out = bench().bytes(0, &script).run().out;
        assert!(out.starts_with("HTTP/1.1 417 ") && out.contains(CLOSE), "{expectation}: {out}");
        let out = bench().bytes(0, script.replace("1.1", "1.0")).run().out;
        assert!(out.ends_with("hello"), "{expectation}: {out}");
    }
    let empty = get("/").replace("\r\n\r\n", "\r\nExpect: , 100-Continue ,\r\n\r\n");
    assert!(bench().bytes(0, empty).at(1, Event::Eof).run().out.ends_with("hello"));
}
