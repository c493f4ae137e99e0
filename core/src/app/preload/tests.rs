use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use super::*;
use crate::app::{App, Body, BodyReader, Kind, Responder};
use crate::http1::{Head, ResponseHead};
use crate::shutdown::Reason;
use crate::testing::{START, Shown, ms};

fn handler(_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
    out.send(ResponseHead::new(204), "")?;
    Ok(())
}

/// The application that `factory` builds for a worker with `shown` as the source of its drain.
fn built(factory: &AppFactory, shown: &Arc<Shown>, counters: &Arc<Counters>) -> Result<App, AppError> {
    let boot = Boot::new(3, 2, "mio", DrainSignal::new(shown.clone()), counters.clone());
    match factory.build(&boot).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(app) => app,
        Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn a_preloaded_application_uses_the_signals_of_its_worker() {
    let (calls, given) = (AtomicU32::new(0), Arc::new(Mutex::new(None)));
    let factory = {
        let given = given.clone();
        AppFactory::new(move |boot| {
            assert_eq!(calls.fetch_add(1, Ordering::Relaxed), 0, "it is built again");
            *given.lock().unwrap() = Some(boot.clone());
            Ok(App::blocking(handler))
        })
    };
    let factory = factory.with_tokio().preload("mio").unwrap();
    assert!(factory.wants_tokio() && !factory.awaits());
    let boot = given.lock().unwrap().clone().unwrap();
    assert!(boot.preloaded);
    assert_eq!((boot.slot, boot.generation, boot.backend), (0, 1, "mio"));
    boot.counters.requests.increment();
    assert!(!boot.drain.is_set() && !boot.drain.wait(ms(1)));
    let mut early = Box::pin(boot.drain.drained());
    let mut task = Context::from_waker(Waker::noop());
    assert!(early.as_mut().poll(&mut task).is_pending());

    let (shown, counters) = (Arc::new(Shown::default()), Arc::new(Counters::default()));
    let apps = [(); 2].map(|()| built(&factory, &shown, &counters).unwrap());
    match apps.map(|app| app.kind) {
        [Kind::Blocking(one), Kind::Blocking(other)] => assert!(Arc::ptr_eq(&one, &other)),
        _ => panic!("it is another application"),
    }
    counters.requests.increment();
    counters.requests.increment();
    assert_eq!(boot.counters.requests.get(), 2);
    // A future that waited before there was a worker continues, with a place of its own.
    assert!(early.as_mut().poll(&mut task).is_pending());
    assert_eq!(shown.waiting(), 1);
    shown.begin(Drain::new(Reason::Stop, START, START + ms(1000)));
    assert!(boot.drain.is_set() && boot.drain.wait(ms(1)) && early.as_mut().poll(&mut task).is_ready());
    drop(early);
    assert_eq!(shown.waiting(), 0);
}

#[test]
fn an_application_that_fails_or_awaits_is_not_preloaded() {
    let factory = AppFactory::new(|_| Err(AppError::msg("no database")));
    assert_eq!(factory.preload("mio").unwrap_err().to_string(), "no database");

    let awaiting = AppFactory::from_async(async |_| Ok(App::call(Nobody)));
    assert!(awaiting.awaits());
    let refused = awaiting.preload("mio").unwrap_err().to_string();
    assert!(refused.contains("needs a runtime"), "{refused}");
}

struct Nobody;

impl crate::app::Call for Nobody {
    fn call(
        self: Arc<Self>,
        _: http::Request<crate::app::Incoming>,
    ) -> crate::app::LocalFuture<http::Response<Body>> {
        unreachable!("nobody asks")
    }
}
