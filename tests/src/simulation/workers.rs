//! Runs the loops, threads and timers of the workers, and ends their processes.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;

use remuda_core::conn::Connection;
use remuda_core::order::{Order, Report};
use remuda_core::peer::{Origin, Peer};
use remuda_core::rescue::Entry;
use remuda_core::session;
use remuda_core::shutdown::Phase;
use remuda_core::time::Time;
use remuda_core::worker::drain::completion::BacklogState;

use super::monitor::ms;
use super::observed::Observed;
use super::process::{Boot, Turned};
use super::wire::Socket;
use super::world::{Event, Input, World};

/// The capacity of a hand-off queue.
const INBOX: usize = 3;

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
        // After a long wait, timers may run one turn before readiness is reported, as in a runtime.
        let late = now - process.alive_at > ms(100) && self.rng.bool();
        let inbox = self.arbiters[process.parent].inbox;
        let room = INBOX.saturating_sub(self.inboxes[inbox].len());
        let turned = process.turn(adopted, late, room, &mut self.stacks);
        let leaving = std::mem::take(&mut process.leaving);
        let (parent, reports_drain) = (process.parent, std::mem::take(&mut process.reports_drain));
        if reports_drain {
            self.notify(parent, Input::Report(pid, Report::Draining));
        }
        if !leaving.is_empty() {
            self.records.count.handoffs += leaving.len() as u64;
            for (conn, record) in leaving {
                self.clients[conn as usize].owner = None;
                self.inboxes[inbox].push_back((conn, record));
            }
            self.wake_inbox(inbox);
        }
        match turned {
            Turned::Again(at) => self.wake(pid, at),
            Turned::Exit(status) => self.end(pid, ExitStatus::from_raw(i32::from(status) << 8)),
        }
        self.wake_acceptor();
        self.arm(pid);
    }

    /// Queues a turn, unless an earlier one is queued.
    fn wake(&mut self, pid: i32, at: Time) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if at < process.wakes {
            process.wakes = at;
            let late = Duration::from_micros(self.rng.u64(0..60));
            self.at(at.max(now) + late, Event::Turn(pid));
        }
    }

    /// Continues a boot. Returns whether the worker serves.
    fn boot(&mut self, pid: i32) -> bool {
        let now = self.now();
        let process = self.processes.get_mut(&pid).expect("it has a turn");
        match process.boot {
            Boot::Done => true,
            Boot::Ready(at) if now >= at => {
                process.boot = Boot::Done;
                process.ready_at = Some(now);
                self.monitor.trace(|| format!("worker   {pid} is ready"));
                let parent = process.parent;
                self.notify(parent, Input::Report(pid, Report::Ready));
                true
            }
            Boot::Fails(at, status) if now >= at => {
                let parent = process.parent;
                self.notify(
                    parent,
                    Input::Report(pid, Report::BootFailed { status, message: "as drawn".into() }),
                );
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
        // Orders and signals that arrived before this turn take effect before anything is accepted.
        let told = process.orders.iter().rev().find_map(|order| match order {
            Order::Drain { drain, .. } if drain.phase >= Phase::Draining => Some(*drain),
            _ => None,
        });
        let drain = told.or_else(|| process.drain());
        let drains = drain.is_some() || !process.signals.is_empty() || process.orphaned;
        if !drains {
            let waits = |id: &&usize| !self.sockets[**id].queue.is_empty();
            let waiting: Vec<_> = process.sockets.iter().filter(waits).copied().collect();
            if let Some(id) = self.rng.choice(waiting) {
                let conn = self.sockets[id].queue.pop_front().expect("it is not empty");
                self.sockets[id].waits_since = Some(now);
                let draw = self.rng.u32(..);
                taken.push((conn, Connection::new(Origin::new(0, Peer::Unix, draw), now)));
            }
        }
        let has_ended =
            process.orders.iter().any(|order| matches!(order, Order::BacklogEnd)) || process.orphaned;
        let is_due = process.backlog > BacklogState::Unknown
            || has_ended
            || told.is_some_and(|drain| drain.reason.is_stop());
        let may_take = !drains || is_due && drain.is_none_or(|drain| !drain.receiver);
        let inbox = self.arbiters[process.parent].inbox;
        while may_take && let Some((conn, record)) = self.inboxes[inbox].pop_front() {
            taken.push((conn, Connection::resume(record, now)));
            if self.rng.bool() {
                break;
            }
        }
        let again = now + Duration::from_micros(20);
        let is_empty = self.inboxes[inbox].is_empty();
        let over =
            process.backlog < BacklogState::Empty && (process.backlog == BacklogState::Ended || has_ended);
        if over && is_empty && process.backlog == BacklogState::Ended {
            process.backlog = BacklogState::Empty;
        } else if over || may_take && !is_empty {
            self.at(again, Event::Turn(pid));
        }
        let process = &self.processes[&pid];
        let (service, env) = (process.service.clone(), process.env.clone());
        let mut adopted = Vec::new();
        for (conn, mut connection) in taken {
            let client = &mut self.clients[conn as usize];
            client.owner = Some(pid);
            self.monitor.trace(|| format!("worker   {pid} takes {conn}"));
            let accepted = connection.view().idle_since;
            let entry = self.script.rescue.then(|| Entry::new(&self.entries[conn as usize]));
            let entry = entry.unwrap_or_default();
            connection.publish(entry, Some(client.wire.borrow().counts));
            let session = session::Session::new(connection, service.clone());
            let machine = Observed::new(session, conn, self.monitor.clone(), env.limits.clone(), accepted);
            let (wire, monitor) = (Rc::clone(&client.wire), self.monitor.clone());
            let socket = Socket { conn, wire, monitor, entry };
            adopted.push((conn, (machine, socket)));
        }
        adopted
    }

    pub(super) fn run_handler(&mut self, pid: i32, conn: u32) {
        let level = self.clients[conn as usize].wire.borrow().level();
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.resume(conn, level.readable, level.writable, &mut self.stacks) {
            self.soon(Event::Turn(pid));
        }
        self.arm(pid);
    }

    /// Queues the kernel's timer, and those of the threads.
    pub(super) fn arm(&mut self, pid: i32) {
        let now = self.now();
        let Some(process) = self.processes.get(&pid) else { return };
        let (armed, drains) = (process.armed, process.drain().is_some());
        let mut due: Vec<_> = process
            .handlers
            .iter()
            .filter_map(|(conn, handler)| Some((*conn, handler.deadline()?)))
            .collect();
        if drains {
            due.extend(process.handlers.keys().map(|conn| (*conn, now)));
        }
        self.records.due(pid, armed, due).into_iter().for_each(|(at, event)| self.at(at.max(now), event));
    }

    pub(super) fn timer(&mut self, pid: i32) {
        let now = self.now();
        if self.processes.get(&pid).is_some_and(|process| process.armed <= now) {
            self.monitor.trace(|| format!("kernel   ends {pid} at its deadline"));
            self.end(pid, ExitStatus::from_raw(6 << 8));
        }
    }

    /// Ends a process.
    pub(super) fn end(&mut self, pid: i32, status: ExitStatus) {
        let Some(process) = self.processes.remove(&pid) else { return };
        self.monitor.trace(|| format!("worker   {pid} ends: {status}"));
        self.keep(&process);
        for conn in 0..self.clients.len() {
            let client = &self.clients[conn];
            let is_open = client.owner == Some(pid) && client.wire.borrow().closed.is_none();
            if is_open && !self.rescue(conn as u32, &process) {
                let client = &mut self.clients[conn];
                client.abandoned = true;
                client.wire.borrow_mut().was_over |=
                    process.drain().is_some_and(|drain| drain.is_over(self.monitor.now()));
            }
        }
        self.records.ended(&process, status, &self.monitor);
        let (parent, now) = (process.parent, self.now());
        self.arbiters[parent].emptied = now;
        self.arbiters[parent].unreaped.insert(pid);
        process.end(&mut self.stacks);
        self.close_sockets();
        self.wake_acceptor();
        self.notify(parent, Input::Exited(pid, status));
    }

    /// The signal that accompanies an order to drain. Its handler arms the timer, whatever the loop
    /// does.
    pub(super) fn leave_by(&mut self, pid: i32, deadline: Time) {
        if self.end_unready(pid) {
            return;
        }
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.arm(deadline);
        self.arm(pid);
    }

    pub(super) fn signal(&mut self, pid: i32, signal: i32) {
        if self.end_unready(pid) {
            return;
        }
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.interrupt(signal);
        self.soon(Event::Turn(pid));
        self.arm(pid);
    }

    /// Ends a worker that drains before its boot has finished, as its signal handlers do.
    fn end_unready(&mut self, pid: i32) -> bool {
        let is_unready = self.processes.get(&pid).is_some_and(|process| !process.is_serving());
        if is_unready {
            self.end(pid, ExitStatus::from_raw(0));
        }
        is_unready
    }
}
