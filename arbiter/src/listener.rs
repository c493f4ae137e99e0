//! Listeners: bound before the first fork or in a reload, ended once (D3).
//!
//! TCP sockets get `SO_REUSEADDR`, so that a restart need not wait for old connections to expire.
//! An IPv6 address means IPv6 only, except that `[::]` serves IPv4 clients too, whatever the
//! system's `bindv6only` is (ipv6(7)). All sockets are non-blocking and closed on exec.
//! [`unix`](mod@unix) handles the files of unix sockets, [`descriptor`] inherited listeners,
//! [`per_slot`] listeners of single slots.

use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::{Gid, Uid};
use remuda_core::worker::{Bound, Gates, Listener, Ownership};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, bind, getsockname, listen, shutdown, socket_with,
    sockopt,
};
use tracing::{info, warn};

use self::descriptor::{examine, inherited};
pub use self::error::BindError;
use self::error::system;
use self::unix::{abstract_name, unix, unlink};
use crate::config::Bind;
use crate::file::{Identity, Lost, identity};

mod descriptor;
mod error;
pub(crate) mod per_slot;
mod unix;

/// Owner of a unix socket's file. None: the process that created it.
pub(crate) type Owner = (Option<Uid>, Option<Gid>);

/// The listeners of a server, of all generations. Dropping this closes them, except for copies in
/// children.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    held: Vec<Held>,
    /// Files of listeners released while another arbiter shared them.
    left: Vec<(PathBuf, Identity)>,
    /// Listeners inherited from another arbiter and not chosen yet.
    inherited: Vec<InheritedListener>,
    /// Gates for new listeners. None: a socket filter is their only possible gate.
    gates: Option<Gates>,
}

/// A listener inherited from another arbiter.
#[derive(Debug)]
pub(crate) struct InheritedListener {
    pub(crate) socket: OwnedFd,
    pub(crate) file: Option<Identity>,
}

#[derive(Debug)]
struct Held {
    listener: Listener,
    /// The address in the settings.
    bind: Bind,
    /// Device and inode of the socket file, so that no other file is unlinked, and its loss is
    /// detected.
    file: Option<Identity>,
}

/// The listeners of a generation, as indices of [`Listeners`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ListenerSet {
    /// All listeners, in the order of the settings.
    pub(crate) all: Vec<u16>,
    /// Listeners that were bound for this generation.
    pub(crate) new: Vec<u16>,
}

/// TCP keep-alive: idle time before the first probe, interval and number of probes. A peer that
/// never answers is given up after two minutes.
const PROBED_AFTER: Duration = Duration::from_secs(60);
const PROBED_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 6;

impl Listeners {
    /// Chooses the listeners of a generation: existing ones are kept, the others of `binds` are
    /// bound. On an error nothing is changed. A unix socket whose file was removed or replaced is
    /// bound again. Unix sockets are given to `owner`. Inherited listeners stay available until
    /// [`settle`](Self::settle).
    pub(crate) fn choose(
        &mut self,
        binds: &[Bind],
        backlog: u32,
        owner: Owner,
    ) -> Result<ListenerSet, BindError> {
        let is_start = self.held.is_empty();
        let mut chosen = ListenerSet::default();
        match self.choose_all(binds, length(backlog), owner, is_start, &mut chosen) {
            Ok(()) => Ok(chosen),
            Err(error) => {
                self.drop_new(&chosen);
                Err(error)
            }
        }
    }

    /// Closes the inherited listeners that were not chosen.
    pub(crate) fn settle(&mut self) {
        self.inherited.clear();
    }

    /// Binds one listener outside of generations. At a start, it may be taken from the `inherited`
    /// ones of an old arbiter. None: this is a reload.
    pub(crate) fn bind(
        bind: &Bind,
        backlog: u32,
        owner: Owner,
        inherited: Option<&mut Vec<InheritedListener>>,
    ) -> Result<Self, BindError> {
        let is_start = inherited.is_some();
        let mut none = Vec::new();
        let inherited = inherited.unwrap_or(&mut none);
        let mut bound = Self::among(mem::take(inherited));
        let mut chosen = ListenerSet::default();
        bound.choose_all(std::slice::from_ref(bind), length(backlog), owner, is_start, &mut chosen)?;
        *inherited = mem::take(&mut bound.inherited);
        Ok(bound)
    }

    /// Ends the listeners that were bound for a generation that has failed.
    pub(crate) fn drop_new(&mut self, chosen: &ListenerSet) {
        self.release_if(|held| chosen.new.contains(&held.listener.index)).iter().for_each(end);
    }

    /// Changes the backlog of the server's own listeners (listen(2)).
    pub(crate) fn listen_again(&self, backlog: u32) {
        let own = self.held.iter().filter(|held| held.listener.ownership != Ownership::Inherited);
        for Held { listener, .. } in own {
            lengthen(listener, backlog);
        }
    }

    /// Creates an empty set for an arbiter with `inherited` listeners.
    pub(crate) fn among(inherited: Vec<InheritedListener>) -> Self {
        Self { inherited, ..Self::default() }
    }

    /// Adds gates that can be shut for all processes at once.
    pub(crate) fn with_gates(self, gates: Option<Gates>) -> Self {
        Self { gates, ..self }
    }

    /// Creates a listener, with the gates of this set.
    fn listener(&self, index: u16, socket: OwnedFd, bound: Bound, ownership: Ownership) -> Listener {
        let listener = Listener::new(index, socket, bound, ownership);
        match self.gates {
            Some(gates) => listener.with_gates(gates),
            None => listener,
        }
    }

    /// The listeners for a new arbiter: descriptor, file, and whether the listener is the server's
    /// own rather than inherited from outside.
    pub(crate) fn to_pass_on(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Option<Identity>, bool)> {
        let own = |held: &Held| held.listener.ownership != Ownership::Inherited;
        self.held.iter().map(move |held| (held.listener.as_fd(), held.file, own(held)))
    }

    /// Marks all own listeners as shared with another arbiter.
    pub(crate) fn share(&mut self) {
        share(self.iter_mut());
    }

    /// The descriptors of shared listeners.
    pub(crate) fn shared(&self) -> Vec<RawFd> {
        shared(self.iter())
    }

    /// Marks listeners as sole again, except `shared`, which the other arbiter has kept.
    pub(crate) fn unshare_others(&mut self, shared: &[RawFd]) {
        unshare_others(self.iter_mut(), shared);
    }

    /// Marks all listeners as sole after the end of the other arbiter, and removes the files of
    /// those that both have released.
    pub(crate) fn reclaim(&mut self) {
        self.unshare_others(&[]);
        self.left.drain(..).for_each(|(path, file)| unlink(&path, Some(file)));
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Listener> {
        self.held.iter_mut().map(|held| &mut held.listener)
    }

    /// Stops accepting (D3): ends the server's own sockets, including all copies in workers, and
    /// removes their files. The other sockets are closed.
    pub(crate) fn end(&mut self) {
        self.release().iter().for_each(end);
    }

    /// Releases all listeners. The server's own are returned, for the caller to [`end`], and their
    /// files are removed. The others are closed.
    pub(crate) fn release(&mut self) -> Vec<Listener> {
        self.release_if(|_| true)
    }

    /// Releases the listeners that are not `kept`, likewise.
    pub(crate) fn release_others(&mut self, kept: &[u16]) -> Vec<Listener> {
        self.release_if(|held| !kept.contains(&held.listener.index))
    }

    /// The TCP listeners that this server bound, which may get further ones beside them
    /// (`SO_REUSEPORT`).
    pub(crate) fn tcp(&self) -> impl Iterator<Item = &Listener> {
        let listeners = self.held.iter().map(|held| &held.listener);
        listeners.filter(|listener| {
            matches!(listener.bound, Bound::Inet(_)) && listener.ownership != Ownership::Inherited
        })
    }

    /// Returns the listeners of a worker. Called in the worker.
    pub(crate) fn into_set(self, chosen: &ListenerSet) -> Vec<Listener> {
        let all = self.held.into_iter().map(|held| held.listener);
        all.filter(|listener| chosen.all.contains(&listener.index)).collect()
    }

    /// Lists the addresses of a generation as clients write them: `http://127.0.0.1:8000,
    /// unix:/run/app.sock`.
    pub(crate) fn describe(&self, chosen: &ListenerSet) -> String {
        let bound = chosen.all.iter().filter_map(|index| Some(self.held(*index)?.listener.bound.to_string()));
        bound.collect::<Vec<_>>().join(", ")
    }

    /// The unix sockets whose file was removed or replaced, only those in `chosen` if given.
    pub(crate) fn lost(&self, chosen: Option<&ListenerSet>) -> impl Iterator<Item = (&Bound, Lost)> {
        let counts =
            move |held: &&Held| chosen.is_none_or(|chosen| chosen.all.contains(&held.listener.index));
        self.held.iter().filter(counts).filter_map(|held| Some((&held.listener.bound, held.lost()?)))
    }

    fn release_if(&mut self, is_over: impl Fn(&Held) -> bool) -> Vec<Listener> {
        let mut own = Vec::new();
        for Held { listener, file, .. } in self.held.extract_if(.., |held| is_over(held)) {
            match (&listener.bound, listener.ownership, file) {
                (Bound::Unix(path), Ownership::Sole, file) => unlink(path, file),
                (Bound::Unix(path), Ownership::Shared, Some(file)) => self.left.push((path.clone(), file)),
                _ => {}
            }
            if listener.ownership == Ownership::Sole {
                own.push(listener);
            }
        }
        own
    }

    /// All listeners.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.held.iter().map(|held| &held.listener)
    }

    /// Returns all listeners. Called in a child.
    pub(crate) fn into_vec(self) -> Vec<Listener> {
        self.held.into_iter().map(|held| held.listener).collect()
    }

    fn held(&self, index: u16) -> Option<&Held> {
        self.held.iter().find(|held| held.listener.index == index)
    }

    fn hold(
        &mut self,
        socket: OwnedFd,
        bound: Bound,
        ownership: Ownership,
        bind: &Bind,
        file: Option<Identity>,
    ) -> u16 {
        let is_free = |index: &u16| self.held(*index).is_none();
        let index = (0..=u16::MAX).find(is_free).expect("there are fewer listeners than numbers");
        let listener = self.listener(index, socket, bound, ownership);
        self.held.push(Held { listener, bind: bind.clone(), file });
        index
    }

    fn choose_all(
        &mut self,
        binds: &[Bind],
        backlog: i32,
        owner: Owner,
        is_start: bool,
        chosen: &mut ListenerSet,
    ) -> Result<(), BindError> {
        if binds.is_empty() {
            return Err(BindError::Nowhere);
        }
        for (place, bind) in binds.iter().enumerate() {
            if binds[..place].contains(bind) && !bind.is_any_port() {
                return Err(BindError::Twice { bind: bind.clone() });
            }
            let mut here = self
                .held
                .iter()
                .filter(|held| held.is_at(bind) && !chosen.all.contains(&held.listener.index));
            // There may be two: one whose file was lost and which drains, and one that an earlier
            // reload bound in its place.
            let last = here.clone().next_back();
            let kept =
                here.find(|held| held.lost().is_none()).or_else(|| last.filter(|held| held.is_inherited()));
            if let Some(held) = kept {
                if let Some(lost) = held.lost() {
                    warn!(
                        "{}: {lost}; only the program that passed the listener on can create it again",
                        held.listener.bound
                    );
                }
                chosen.all.push(held.listener.index);
                continue;
            }
            if let Some(lost) = last.and_then(Held::lost) {
                info!("{bind}: {lost}; binding it again");
            }
            if let Some((InheritedListener { socket, file }, bound)) = take(&mut self.inherited, bind) {
                let _ = listen(&socket, backlog); // a failure leaves the old backlog
                chosen.all.push(self.hold(socket, bound, Ownership::Shared, bind, file));
                continue;
            }
            // A process inherits descriptors only at its start.
            if !is_start && matches!(bind, Bind::Fd(_)) {
                return Err(BindError::NeedsStart { bind: bind.clone() });
            }
            let (socket, bound, ownership) = self.open(bind, backlog, owner, is_start, chosen)?;
            let file = match &bound {
                Bound::Unix(path) if abstract_name(path).is_none() => identity(path),
                _ => None,
            };
            let index = self.hold(socket, bound, ownership, bind, file);
            chosen.all.push(index);
            chosen.new.push(index);
        }
        Ok(())
    }

    fn open(
        &self,
        bind: &Bind,
        backlog: i32,
        owner: Owner,
        is_start: bool,
        chosen: &ListenerSet,
    ) -> Result<(OwnedFd, Bound, Ownership), BindError> {
        match bind {
            Bind::Inet(addr) => match inet(*addr, backlog, false) {
                Ok((socket, addr)) => Ok((socket, Bound::Inet(addr), Ownership::Sole)),
                Err(Errno::ADDRINUSE) => match self.beside_inherited(*addr, backlog) {
                    Some(socket) => Ok((socket, Bound::Inet(*addr), Ownership::Sole)),
                    None => Err(self.in_use(bind, *addr, chosen)),
                },
                Err(errno) => Err(system(bind, errno)),
            },
            Bind::Unix(path) => {
                let socket = unix(bind, path, backlog, owner, is_start)?;
                Ok((socket, Bound::Unix(path.clone()), Ownership::Sole))
            }
            Bind::Fd(fd) => {
                let (socket, bound) = inherited(bind, *fd)?;
                Ok((socket, bound, Ownership::Inherited))
            }
            Bind::Named(_) | Bind::Activated => {
                Err(BindError::NotPassed { bind: bind.clone(), passed: Vec::new() })
            }
        }
    }

    /// Binds at an address that overlaps inherited listeners. All of them have to set
    /// `SO_REUSEPORT` (socket(7)) while it is bound, and only then, or another program could join
    /// them.
    fn beside_inherited(&self, addr: SocketAddr, backlog: i32) -> Option<OwnedFd> {
        let overlaps = |listener: &&InheritedListener| matches!(examine(listener.socket.as_fd()), Ok(Bound::Inet(at)) if overlap(at, addr));
        let others: Vec<_> =
            self.inherited.iter().filter(overlaps).map(|listener| &listener.socket).collect();
        let allow = |allowed| {
            let mut all = others.iter().copied();
            all.try_for_each(|socket| sockopt::set_socket_reuseport(socket, allowed)).ok()
        };
        let before = sockopt::socket_reuseport(others.first()?).ok()?;
        allow(true)?;
        let socket = inet(addr, backlog, true).map(|(socket, _)| socket);
        allow(before)?;
        sockopt::set_socket_reuseport(socket.as_ref().ok()?, false).ok()?;
        socket.ok()
    }

    fn in_use(&self, bind: &Bind, addr: SocketAddr, chosen: &ListenerSet) -> BindError {
        let overlaps = |held: &&Held| matches!(held.listener.bound, Bound::Inet(at) if overlap(at, addr));
        let bind = bind.clone();
        match self.held.iter().find(overlaps).map(|held| &held.listener) {
            Some(other) if chosen.all.contains(&other.index) => {
                BindError::Overlap { bind, other: other.bound.clone() }
            }
            Some(other) => BindError::NeedsUpgrade { bind, other: other.bound.clone() },
            None => BindError::InUse { bind },
        }
    }
}

/// Marks own listeners as shared with another arbiter.
fn share<'a>(listeners: impl Iterator<Item = &'a mut Listener>) {
    for listener in listeners.filter(|listener| listener.ownership == Ownership::Sole) {
        listener.ownership = Ownership::Shared;
    }
}

/// The descriptors of shared listeners.
fn shared<'a>(listeners: impl Iterator<Item = &'a Listener>) -> Vec<RawFd> {
    let shared = listeners.filter(|listener| listener.ownership == Ownership::Shared);
    shared.map(|listener| listener.as_fd().as_raw_fd()).collect()
}

/// Marks listeners as sole again, except `shared`, which the other arbiter has kept.
fn unshare_others<'a>(listeners: impl Iterator<Item = &'a mut Listener>, shared: &[RawFd]) {
    let others = listeners.filter(|listener| !shared.contains(&listener.as_fd().as_raw_fd()));
    for listener in others.filter(|listener| listener.ownership == Ownership::Shared) {
        listener.ownership = Ownership::Sole;
    }
}

/// Makes `listener` and all its copies in workers refuse connections. The queue of a TCP socket is
/// reset, that of a unix socket can still be accepted.
pub(crate) fn end(listener: &Listener) {
    let _ = shutdown(listener, Shutdown::Both); // fails only if the socket does not listen any more
}

impl Held {
    /// Whether this listener is the one for `bind`.
    fn is_at(&self, bind: &Bind) -> bool {
        let same_address = matches!((&self.listener.bound, bind), (Bound::Inet(a), Bind::Inet(b)) if a == b);
        self.bind == *bind || same_address && !self.is_inherited()
    }

    fn is_inherited(&self) -> bool {
        self.listener.ownership == Ownership::Inherited
    }

    /// Whether its file was removed or replaced.
    fn lost(&self) -> Option<Lost> {
        match &self.listener.bound {
            Bound::Unix(path) => Lost::look(path, self.file?),
            Bound::Inet(_) => None,
        }
    }
}

/// Changes the backlog of `listener`.
fn lengthen(listener: &Listener, backlog: u32) {
    if let Err(error) = listen(listener, length(backlog)) {
        warn!("cannot change the backlog of {}: {error}", listener.bound);
    }
}

/// The backlog as listen(2) takes it.
fn length(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

/// Takes the inherited listener for `bind`. For port 0 the other arbiter's port is taken. A unix
/// socket whose file was removed or replaced is not.
fn take(inherited: &mut Vec<InheritedListener>, bind: &Bind) -> Option<(InheritedListener, Bound)> {
    let is_it = |bound: &Bound| match (bound, bind) {
        (Bound::Inet(held), Bind::Inet(addr)) => held == addr || bind.is_any_port() && held.ip() == addr.ip(),
        (Bound::Unix(held), Bind::Unix(path)) => held == path,
        _ => false,
    };
    let found = inherited.iter().enumerate().find_map(|(place, listener)| {
        let bound = examine(listener.socket.as_fd()).ok().filter(is_it)?;
        let lost = match (&bound, listener.file) {
            (Bound::Unix(path), Some(file)) => Lost::look(path, file),
            _ => None,
        };
        if let Some(lost) = lost {
            info!("{bind}: {lost}; binding it again");
        }
        lost.is_none().then_some((place, bound))
    });
    found.map(|(place, bound)| (inherited.remove(place), bound))
}

fn inet(addr: SocketAddr, backlog: i32, joins: bool) -> Result<(OwnedFd, SocketAddr), Errno> {
    let socket = stream(if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, joins)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    probe_silent_peers(&socket)?;
    bind(&socket, &addr)?;
    listen(&socket, backlog)?;
    let addr = getsockname(&socket)?.try_into()?;
    Ok((socket, addr))
}

/// Enables TCP keep-alive, so that a connection ends if the peer's machine or network has failed,
/// even while a handler runs. It also detects a peer that has closed its socket, which a FIN alone
/// does not tell: the peer's kernel answers the probe with a reset. Accepted sockets inherit this
/// (tcp(7)). Listeners from outside keep their options.
fn probe_silent_peers(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_keepidle(socket, PROBED_AFTER)?;
    sockopt::set_tcp_keepintvl(socket, PROBED_EVERY)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    sockopt::set_socket_keepalive(socket, true)
}

/// Whether two addresses exclude each other: they are equal, or one is the wildcard of the other.
/// `[::]` includes IPv4.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let includes = |wide: SocketAddr, narrow: SocketAddr| {
        wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
    };
    a == b || a.port() == b.port() && (includes(a, b) || includes(b, a))
}

fn stream(family: AddressFamily) -> Result<OwnedFd, Errno> {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

#[cfg(test)]
mod tests;
