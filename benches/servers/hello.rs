//! The cost of calling an async function in remuda: the counterpart of `bench-hyper`.

use std::process::ExitCode;

use async_trait::async_trait;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use remuda::app::{AsyncHandler, Incoming};
use remuda::{Body, Bytes};

fn main() -> ExitCode {
    remuda::run(Hello)
}

struct Hello;

#[async_trait(?Send)]
impl AsyncHandler for Hello {
    async fn call(&self, _: Request<Incoming>) -> Response<Body> {
        let mut response = Response::new(Bytes::from_static(b"Hello, World!").into());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    }
}
