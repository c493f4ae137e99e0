use std::future::{pending, poll_fn};
use std::sync::Mutex;
use std::task::Waker;
use std::time::Duration;

use super::*;
use crate::app::{App, AppError, BodyReader, Counters, DrainSignal, Responder};
use crate::http1::Head;
use crate::shutdown::Reason;
use crate::testing::Shown;

const START: Time = Time::from_nanos(1_000_000_000);
const GRACE: Duration = Duration::from_secs(8);

fn silent(_: &Head<'_>, _: BodyReader<'_>, _: Responder<'_>) -> Result<(), AppError> {
    Ok(())
}

fn app() -> App {
    App::blocking(silent)
}

fn drain() -> Drain {
    Drain::new(Reason::Stop, START, START + GRACE)
}

/// The end of `app`, and the holds of its tasks.
fn ending(app: App) -> (Ending, Arc<Holds>) {
    let holds = Holds::new();
    let service =
        Service::new(app, DrainSignal::new(Arc::new(Shown::default())), Arc::new(Counters::default()));
    (Ending::new(&service, holds.clone()), holds)
}

fn poll(ending: &mut Ending, exit: Option<Exit>, now: Time) -> Option<Exit> {
    ending.poll(&drain(), exit, now, &mut Context::from_waker(Waker::noop()))
}

/// A hook that records when it begins, and is ready after `polls` polls.
fn hook(
    log: &Arc<Mutex<Vec<&'static str>>>,
    name: &'static str,
    polls: u32,
) -> impl Fn(Drain) -> LocalFuture<()> + use<> {
    let log = log.clone();
    move |_| {
        log.lock().unwrap().push(name);
        let mut left = polls;
        Box::pin(poll_fn(move |_| {
            left -= 1;
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        }))
    }
}

#[test]
fn d9_an_application_without_an_end_ends_with_its_last_connection() {
    let (mut ending, _) = ending(app());
    assert_eq!(poll(&mut ending, None, START), None);
    assert!(ending.is_empty() && !ending.has_no_connections() && !ending.is_under_way());
    assert_eq!(poll(&mut ending, Some(Exit::Clean), START), Some(Exit::Clean));
}

#[test]
fn d14_hooks_run_in_order_after_the_last_connection() {
    let log = Arc::default();
    let (mut ending, _) =
        ending(app().on_drained(hook(&log, "first", 2)).on_drained(hook(&log, "second", 1)));
    assert_eq!(poll(&mut ending, None, START), None);
    assert!(log.lock().unwrap().is_empty(), "connections are left");
    assert_eq!(poll(&mut ending, Some(Exit::Clean), START), None);
    assert_eq!(*log.lock().unwrap(), ["first"]);
    assert!(ending.has_no_connections() && ending.is_under_way());
    assert_eq!(ending.deadline(&drain()), Some(START + GRACE));
    // An order that announces connections comes too late: the end continues.
    assert_eq!(poll(&mut ending, None, START), Some(Exit::Clean));
    assert_eq!(*log.lock().unwrap(), ["first", "second"]);
    assert_eq!(poll(&mut ending, None, START), Some(Exit::Clean), "the end stays over");
}

#[test]
fn d14_tasks_of_handlers_end_before_the_hooks_begin() {
    let log = Arc::default();
    let (mut ending, holds) = ending(app().on_drained(hook(&log, "hook", 1)));
    let hold = holds.clone().take();
    assert_eq!(poll(&mut ending, Some(Exit::Clean), START), None);
    assert!(log.lock().unwrap().is_empty() && ending.is_under_way());
    drop(hold);
    assert_eq!(poll(&mut ending, Some(Exit::Clean), START), Some(Exit::Clean));
    assert_eq!(*log.lock().unwrap(), ["hook"]);
}

#[test]
fn d10_the_deadline_cuts_off_the_applications_end() {
    let (mut ending, _) = ending(app().on_drained(|_| pending()));
    assert_eq!(poll(&mut ending, Some(Exit::Clean), START), None);
    let before = START + (GRACE - Duration::from_nanos(1));
    assert_eq!(poll(&mut ending, Some(Exit::Clean), before), None);
    assert_eq!(poll(&mut ending, Some(Exit::Clean), START + GRACE), Some(Exit::CutOff));
}

#[test]
fn d10_hooks_have_time_even_if_the_drains_is_used_up() {
    // Tasks have used up the drain's time.
    let log = Arc::default();
    let (mut ending, holds) = ending(app().on_drained(hook(&log, "hook", 2)));
    let _hold = holds.take();
    let deadline = START + GRACE;
    assert_eq!(poll(&mut ending, Some(Exit::Clean), deadline), None);
    assert_eq!(ending.deadline(&drain()), Some(deadline + completion::END_LEAST));
    assert_eq!(poll(&mut ending, Some(Exit::Clean), deadline), Some(Exit::CutOff), "the task was cut off");
    assert_eq!(*log.lock().unwrap(), ["hook"]);
    // Requests have used it up, and still run.
    let (mut ending, _) = self::ending(app().on_drained(|_| pending()));
    assert_eq!(poll(&mut ending, None, deadline), None);
    assert!(ending.is_under_way() && !ending.has_no_connections());
    assert_eq!(poll(&mut ending, None, deadline + completion::END_LEAST), None, "connections are left");
    assert_eq!(poll(&mut ending, Some(Exit::CutOff), deadline + completion::END_LEAST), Some(Exit::CutOff));
}

#[test]
fn d11_an_immediate_end_runs_no_hooks() {
    let log = Arc::default();
    let (mut ending, _) = ending(app().on_drained(hook(&log, "hook", 1)));
    let quit = Drain::new(Reason::QuickStop, START, START);
    let exit = ending.poll(&quit, Some(Exit::Clean), START, &mut Context::from_waker(Waker::noop()));
    assert_eq!(exit, Some(Exit::CutOff));
    assert!(log.lock().unwrap().is_empty());
}

#[test]
fn a_hook_that_panics_does_not_stop_the_others() {
    let log = Arc::default();
    let app = app().on_drained(|_| -> LocalFuture<()> { panic!("on purpose") });
    let app = app.on_drained(|_| async { panic!("on purpose") }).on_drained(hook(&log, "last", 1));
    let (mut ending, _) = ending(app);
    assert_eq!(poll(&mut ending, Some(Exit::Clean), START), Some(Exit::Clean));
    assert_eq!(*log.lock().unwrap(), ["last"]);
}
