//! Listeners: bound before the first fork or in a reload, ended once (D3).
//!
//! TCP sockets get `SO_REUSEADDR`, so that a restart does not wait for old connections to be forgotten. An IPv6
//! address means IPv6 and nothing else, except that `[::]` serves IPv4 clients too, whatever the system's
//! `bindv6only` says (ipv6(7)). A unix socket's mode comes from the umask, and it is given to who workers run as, before
//! anyone can connect; a file that a dead server left behind is replaced, one that somebody listens on never is. All are
//! non-blocking and closed on exec.

use std::fs::{self, File};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::unistd::{Gid, Uid};
use remuda_core::worker::{Bound, Listener, Ownership};
use rustix::fs::{AtFlags, CWD, FlockOperation, chownat, flock};
use rustix::io::{Errno, FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getsockname, listen,
    shutdown, socket_with, sockopt,
};
use thiserror::Error;
use tracing::warn;

use crate::{Bind, sys};

#[path = "listener/per_slot.rs"]
pub(crate) mod slots;

/// Who a unix socket is given to; none: whoever made it.
pub(crate) type Owner = (Option<Uid>, Option<Gid>);

/// The listeners of a server, of all its generations. They stay open when this is dropped only in so far as children hold
/// them.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    held: Vec<Held>,
    /// Files of listeners that were given up while another arbiter had them, too.
    left: Vec<(PathBuf, Identity)>,
    /// What another arbiter shares with this one, until this one has chosen.
    heirlooms: Vec<Heirloom>,
}

/// Device and inode of a file.
pub(crate) type Identity = (u64, u64);

/// A listener that another arbiter shares with this one.
#[derive(Debug)]
pub(crate) struct Heirloom {
    pub(crate) socket: OwnedFd,
    pub(crate) file: Option<Identity>,
}

#[derive(Debug)]
struct Held {
    listener: Listener,
    /// As the settings say it.
    bind: Bind,
    /// Device and inode of the socket file that was made, so that no other is ever unlinked.
    file: Option<Identity>,
}

/// What a generation of workers listens on: numbers of [`Listeners`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Chosen {
    /// All of it, in the order of the settings.
    pub(crate) all: Vec<u16>,
    /// What was bound for it.
    pub(crate) new: Vec<u16>,
}

/// Why the server cannot listen where it was told to.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// There is no address.
    #[error("no address to listen on; name at least one")]
    Nowhere,
    /// One address was named twice.
    #[error("cannot listen on {bind} twice; name it once")]
    Twice {
        /// Where.
        bind: Bind,
    },
    /// Another address of this server includes it, or is included.
    #[error("cannot listen on {bind}: this server listens on {other} already, and the two overlap")]
    Overlap {
        /// Where.
        bind: Bind,
        /// The address that was bound before.
        other: Bound,
    },
    /// An address that a reload asks for overlaps one that is held, and both cannot be at once.
    #[error(
        "cannot listen on {bind} while this server listens on {other}, and the two overlap; that needs upgrade"
    )]
    NeedsUpgrade {
        /// Where.
        bind: Bind,
        /// The address that is held.
        other: Bound,
    },
    /// A descriptor can be given to a program when it is started, and not later.
    #[error("cannot listen on {bind}, which the server was not started with; that needs a new start")]
    NeedsStart {
        /// Where.
        bind: Bind,
    },
    /// Another program is there.
    #[error("cannot listen on {bind}: address already in use; another program listens there")]
    InUse {
        /// Where.
        bind: Bind,
    },
    /// The path names a file that is no socket, and is not ours to remove.
    #[error("cannot listen on {bind}: the file exists and is not a socket; remove it or choose another path")]
    NotASocket {
        /// Where.
        bind: Bind,
    },
    /// A path is empty. The kernel would choose a name that no client knows (unix(7), autobind).
    #[error("cannot listen on a unix socket without a path; write unix:PATH")]
    NoPath,
    /// A path does not fit a socket address (unix(7)).
    #[error("cannot listen on {bind}: the path is {len} bytes, limit {PATH_MAX}")]
    PathTooLong {
        /// Where.
        bind: Bind,
        /// Its length in bytes.
        len: usize,
    },
    /// No service manager passed on such a listener.
    #[error(
        "cannot listen on {bind}: the service manager passed on no such listener; it passed on {}",
        list(passed)
    )]
    NotPassed {
        /// Where.
        bind: Bind,
        /// The names of those that it did pass on.
        passed: Vec<String>,
    },
    /// The descriptor is no listening stream socket.
    #[error("cannot listen on {bind}: {problem}; pass a bound and listening TCP or unix socket")]
    BadDescriptor {
        /// Where.
        bind: Bind,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The system refused for another reason.
    #[error("cannot listen on {bind}: {}{}", io::Error::from_raw_os_error(*errno), hint(bind, *errno))]
    System {
        /// Where.
        bind: Bind,
        /// Its reason (errno(3)).
        errno: i32,
    },
}

/// The longest path of a unix socket, in bytes, without the final zero.
const PATH_MAX: usize = 107;

/// For how long nothing has come from a peer when it is asked for the first time, and how often that is repeated: a peer that
/// never answers is given up after two minutes.
const PROBED_AFTER: Duration = Duration::from_secs(60);
const PROBED_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 6;

impl Listeners {
    /// Keeps those of `binds` that are held and binds the others, or none: on an error everything is as it was. Unix
    /// sockets are given to `owner`. What another arbiter shares is kept until [`settle`](Self::settle).
    pub(crate) fn choose(&mut self, binds: &[Bind], backlog: u32, owner: Owner) -> Result<Chosen, BindError> {
        let mut chosen = Chosen::default();
        match self.choose_all(binds, length(backlog), owner, &mut chosen) {
            Ok(()) => Ok(chosen),
            Err(error) => {
                self.drop_new(&chosen);
                Err(error)
            }
        }
    }

    /// Leaves what was not chosen of another arbiter's listeners to that.
    pub(crate) fn settle(&mut self) {
        self.heirlooms.clear();
    }

    /// One listener that no generation chooses, perhaps from `heirlooms`.
    pub(crate) fn bind(
        bind: &Bind,
        backlog: u32,
        owner: Owner,
        heirlooms: &mut Vec<Heirloom>,
    ) -> Result<Self, BindError> {
        let mut bound = Self::among(mem::take(heirlooms));
        let mut chosen = Chosen::default();
        bound.choose_all(std::slice::from_ref(bind), length(backlog), owner, &mut chosen)?;
        *heirlooms = mem::take(&mut bound.heirlooms);
        Ok(bound)
    }

    /// Ends what was bound for a generation that is not to be.
    pub(crate) fn drop_new(&mut self, chosen: &Chosen) {
        self.release_if(|held| chosen.new.contains(&held.listener.index)).iter().for_each(end);
    }

    /// Lets the kernel queue so many connections on each listener of its own, from now on (listen(2)).
    pub(crate) fn listen_again(&self, backlog: u32) {
        let own = self.held.iter().filter(|held| held.listener.ownership != Ownership::Inherited);
        for Held { listener, .. } in own {
            lengthen(listener, backlog);
        }
    }

    /// None yet, for an arbiter that may choose among `heirlooms`.
    pub(crate) fn among(heirlooms: Vec<Heirloom>) -> Self {
        Self { heirlooms, ..Self::default() }
    }

    /// What another arbiter would need to have, too: listeners of this server's own with their files, and `true`, and those
    /// that this one got itself.
    pub(crate) fn to_pass_on(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Option<Identity>, bool)> {
        let own = |held: &Held| held.listener.ownership != Ownership::Inherited;
        self.held.iter().map(move |held| (held.listener.as_fd(), held.file, own(held)))
    }

    /// From now on another arbiter has them, too.
    pub(crate) fn share(&mut self) {
        share(self.iter_mut());
    }

    /// The descriptors of those that are shared.
    pub(crate) fn shared(&self) -> Vec<RawFd> {
        shared(self.iter())
    }

    /// The other arbiter has kept these `shared` ones alone.
    pub(crate) fn unshare_others(&mut self, shared: &[RawFd]) {
        unshare_others(self.iter_mut(), shared);
    }

    /// The other arbiter is gone. Files of listeners that both have given up are removed.
    pub(crate) fn reclaim(&mut self) {
        self.unshare_others(&[]);
        self.left.drain(..).for_each(|(path, file)| unlink(&path, Some(file)));
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Listener> {
        self.held.iter_mut().map(|held| &mut held.listener)
    }

    /// Accepts nothing more (D3): ends the sockets that are this server's own, with all copies of them that
    /// workers hold, and removes their files; closes the others.
    pub(crate) fn end(&mut self) {
        self.release().iter().for_each(end);
    }

    /// Gives up all listeners. The others are closed; those that are this server's own are for the caller to
    /// [`end`], and their files are removed.
    pub(crate) fn release(&mut self) -> Vec<Listener> {
        self.release_if(|_| true)
    }

    /// The same for those that are not `kept`.
    pub(crate) fn release_others(&mut self, kept: &[u16]) -> Vec<Listener> {
        self.release_if(|held| !kept.contains(&held.listener.index))
    }

    /// Those of TCP that this server has bound, which can be given company (`SO_REUSEPORT`).
    pub(crate) fn tcp(&self) -> impl Iterator<Item = &Listener> {
        let listeners = self.held.iter().map(|held| &held.listener);
        listeners.filter(|listener| {
            matches!(listener.bound, Bound::Inet(_)) && listener.ownership != Ownership::Inherited
        })
    }

    /// The listeners for a worker, in the worker.
    pub(crate) fn into_chosen(self, chosen: &Chosen) -> Vec<Listener> {
        let all = self.held.into_iter().map(|held| held.listener);
        all.filter(|listener| chosen.all.contains(&listener.index)).collect()
    }

    /// What a generation listens on, as clients would write it: `http://127.0.0.1:8000, unix:/run/app.sock`.
    pub(crate) fn describe(&self, chosen: &Chosen) -> String {
        let bound = chosen.all.iter().filter_map(|index| Some(self.held(*index)?.listener.bound.to_string()));
        bound.collect::<Vec<_>>().join(", ")
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

    /// The listeners.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.held.iter().map(|held| &held.listener)
    }

    /// All of them, in a child.
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
        let listener = Listener::new(index, socket, bound, ownership);
        self.held.push(Held { listener, bind: bind.clone(), file });
        index
    }

    fn choose_all(
        &mut self,
        binds: &[Bind],
        backlog: i32,
        owner: Owner,
        chosen: &mut Chosen,
    ) -> Result<(), BindError> {
        if binds.is_empty() {
            return Err(BindError::Nowhere);
        }
        let is_start = self.held.is_empty();
        for (place, bind) in binds.iter().enumerate() {
            if binds[..place].contains(bind) && !bind.is_any_port() {
                return Err(BindError::Twice { bind: bind.clone() });
            }
            let kept =
                self.held.iter().find(|held| held.is_at(bind) && !chosen.all.contains(&held.listener.index));
            if let Some(held) = kept {
                chosen.all.push(held.listener.index);
                continue;
            }
            if let Some((Heirloom { socket, file }, bound)) = take(&mut self.heirlooms, bind) {
                let _ = listen(&socket, backlog); // it listens, with its old length at the least
                chosen.all.push(self.hold(socket, bound, Ownership::Shared, bind, file));
                continue;
            }
            if !is_start && matches!(bind, Bind::Fd(_)) {
                return Err(BindError::NeedsStart { bind: bind.clone() });
            }
            let (socket, bound, ownership) = self.open(bind, backlog, owner, chosen)?;
            let file = match (&bound, ownership) {
                (Bound::Unix(path), Ownership::Sole) => identity(path),
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
        chosen: &Chosen,
    ) -> Result<(OwnedFd, Bound, Ownership), BindError> {
        match bind {
            Bind::Inet(addr) => match inet(*addr, backlog, false) {
                Ok((socket, addr)) => Ok((socket, Bound::Inet(addr), Ownership::Sole)),
                Err(Errno::ADDRINUSE) => match self.beside_heirlooms(*addr, backlog) {
                    Some(socket) => Ok((socket, Bound::Inet(*addr), Ownership::Sole)),
                    None => Err(self.in_use(bind, *addr, chosen)),
                },
                Err(errno) => Err(system(bind, errno)),
            },
            Bind::Unix(path) => {
                Ok((unix(bind, path, backlog, owner)?, Bound::Unix(path.clone()), Ownership::Sole))
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

    /// A listener at an address that overlaps some which only another arbiter keeps: all of them have to allow that
    /// (socket(7), `SO_REUSEPORT`) while it is bound, and no longer, or another program might join them.
    fn beside_heirlooms(&self, addr: SocketAddr, backlog: i32) -> Option<OwnedFd> {
        let overlaps = |heirloom: &&Heirloom| matches!(examine(heirloom.socket.as_fd()), Ok(Bound::Inet(at)) if overlap(at, addr));
        let others: Vec<_> =
            self.heirlooms.iter().filter(overlaps).map(|heirloom| &heirloom.socket).collect();
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

    fn in_use(&self, bind: &Bind, addr: SocketAddr, chosen: &Chosen) -> BindError {
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

/// From now on another arbiter has these, too.
fn share<'a>(listeners: impl Iterator<Item = &'a mut Listener>) {
    for listener in listeners.filter(|listener| listener.ownership == Ownership::Sole) {
        listener.ownership = Ownership::Shared;
    }
}

/// The descriptors of those that are shared.
fn shared<'a>(listeners: impl Iterator<Item = &'a Listener>) -> Vec<RawFd> {
    let shared = listeners.filter(|listener| listener.ownership == Ownership::Shared);
    shared.map(|listener| listener.as_fd().as_raw_fd()).collect()
}

/// The other arbiter has kept these `shared` ones alone.
fn unshare_others<'a>(listeners: impl Iterator<Item = &'a mut Listener>, shared: &[RawFd]) {
    let others = listeners.filter(|listener| !shared.contains(&listener.as_fd().as_raw_fd()));
    for listener in others.filter(|listener| listener.ownership == Ownership::Shared) {
        listener.ownership = Ownership::Sole;
    }
}

/// Makes `listener` refuse connections, with all copies of it that workers hold. A TCP socket's queue is reset, a unix
/// socket's can still be accepted.
pub(crate) fn end(listener: &Listener) {
    let _ = shutdown(listener, Shutdown::Both); // fails only where nothing listens any more
}

impl Held {
    /// Whether it is what the settings mean by `bind`.
    fn is_at(&self, bind: &Bind) -> bool {
        let same_address = matches!((&self.listener.bound, bind), (Bound::Inet(a), Bind::Inet(b)) if a == b);
        self.bind == *bind || same_address && self.listener.ownership != Ownership::Inherited
    }
}

/// Lets the kernel queue so many connections on `listener` from now on.
fn lengthen(listener: &Listener, backlog: u32) {
    if let Err(error) = listen(listener, length(backlog)) {
        warn!("the backlog of {} stays as it is: {error}", listener.bound);
    }
}

/// A length of backlog as listen(2) takes it.
fn length(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

/// The heirloom that is bound as `bind` says. Where any port will do, that of the other arbiter does.
fn take(heirlooms: &mut Vec<Heirloom>, bind: &Bind) -> Option<(Heirloom, Bound)> {
    let is_it = |bound: &Bound| match (bound, bind) {
        (Bound::Inet(held), Bind::Inet(addr)) => held == addr || bind.is_any_port() && held.ip() == addr.ip(),
        (Bound::Unix(held), Bind::Unix(path)) => held == path,
        _ => false,
    };
    let found = heirlooms.iter().enumerate().find_map(|(place, heirloom)| {
        let bound = examine(heirloom.socket.as_fd()).ok().filter(is_it)?;
        Some((place, bound))
    });
    found.map(|(place, bound)| (heirlooms.remove(place), bound))
}

fn unlink(path: &Path, file: Option<Identity>) {
    if file.is_some() && file == identity(path) {
        let _ = fs::remove_file(path);
    }
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

/// Has the kernel ask whether a peer is still there that has long been silent, so that one whose machine or network has failed
/// does not wait for a handler for ever. Neither does one that has closed its socket, of which a FIN does not tell: its
/// kernel answers with a reset. Accepted sockets inherit this (tcp(7)); an inherited listener is as its owner wants it.
fn probe_silent_peers(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_keepidle(socket, PROBED_AFTER)?;
    sockopt::set_tcp_keepintvl(socket, PROBED_EVERY)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    sockopt::set_socket_keepalive(socket, true)
}

/// Whether two listeners cannot be: the same, or one is all addresses. `[::]` is those of IPv4 too.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let includes = |wide: SocketAddr, narrow: SocketAddr| {
        wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
    };
    a.port() == b.port() && (a.ip() == b.ip() || includes(a, b) || includes(b, a))
}

fn unix(at: &Bind, path: &Path, backlog: i32, owner: Owner) -> Result<OwnedFd, BindError> {
    let refused = |errno| system(at, errno);
    match path.as_os_str().len() {
        0 => return Err(BindError::NoPath),
        len if len > PATH_MAX => return Err(BindError::PathTooLong { bind: at.clone(), len }),
        _ => {}
    }
    let addr = SocketAddrUnix::new(path).map_err(refused)?;
    let socket = stream(AddressFamily::UNIX).map_err(refused)?;
    let _alone = alone_in(path);
    match bind(&socket, &addr) {
        Err(Errno::ADDRINUSE) => {
            remove_stale(at, path, &addr)?;
            bind(&socket, &addr).map_err(refused)?;
        }
        result => result.map_err(refused)?,
    }
    give(path, owner).and_then(|()| listen(&socket, backlog)).map_err(|errno| {
        let _ = fs::remove_file(path);
        system(at, errno)
    })?;
    Ok(socket)
}

/// A lock on the directory of a socket (flock(2)), without which two servers that start at once could each take the other's
/// file for one that was left behind, between its bind and its listen. None where it cannot be had: it is not worth
/// failing for.
fn alone_in(path: &Path) -> Option<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or_else(|| Path::new("."))).ok()?;
    for _ in 0..100 {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(Duration::from_millis(10)),
            result => return result.ok().map(|()| directory),
        }
    }
    None
}

fn give(path: &Path, (uid, gid): Owner) -> Result<(), Errno> {
    let [uid, gid] = [uid.map(Uid::as_raw), gid.map(Gid::as_raw)];
    if (uid, gid) == (None, None) {
        return Ok(());
    }
    let (uid, gid) = (uid.map(rustix::fs::Uid::from_raw), gid.map(rustix::fs::Gid::from_raw));
    chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

/// Removes the socket file that a dead server left behind; a connect tells dead from alive.
fn remove_stale(at: &Bind, path: &Path, addr: &SocketAddrUnix) -> Result<(), BindError> {
    let refused = |errno| system(at, errno);
    if fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
        return Err(BindError::NotASocket { bind: at.clone() });
    }
    let probe = stream(AddressFamily::UNIX).map_err(refused)?;
    match connect(&probe, addr) {
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::InUse { bind: at.clone() }), // AGAIN: its backlog is full
        Err(Errno::CONNREFUSED) => {
            fs::remove_file(path).map_err(|error| refused(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
        }
        Err(Errno::NOENT) => Ok(()), // it went away by itself
        Err(errno) => Err(refused(errno)),
    }
}

/// A listener that somebody else bound. What it is bound to is asked of the kernel.
fn inherited(at: &Bind, fd: i32) -> Result<(OwnedFd, Bound), BindError> {
    let mut bound = None;
    let result = sys::adopt(fd, |socket| {
        bound = Some(examine(socket)?);
        Ok::<_, Problem>(())
    });
    let socket = result.map_err(|Problem(problem)| BindError::BadDescriptor { bind: at.clone(), problem })?;
    Ok((socket, bound.expect("examined before it was adopted")))
}

fn examine(socket: BorrowedFd<'_>) -> Result<Bound, Problem> {
    match sockopt::socket_type(socket) {
        Ok(SocketType::STREAM) => {}
        Ok(_) => return Err(Problem("it is a socket, but not a stream")),
        Err(_) => return Err(Problem("it is not a socket")),
    }
    if !sockopt::socket_acceptconn(socket).is_ok_and(|listens| listens) {
        return Err(Problem("it is a socket, but does not listen"));
    }
    let strange = |_| Problem("it is neither a TCP nor a unix socket");
    let name = getsockname(socket).map_err(strange)?;
    let bound = match SocketAddr::try_from(name.clone()) {
        Ok(addr) => Bound::Inet(addr),
        Err(_) => Bound::Unix(unix_name(&SocketAddrUnix::try_from(name).map_err(strange)?)),
    };
    let unusable = |_| Problem("it cannot be made non-blocking");
    ioctl_fionbio(socket, true).map_err(unusable)?;
    fcntl_setfd(socket, FdFlags::CLOEXEC).map_err(unusable)?;
    Ok(bound)
}

/// A socket's path; an abstract name as `@name`, which is how tools write it.
fn unix_name(addr: &SocketAddrUnix) -> PathBuf {
    use std::ffi::OsStr;
    match (addr.path_bytes(), addr.abstract_name()) {
        (Some(path), _) => OsStr::from_bytes(path).into(),
        (None, name) => format!("@{}", String::from_utf8_lossy(name.unwrap_or_default())).into(),
    }
}

/// What is wrong with an inherited descriptor.
struct Problem(&'static str);

impl From<io::Error> for Problem {
    fn from(_: io::Error) -> Self {
        Self("nothing is open there")
    }
}

fn stream(family: AddressFamily) -> Result<OwnedFd, Errno> {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

fn identity(path: &Path) -> Option<Identity> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn system(bind: &Bind, errno: Errno) -> BindError {
    BindError::System { bind: bind.clone(), errno: errno.raw_os_error() }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none to this process".to_owned() } else { names.join(", ") }
}

/// What to do about the errors that people meet.
fn hint(bind: &Bind, errno: i32) -> &'static str {
    match (bind, Errno::from_raw_os_error(errno)) {
        (Bind::Inet(_), Errno::ACCESS) => "; ports below 1024 need a privilege (CAP_NET_BIND_SERVICE)",
        (Bind::Inet(_), Errno::ADDRNOTAVAIL) => "; no interface of this machine has this address",
        (Bind::Unix(_), Errno::NOENT) => "; make the directory first",
        (Bind::Unix(_), Errno::PERM) => "; only root may give it to another user or group",
        (Bind::Unix(_), Errno::ACCESS) => "; this user may not use the directory or the file in it",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
