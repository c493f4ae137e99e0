//! D15: requests are counted over all connections, and the quota is reported once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::app::Quota;
use crate::conn::Connection;
use crate::peer::{Origin, Peer};
use crate::session::Session;
use crate::testing::START;

#[test]
fn d15_a_quota_is_spent_once_by_requests_on_any_connection() {
    let spent = Arc::new(AtomicU32::new(0));
    let service = {
        let spent = spent.clone();
        let quota = Quota::new(3, move || {
            spent.fetch_add(1, Ordering::Relaxed);
        });
        Arc::new((*short_bench().service).clone().limited_to(quota))
    };
    let after = |script: String| {
        let connection = Connection::new(Origin::new(0, Peer::Unix, 7), START);
        let session = Some(Session::new(connection, service.clone()));
        let mut bench = Bench { session, service: service.clone(), ..short_bench() }.bytes(0, script);
        bench.run();
        (spent.load(Ordering::Relaxed), service.counters.requests.get())
    };
    assert_eq!(after("no request\r\n\r\n".to_owned()), (0, 0));
    assert_eq!(after(get("/") + &get("/")), (0, 2));
    assert_eq!(after(get("/")), (1, 3));
    assert_eq!(after(get("/").repeat(4)), (1, 7), "further requests are served");
}
