//! How the loops, threads and timers of the workers come to run, and how their processes end.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;

use remuda_core::conn::Connection;
use remuda_core::handoff::{Origin, Peer};
use remuda_core::order::{Order, Report};
use remuda_core::session;
use remuda_core::shutdown::Phase;
use remuda_core::time::Time;
use remuda_core::worker::leave::Backlog;

use super::observed::Observed;
use super::process::{Boot, Turned};
use super::wire::Socket;
use super::world::{Event, Told, World};

impl World {
    pub(super) fn turn(&mut self, pid: i32) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if now >= process.wakes {
            process.wakes = Time::MAX;
        }
        if now < process.hangs_until {
            let at = process.hangs_until;
            self.wake(pid, at);
            return;
        }
        if !self.boot(pid) {
            return;
        }
        let adopted = self.adopt(pid);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        match process.turn(adopted, &mut self.stacks) {
            Turned::Again(at) => self.wake(pid, at),
            Turned::Exit(status) => self.end(pid, ExitStatus::from_raw(i32::from(status) << 8)),
        }
        self.wake_acceptor();
        self.arm(pid);
    }

    /// A turn is due then, unless one is sooner.
    fn wake(&mut self, pid: i32, at: Time) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if at < process.wakes {
            process.wakes = at;
            let late = Duration::from_micros(self.rng.u64(0..60));
            self.at(at.max(now) + late, Event::Turn(pid));
        }
    }

    /// Goes on with a boot; whether the worker serves.
    fn boot(&mut self, pid: i32) -> bool {
        let now = self.now();
        let process = self.processes.get_mut(&pid).expect("it has a turn");
        match process.boot {
            Boot::Done => true,
            Boot::Ready(at) if now >= at => {
                process.boot = Boot::Done;
                process.ready_at = Some(now);
                self.ground.trace(|| format!("worker   {pid} is ready"));
                self.tell(Told::Report(pid, Report::Ready));
                true
            }
            Boot::Fails(at, status) if now >= at => {
                self.tell(Told::Report(pid, Report::BootFailed { status, message: "as drawn".into() }));
                self.end(pid, ExitStatus::from_raw(i32::from(status) << 8));
                false
            }
            Boot::Ready(at) | Boot::Fails(at, _) => {
                self.wake(pid, at);
                false
            }
            Boot::Hangs => false,
        }
    }

    /// Connections for a worker: from the listener while it accepts, and from the inbox.
    fn adopt(&mut self, pid: i32) -> Vec<(u32, (Observed, Socket))> {
        let now = self.now();
        let process = self.processes.get_mut(&pid).expect("it has a turn");
        let mut taken = Vec::new();
        // What was ordered or signalled before this turn is obeyed in it, before anything is accepted.
        let drains = process.drain().is_some()
            || !process.signals.is_empty()
            || process
                .orders
                .iter()
                .any(|order| matches!(order, Order::Drain { drain, .. } if drain.phase >= Phase::Draining))
            || process.orphaned;
        if !drains && let Some(conn) = self.accept.pop_front() {
            let draw = self.rng.u32(..);
            taken.push((conn, Connection::new(Origin::new(0, Peer::Unix, draw), now)));
        }
        while let Some((conn, record)) = self.inbox.pop_front() {
            taken.push((conn, Connection::resume(record, now)));
            if self.rng.bool() {
                break;
            }
        }
        let over = process.backlog == Backlog::Ended
            || process.orders.iter().any(|order| matches!(order, Order::BacklogEnd));
        if over && self.inbox.is_empty() && process.backlog == Backlog::Ended {
            process.backlog = Backlog::Empty;
        } else if over {
            let again = now + Duration::from_micros(20);
            self.at(again, Event::Turn(pid));
        }
        let process = &self.processes[&pid];
        let (service, env) = (process.service.clone(), process.env.clone());
        let mut adopted = Vec::new();
        for (conn, connection) in taken {
            let client = &mut self.clients[conn as usize];
            client.owner = Some(pid);
            self.ground.trace(|| format!("worker   {pid} takes {conn}"));
            let accepted = connection.view().idle_since;
            let session = session::Session::new(connection, service.clone());
            let machine = Observed::new(session, conn, self.ground.clone(), env.limits.clone(), accepted);
            let socket = Socket { conn, wire: Rc::clone(&client.wire), ground: self.ground.clone() };
            adopted.push((conn, (machine, socket)));
        }
        adopted
    }

    pub(super) fn hand(&mut self, pid: i32, conn: u32) {
        let level = self.clients[conn as usize].wire.borrow().level();
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.resume(conn, level.readable, level.writable, &mut self.stacks) {
            self.soon(Event::Turn(pid));
        }
        self.arm(pid);
    }

    /// Has the kernel's timer and those of the threads go off.
    pub(super) fn arm(&mut self, pid: i32) {
        let now = self.now();
        let Some(process) = self.processes.get(&pid) else { return };
        let (armed, drains) = (process.armed, process.drain().is_some());
        let mut due: Vec<_> =
            process.hands.iter().filter_map(|(conn, hand)| Some((*conn, hand.deadline()?))).collect();
        if drains {
            due.extend(process.hands.keys().map(|conn| (*conn, now)));
        }
        self.fates.due(pid, armed, due).into_iter().for_each(|(at, event)| self.at(at.max(now), event));
    }

    pub(super) fn timer(&mut self, pid: i32) {
        let now = self.now();
        if self.processes.get(&pid).is_some_and(|process| process.armed <= now) {
            self.ground.trace(|| format!("kernel   ends {pid} at its deadline"));
            self.end(pid, ExitStatus::from_raw(6 << 8));
        }
    }

    /// A process is gone.
    pub(super) fn end(&mut self, pid: i32, status: ExitStatus) {
        let Some(process) = self.processes.remove(&pid) else { return };
        self.ground.trace(|| format!("worker   {pid} ends: {status}"));
        for client in &mut self.clients {
            if client.owner == Some(pid) && client.wire.borrow().closed.is_none() {
                client.widowed = true;
                client.wire.borrow_mut().was_over |=
                    process.drain().is_some_and(|drain| drain.is_over(self.ground.now()));
            }
        }
        self.fates.ended(&process, status, &self.ground);
        process.end(&mut self.stacks);
        if self.fates.orphaned.is_some() {
            self.lose_backlog();
        }
        self.wake_acceptor();
        self.tell(Told::Exited(pid, status));
    }

    /// The signal that comes with an order to drain: its handler arms the timer, whatever the loop does.
    pub(super) fn leave_by(&mut self, pid: i32, deadline: Time) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.arm(deadline);
        self.arm(pid);
    }

    pub(super) fn signal(&mut self, pid: i32, signal: i32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.interrupt(signal);
        self.soon(Event::Turn(pid));
        self.arm(pid);
    }
}
