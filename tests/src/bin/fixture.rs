//! The server under test: remuda's command line around its built-in application, and around what no application
//! should do.
//!
//! `FIXTURE_APPLICATION` chooses between its two kinds, `blocking` and `async`; without it the backend does.
//! `GET /hang?ms=N` blocks the worker's loop for N ms, of the blocking kind by saying that it is short. A file
//! `stall-boot` in the working directory keeps the next worker that boots, which removes the file, from being ready; with a
//! file `fail-boot` there every worker fails to boot.

use std::env;
use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use http::{Request, Response};
use remuda::{
    App, AppError, AsyncHandler, Body, BodyReader, Boot, Handler, Head, Incoming, Responder, ResponseHead,
    Server, demo,
};

fn main() -> ExitCode {
    Server::new(build).run()
}

fn build(boot: &Boot) -> Result<App, AppError> {
    while fs::remove_file("stall-boot").is_ok() {
        thread::sleep(Duration::MAX);
    }
    if fs::exists("fail-boot").unwrap_or(false) {
        return Err(AppError::msg("there is a file fail-boot"));
    }
    let is_async = match env::var("FIXTURE_APPLICATION").as_deref() {
        Ok("blocking") => false,
        Ok("async") => true,
        Err(env::VarError::NotPresent) => demo::is_async(boot),
        other => {
            let message = format!("FIXTURE_APPLICATION is {other:?}; allowed: blocking, async");
            return Err(AppError::msg(message));
        }
    };
    let hanging = Hanging { demo: demo::handler(boot) };
    Ok(if is_async { App::future(hanging) } else { App::blocking(hanging) })
}

struct Hanging<H> {
    demo: H,
}

impl<H: Handler> Handler for Hanging<H> {
    fn call(&self, head: &Head<'_>, body: BodyReader<'_>, out: Responder<'_>) -> Result<(), AppError> {
        if head.path() != "/hang" {
            return self.demo.call(head, body, out);
        }
        hang(head.query());
        Ok(out.send(ResponseHead::new(200), "late\n")?)
    }

    fn is_short(&self, head: &Head<'_>) -> bool {
        head.path() == "/hang" || self.demo.is_short(head)
    }
}

#[async_trait(?Send)]
impl<H: AsyncHandler> AsyncHandler for Hanging<H> {
    async fn call(&self, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() != "/hang" {
            return self.demo.call(request).await;
        }
        hang(request.uri().query());
        Response::new("late\n".into())
    }
}

fn hang(query: Option<&str>) {
    let millis = query.and_then(|query| query.strip_prefix("ms=")?.parse().ok());
    thread::sleep(Duration::from_millis(millis.unwrap_or(1000)));
}
