//! hyper's own hello world on a current-thread runtime: `bench-hyper ADDRESS [timer]`.
//!
//! Without `timer` a head may take for ever, which is hyper's cheapest mode. With `timer` hyper's
//! default limit of 30 s holds, as remuda's limit always does.

use std::convert::Infallible;
use std::{env, io};

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::runtime;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().ok_or_else(|| io::Error::other("no address was given"))?;
    let mut http = http1::Builder::new();
    if arguments.next().is_some_and(|argument| argument == "timer") {
        http.timer(TokioTimer::new());
    }
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(&address, &http))
}

async fn serve(address: &str, http: &http1::Builder) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // How a connection ends does not matter here.
        tokio::spawn(http.serve_connection(TokioIo::new(stream), service_fn(hello)));
    }
}

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"Hello, World!")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
