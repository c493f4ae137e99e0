//! Addresses of host names.
//!
//! A start calls the system's resolver and waits for it. A reload must not wait, because
//! getaddrinfo(3) has no limit except those of resolv.conf(5): it records the missing names, a
//! child of the arbiter looks them up, and the reload is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, ToSocketAddrs as _};

use remuda_arbiter::BackgroundJob;

/// A cache of addresses, or the resolver.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// None: the resolver is called for each name.
    known: Option<Found>,
    /// Settings, with host names that were not in the cache.
    missing: BTreeSet<(&'static str, String)>,
}

/// Host names, with an address with port 0, or the error of the lookup.
pub(crate) type Found = BTreeMap<String, Result<SocketAddr, String>>;

impl Names {
    /// Uses these addresses only, and never calls the resolver.
    pub(crate) fn known(found: Found) -> Self {
        Self { known: Some(found), missing: BTreeSet::new() }
    }

    /// Returns the address of `host`, with port 0. `setting` is its place, for messages.
    pub(super) fn find(&mut self, setting: &'static str, host: &str) -> Result<SocketAddr, String> {
        let Some(known) = &self.known else { return look_up(host) };
        known.get(host).cloned().unwrap_or_else(|| {
            self.missing.insert((setting, host.to_owned()));
            Err(format!("{host:?} is not looked up yet"))
        })
    }

    /// Whether an address was missing, so that the settings are incomplete.
    pub(crate) fn lacks_any(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Returns the job that looks up all missing names in a child. `keep` receives the completed
    /// cache. None if no name is missing.
    pub(crate) fn look_up_job(&self, keep: impl FnOnce(Found) + 'static) -> Option<BackgroundJob> {
        let asked = self.missing.iter().map(|(setting, host)| format!("{setting}: the address of {host:?}"));
        let asked: Vec<_> = asked.collect();
        if asked.is_empty() {
            return None;
        }
        let hosts: BTreeSet<_> = self.missing.iter().map(|(_, host)| host.clone()).collect();
        let mut known = self.known.clone().unwrap_or_default();
        let work = || {
            let found: Found = hosts.into_iter().map(|host| (host.clone(), look_up(&host))).collect();
            serde_json::to_vec(&found).unwrap_or_default()
        };
        let what = asked.join(", ");
        let died = format!("{what}: the process that looked it up has died");
        let finish = move |answer: &[u8]| {
            let found: Found = serde_json::from_slice(answer).map_err(|_| died)?;
            known.extend(found);
            keep(known);
            Ok(())
        };
        Some(BackgroundJob::new(what, work, finish))
    }
}

/// Calls the system's resolver, and waits for it.
fn look_up(host: &str) -> Result<SocketAddr, String> {
    let found = (host, 0).to_socket_addrs().map_err(|error| format!("{host:?} is unknown: {error}"))?;
    // IPv4 first: names such as localhost often have an IPv6 address even where IPv6 is off.
    found.min_by_key(SocketAddr::is_ipv6).ok_or_else(|| format!("{host:?} has no address"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn unknown_names_are_looked_up_once() {
        let found: SocketAddr = "10.0.0.1:0".parse().unwrap();
        let mut names = Names::known(Found::from([("known".to_owned(), Ok(found))]));
        assert_eq!(names.find("bind", "known"), Ok(found));
        assert!(names.look_up_job(|_| ()).is_none());
        for (setting, host) in [("bind", "a"), ("bind", "b"), ("admin-bind", "a"), ("bind", "a")] {
            assert_eq!(names.find(setting, host), Err(format!("{host:?} is not looked up yet")));
        }
        let job = names.look_up_job(|_| ()).unwrap();
        let asked =
            r#"admin-bind: the address of \"a\", bind: the address of \"a\", bind: the address of \"b\""#;
        assert!(format!("{job:?}").contains(asked), "{job:?}");
    }

    #[test]
    fn lookups_extend_the_cache() {
        let kept = Rc::new(RefCell::new(Found::new()));
        let mut names = Names::known(Found::from([("old".to_owned(), Err("gone".to_owned()))]));
        let _ = names.find("bind", "127.0.0.9");
        let job = |kept: &Rc<RefCell<Found>>| {
            let kept = kept.clone();
            names.look_up_job(move |found| *kept.borrow_mut() = found).unwrap()
        };
        let answer = job(&kept).run();
        assert_eq!(
            job(&kept).finish(&answer[..answer.len() - 1]).unwrap_err(),
            "bind: the address of \"127.0.0.9\": the process that looked it up has died"
        );
        assert!(kept.borrow().is_empty());
        job(&kept).finish(&answer).unwrap();
        let mut names = Names::known(kept.take());
        assert_eq!(names.find("bind", "127.0.0.9"), Ok("127.0.0.9:0".parse().unwrap()));
        assert_eq!(names.find("bind", "old"), Err("gone".to_owned()));
    }
}
