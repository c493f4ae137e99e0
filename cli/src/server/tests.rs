use std::cell::Cell;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use remuda_arbiter::ArbiterConfig;
use remuda_core::app::{App, BodyReader, Responder, Short};
use remuda_core::http1::{Head, ResponseHead};
use remuda_core::shutdown::{CloseIdle, Grace};
use remuda_core::worker::Policies;
use remuda_core::worker::{Exit, WorkerCx};
use tempfile::TempDir;

use super::*;
use crate::IntoApp;

fn handler(_: &Head<'_>, _: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
    out.send(ResponseHead::new(204), "")?;
    Ok(())
}

fn app(_: &Boot) -> Result<App, AppError> {
    Ok(App::blocking(handler))
}

/// Accepts the application name "site" only.
fn site(name: Option<&str>) -> Result<AppFactory, AppError> {
    match name {
        Some("site") => Ok(AppFactory::new(app)),
        other => Err(AppError::msg(format!("no {other:?}"))),
    }
}

#[test]
fn functions_closures_handlers_and_apps_can_be_run() {
    fn takes<M>(app: impl IntoApp<M>) -> String {
        format!("{:?}", app.into_app())
    }
    assert_eq!(takes(handler), "App::blocking");
    assert_eq!(takes(Short(handler)), "App::blocking");
    assert_eq!(takes(App::blocking(handler)), "App::blocking");
    let closure = |head: &Head<'_>, body: BodyReader<'_>, out: Responder<'_>| handler(head, body, out);
    assert_eq!(takes(closure), "App::blocking");
}

#[test]
fn given_settings_are_used_as_they_are() {
    let mut settings = Settings::default();
    settings.arbiter.workers = 9;
    let ready = Server::new(app).args(["hello", "--workers=3"]).settings(settings).prepare().ok().unwrap();
    assert_eq!(ready.settings.arbiter.workers, 9);
}

#[test]
fn a_command_line_may_be_given() {
    let ready = Server::new(app).args(["hello", "--workers=3"]).prepare().ok().unwrap();
    assert_eq!(ready.settings.arbiter.workers, 3);
    assert_eq!(Server::new(app).args(["hello", "--check-config"]).prepare().err(), Some(0));
    assert_eq!(Server::new(app).args(["hello", "--check-config", "-w0"]).prepare().err(), Some(2));
}

/// A custom backend.
#[derive(Debug)]
struct Steam(&'static str);

impl Worker for Steam {
    fn name(&self) -> &'static str {
        self.0
    }

    fn max_threads(&self) -> Option<usize> {
        Some(2)
    }

    fn run(&self, _: WorkerCx, _: AppFactory) -> Exit {
        Exit::Clean
    }
}

#[test]
fn a_backend_that_is_added_can_be_chosen() {
    let prepare = |arguments: &[&str]| {
        let server = Server::new(app).backend(Steam("steam")).backend(Steam("mio"));
        server.args([&["hello", "--check-config"], arguments].concat()).prepare().err()
    };
    assert_eq!(prepare(&["-k", "steam"]), Some(0));
    assert_eq!(prepare(&["-k", "steam", "--threads", "3"]), Some(2));
    assert_eq!(prepare(&["-k", "diesel"]), Some(2));

    let chosen = |name: &str| {
        let server = Server::new(app).backend(Steam("steam")).backend(Steam("mio"));
        let ready = server.args(["hello", "-k", name]).prepare().ok().unwrap();
        (format!("{:?}", ready.settings.backend.unwrap()), ready.settings.arbiter.worker.threads)
    };
    assert_eq!(chosen("steam"), ("Steam(\"steam\")".to_owned(), 2));
    // It overrides the built-in backend of that name.
    assert_eq!(chosen("mio"), ("Steam(\"mio\")".to_owned(), 2));
}

#[test]
fn a_custom_policy_has_a_name_in_its_own_server_only() {
    let server =
        || Server::new(app).policy("mine", Grace(Duration::from_secs(7))).policy("finish", CloseIdle);
    let ready = server().args(["hello", "--drain=mine", "--drain-reload=finish"]).prepare().ok().unwrap();
    let Policies { stop, reload, .. } = &ready.settings.arbiter.policies;
    assert_eq!(format!("{stop:?} {reload:?}"), "Grace(7s) Finish");
    assert_eq!(server().args(["hello", "--drain=yours"]).prepare().err(), Some(2));
    assert_eq!(Server::new(app).args(["hello", "--drain=mine"]).prepare().err(), Some(2));
}

#[test]
fn an_async_factory_is_not_preloaded() {
    let awaits = || Server::from_async(async |boot| app(&boot));
    assert_eq!(awaits().args(["hello", "--check-config", "--preload"]).prepare().err(), Some(2));
    assert!(awaits().args(["hello"]).prepare().is_ok());
    assert!(Server::new(app).args(["hello", "--preload"]).prepare().is_ok());
    let mut settings = Settings::default();
    settings.arbiter.preload = true;
    assert_eq!(awaits().settings(settings).prepare().err(), Some(2));
}

#[test]
fn a_policy_fixed_by_the_program_overrides_the_settings() {
    let server = || Server::new(app).drain(PolicyId::Recycle, CloseIdle);
    let told = server().args(["hello", "--drain-recycle=spread:1s", "--drain=grace:1s"]);
    let given = server().settings(Settings::default());
    for (server, stop) in [(told, "Grace(1s)"), (given, "Finish")] {
        let ready = server.prepare().ok().unwrap();
        let Policies { stop: found, recycle, .. } = &ready.settings.arbiter.policies;
        assert_eq!((format!("{found:?}"), format!("{recycle:?}")), (stop.into(), "CloseIdle".into()));
    }
}

#[test]
fn only_a_server_that_chooses_takes_the_name_of_an_application() {
    assert_eq!(Server::new(app).args(["hello", "site"]).prepare().err(), Some(2));
    assert!(Server::choosing(site).args(["hello", "site"]).prepare().is_ok());
    assert_eq!(Server::choosing(site).args(["hello"]).prepare().err(), Some(2));
    assert_eq!(Server::choosing(site).args(["hello", "--check-config", "zoo"]).prepare().err(), Some(2));
}

#[test]
fn a_reload_reads_the_file_again_and_reports_all_problems() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("hello.toml");
    let write = |text: &str| fs::write(&path, text).unwrap();
    let line = ["hello", "site", "--drain=mine", "-c", path.to_str().unwrap()];
    write("workers = 2\nthreads = 3\n");
    let server = Server::choosing(site).policy("mine", Grace(Duration::from_secs(7))).args(line);
    let ready = server.drain(PolicyId::Recycle, CloseIdle).prepare().ok().unwrap();
    let (source, origins) = ready.again.expect("it has read its settings");

    write("workers = 5\n");
    let (settings, _) = source.again(&origins).unwrap();
    let ArbiterConfig { workers, worker, policies, .. } = &settings.arbiter;
    assert_eq!((*workers, worker.threads), (5, 4));
    assert_eq!(format!("{:?} {:?}", policies.stop, policies.recycle), "Grace(7s) CloseIdle");

    write("workers = 0\nthreads = 'x'\n");
    let why = refusal(&source, &origins);
    let (first, second) = why.split_once("; threads is").unwrap_or_else(|| panic!("{why}"));
    assert!(first.starts_with("workers is") && second.contains("line 2"), "{why}");
    fs::remove_file(&path).unwrap();
    assert!(refusal(&source, &origins).contains("no such file"));
}

#[test]
fn a_reload_requests_the_lookup_of_host_names_first() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("hello.toml");
    let write = |text: &str| fs::write(&path, text).unwrap();
    write("bind = '127.0.0.1:80'\n");
    let chosen = Rc::new(Cell::new(0));
    let choose = {
        let chosen = chosen.clone();
        move |_: Option<&str>| {
            chosen.set(chosen.get() + 1);
            Ok(AppFactory::new(app))
        }
    };
    let ready =
        Server::choosing(choose).args(["hello", "-c", path.to_str().unwrap()]).prepare().ok().unwrap();
    let (source, origins) = ready.again.expect("it has read its settings");
    assert_eq!(chosen.take(), 1);
    let job = || match source.again(&origins) {
        Err(Unloaded::Awaits(job)) => job,
        other => panic!("{:?}", other.err()),
    };

    write("bind = ['127.0.0.1:80', 'localhost:81']\n");
    let answer = job().run();
    job().finish(&answer).unwrap();
    let (settings, _) = source.again(&origins).unwrap();
    let binds: Vec<_> = settings.arbiter.binds.iter().map(ToString::to_string).collect();
    assert_eq!((&*binds.join(" "), chosen.take()), ("127.0.0.1:80 127.0.0.1:81", 1));
    let _ = job(); // the next reload starts a new lookup

    job().finish(br#"{"localhost":{"Err":"it is unknown"}}"#).unwrap();
    assert!(refusal(&source, &origins).contains("it is unknown"));
}

fn refusal(source: &Source, origins: &[Origin]) -> String {
    match source.again(origins) {
        Err(Unloaded::Refused(why)) => why,
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_reload_chooses_the_application_again() {
    let there = Rc::new(Cell::new(true));
    let choose = {
        let there = there.clone();
        move |_: Option<&str>| match there.get() {
            true => Ok(AppFactory::new(app)),
            false => Err(AppError::msg("it is gone")),
        }
    };
    let ready = Server::choosing(choose).args(["hello"]).prepare().ok().unwrap();
    let (source, origins) = ready.again.unwrap();
    assert!(source.again(&origins).is_ok());
    there.set(false);
    assert_eq!(refusal(&source, &origins), "it is gone");
}

#[test]
fn the_name_of_the_program_is_its_first_argument() {
    assert_eq!(name(&["/usr/bin/hello".into()]), "hello");
    assert_eq!(name(&[]), "remuda");
}
