//! The drain contract as a suite of scenarios that any backend of remuda can be held to.
//!
//! A [`Scenario`] is a function of a [`Harness`] and knows nothing but bytes, time and process ids: it starts a
//! real server, talks to it over real sockets, sends it real signals, and looks at what its processes do. It is
//! named after the rule of the contract that it shows (`d6_next_request_is_served_and_announced`); one without
//! a number shows what HTTP/1.1 or the command line promise.
//!
//! [`conformance!`] makes a module with one test for each scenario out of the name of a backend. The package that
//! uses it has a binary called `fixture`, which is [`fixture::server`] with that backend and takes remuda's command
//! line. What a backend cannot do it says in a table of deviations, with the reason; one that holds no longer fails
//! the run.
//!
//! [`probe`] puts backends side by side: what becomes of a connection in each state, and when.
//!
//! The suite does not look inside: what can be shown in virtual time is shown where it is written.

#![forbid(unsafe_code)]

pub mod client;
pub mod fixture;
pub mod probe;
pub mod process;
pub mod simulation;

mod corpus;
#[path = "host.rs"]
mod machine;
mod scenario;

use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use self::machine::Moment;
pub use self::process::Harness;

/// One behaviour and how it is shown.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Scenario {
    /// A sentence, with the number of its rule in front if it has one.
    pub name: &'static str,
    /// Shows it; panics where the server does otherwise.
    pub run: fn(&Harness),
}

/// A scenario that a backend is known not to keep, and why.
pub type Deviation = (&'static str, &'static str);

/// Calls a macro with the names of all scenarios, file by file. This is the list.
#[doc(hidden)]
#[macro_export]
macro_rules! scenarios {
    ($($then:tt)+) => {
        $($then)+! {
            keep_alive:
                a_connection_is_used_again,
                connection_close_is_honoured,
                http_1_0_closes_after_its_response,
                http_1_0_keeps_a_connection_that_it_asks_to_keep,
                pipelined_requests_are_answered_in_order,
                keep_alive_of_zero_closes_after_each_response,
                an_idle_connection_ends_after_its_keep_alive;
            framing:
                the_corpus_is_answered_as_it_says,
                the_corpus_is_answered_alike_byte_by_byte,
                the_corpus_is_answered_alike_in_any_pieces,
                a_length_that_is_known_is_announced,
                a_response_to_head_has_no_content,
                statuses_without_content_have_none,
                an_unknown_length_is_chunked_for_http_1_1,
                an_unknown_length_ends_with_the_connection_for_http_1_0,
                a_bad_chunk_is_never_a_short_body;
            message:
                early_hints_are_sent_while_the_handler_is_at_work,
                an_expectation_that_nobody_reads_the_body_for_is_answered_without_a_100,
                trailers_reach_the_application_and_the_client,
                fields_of_a_connection_are_not_the_applications,
                statuses_and_methods_without_content_have_none_in_any_version,
                a_response_that_belies_its_length_is_cut_and_logged,
                nobody_breaks_out_of_a_field,
                a_truncated_body_is_an_error_to_the_application;
            semantics:
                rfc9110_6_6_1_every_response_has_a_date,
                rfc9110_9_3_2_head_has_the_fields_of_get,
                rfc9110_15_5_6_what_is_allowed_is_told,
                rfc9110_15_each_status_is_framed_as_it_has_to_be,
                rfc9110_10_1_1_a_100_is_for_who_waits_for_it,
                rfc9112_9_6_a_refusal_survives_what_is_not_read;
            streaming:
                sixty_four_mebibytes_come_back_the_same_in_little_memory,
                a_slow_reader_does_not_grow_the_worker,
                a_continue_is_sent_when_the_body_is_read,
                a_response_that_ignores_the_body_arrives_whole,
                a_client_that_leaves_costs_only_its_connection;
            half_close:
                half_close_gets_every_response_whole,
                half_close_gets_every_response_whole_among_many,
                half_close_gets_every_response_whole_behind_a_proxy_header,
                half_close_gets_what_no_buffer_holds,
                half_close_gets_its_response_in_a_drain,
                half_close_gets_its_response_while_workers_are_replaced,
                half_close_leaves_the_other_direction_of_an_upgraded_connection_open,
                half_close_is_waited_for_without_work;
            vanish:
                a_client_that_vanishes_is_noticed_while_a_handler_runs,
                a_client_that_vanishes_from_a_unix_socket_is_noticed,
                a_client_that_vanishes_after_its_half_close_is_noticed,
                a_client_that_vanished_is_counted_and_logged,
                a_handler_that_does_not_look_costs_no_processor_time_when_its_client_vanishes;
            robust:
                robust_slow_heads_hold_nobody_up,
                robust_silent_connections_leave_nothing_behind,
                robust_slow_bodies_hold_nobody_up,
                robust_readers_that_stop_hold_nobody_up,
                robust_resets_leave_nothing_behind,
                robust_random_bytes_harm_nobody,
                robust_other_protocols_are_refused_by_name;
            limits:
                a_long_request_line_is_414,
                a_long_field_is_431,
                too_many_fields_are_431,
                a_head_over_its_limit_is_431,
                a_body_over_its_announced_limit_is_413,
                a_chunked_body_over_the_limit_is_413,
                a_client_that_is_still_sending_sees_its_413,
                chunks_with_more_framing_than_allowed_are_400,
                an_unread_body_is_read_away_up_to_its_limit,
                a_pipeline_is_answered_whatever_its_budget,
                a_full_worker_stops_accepting_and_drops_nobody,
                requests_wait_for_a_handler_thread;
            timeouts:
                d12_head_timeout_is_absolute,
                d12_head_timeout_holds_in_a_drain,
                d12_fresh_connection_ends_after_the_header_timeout,
                d12_fresh_connection_is_kept_in_a_drain_as_an_idle_one,
                d12_slow_and_silent_clients_hold_nobody_up,
                a_body_that_trickles_is_408_while_others_are_served,
                a_reader_that_takes_too_little_is_cut_while_others_are_served,
                a_stalled_body_ends_its_connection,
                a_stalled_reader_ends_its_connection;
            overtime:
                a_request_that_takes_too_long_is_told_503_logged_and_counted,
                a_response_that_takes_too_long_is_cut,
                a_handler_is_told_that_it_has_had_its_time,
                others_are_served_while_a_handler_takes_too_long,
                a_worker_is_replaced_for_a_handler_that_cannot_be_cancelled,
                what_is_in_time_or_has_changed_the_protocol_is_left_alone;
            front:
                a_proxy_header_names_the_client_of_all_requests,
                a_proxy_that_speaks_for_itself_is_the_client,
                a_connection_without_a_proxy_header_is_refused,
                a_peer_that_may_not_send_a_proxy_header_is_refused,
                d12_a_proxy_header_that_does_not_end_is_408,
                d19_a_client_keeps_the_name_that_a_proxy_header_gave_it,
                a_trusted_proxy_says_who_the_client_is,
                a_peer_that_is_not_trusted_says_nothing_of_clients,
                contradictions_of_a_trusted_proxy_are_refused,
                fields_with_an_underscore_do_not_arrive;
            listener:
                d2_nothing_new_is_accepted_in_a_drain,
                d3_connect_is_refused_after_term,
                d3_connect_is_refused_while_all_handlers_are_busy,
                d3_unix_socket_is_refused_and_unlinked,
                d3_every_listener_is_refused,
                d3_inherited_listener_survives,
                d3_inherited_unix_socket_survives;
            backlog:
                d4_backlog_is_served_at_a_stop,
                d4_backlog_of_a_unix_socket_is_served_at_a_stop,
                d4_backlog_is_served_by_all_workers,
                d4_backlog_is_served_when_every_process_is_told_to_stop,
                d4_full_workers_serve_the_backlog,
                d4_backlog_larger_than_descriptor_limits_is_served,
                d4_inherited_backlog_is_left_to_its_owner,
                d4_backlog_that_nobody_takes_is_counted,
                d4_stop_under_load_loses_no_request,
                d4_stop_under_connects_loses_no_request;
            reuse_port:
                reuse_port_gives_each_worker_its_share,
                d3_every_reuse_port_listener_is_refused,
                d4_backlog_of_every_reuse_port_listener_is_served_at_a_stop,
                d15_recycling_with_reuse_port_loses_no_request_and_refuses_no_connect,
                d16_reloads_with_reuse_port_lose_no_request_and_refuse_no_connect,
                d16_addresses_that_change_with_reuse_port_are_served_by_whoever_is_there,
                d17_a_crash_loops_queue_is_served_by_others,
                a_killed_workers_queue_is_served_by_others,
                queues_of_workers_that_came_later_are_counted,
                a_draining_workers_queue_is_served_by_others,
                ttou_serves_the_queue_of_the_worker_that_leaves,
                ttin_and_ttou_under_load_lose_no_request;
            drain:
                d5_response_in_flight_is_finished_and_announces_close,
                d5_response_whose_head_was_sent_keeps_its_connection,
                d5_half_a_head_is_completed_and_served,
                d5_upload_in_flight_is_finished,
                d6_next_request_is_served_and_announced,
                d6_whoever_speaks_in_a_drain_is_answered,
                d6_nothing_is_read_after_an_announced_close,
                d6_pipelined_requests_are_answered_and_the_last_announces,
                d6_a_partial_head_counts_as_a_request,
                d7_client_that_keeps_sending_sees_the_response_and_no_reset,
                d7_lingering_ends_by_itself_and_holds_nobody_up,
                d7_lingering_discards_only_so_much,
                d7_client_that_never_closes_holds_nobody_up_in_a_drain,
                d8_idle_age_counts_from_the_last_response,
                d14_events_end_themselves;
            policy:
                d6_close_idle_closes_idle_connections_at_once,
                d6_grace_serves_the_next_request_and_closes_what_stays_idle,
                d6_spread_closes_idle_connections_one_after_the_other,
                d6_spread_announces_once_its_window_is_over,
                d6_each_kind_of_drain_has_its_own_policy,
                d5_no_policy_cuts_half_a_head,
                d10_the_deadline_ends_what_a_policy_would_keep;
            lameduck:
                a_lame_duck_serves_as_usual_and_then_stops,
                a_second_term_ends_the_lame_duck_and_hurries_nobody,
                d11_int_ends_the_lame_duck,
                d18_a_lame_duck_ends_with_its_arbiter,
                a_worker_that_dies_as_a_lame_duck_is_replaced;
            recycle:
                d15_requests_are_counted_and_not_connections,
                d15_recycling_loses_no_request_and_refuses_no_connect,
                d15_a_replacement_that_fails_to_boot_leaves_the_old_worker_serving,
                d15_a_recycled_worker_is_ended_at_its_deadline,
                d15_a_worker_that_has_lived_for_long_enough_is_replaced,
                d15_a_worker_that_has_grown_too_large_is_replaced;
            reload:
                d16_reloads_under_load_lose_no_request_and_refuse_no_connect,
                d16_old_workers_serve_on_until_new_ones_are_ready,
                d16_new_settings_take_effect,
                d16_broken_settings_leave_everything_as_it_is,
                d16_an_application_that_does_not_load_leaves_the_old_generation_serving,
                d16_a_worker_that_dies_as_it_builds_the_application_leaves_the_old_generation_serving,
                d16_an_application_that_does_not_load_in_time_leaves_the_old_generation_serving,
                d16_a_changed_reuse_port_is_refused,
                d16_an_address_that_is_added_is_served,
                d16_an_address_that_is_removed_ends_and_its_backlog_is_served,
                d16_an_address_that_cannot_be_bound_changes_nothing,
                d16_an_inherited_listener_stays,
                d16_the_backend_can_be_changed,
                d16_reloads_in_a_row_come_down_to_the_newest,
                d16_reloads_leave_nothing_behind,
                the_number_of_workers_follows_the_settings_and_otherwise_survives_a_reload,
                a_stop_ends_a_reload;
            hand_off:
                d19_nobody_notices_a_recycling,
                d19_nobody_notices_a_reload,
                d19_nobody_notices_that_there_are_fewer_workers,
                d19_many_idle_connections_move,
                d19_a_client_keeps_its_connection_through_many_recyclings,
                d19_connections_move_between_backends,
                d19_at_a_stop_nothing_moves,
                d19_finish_moves_nothing,
                d19_who_is_killed_leaves_the_queue_to_the_next,
                d19_a_full_worker_takes_over_once_it_has_room,
                d19_no_worker_takes_more_than_it_may,
                d19_what_finds_no_room_is_left_to_the_fallback,
                d19_every_connection_is_accounted_for;
            deadline:
                d9_server_without_connections_exits_at_once,
                d9_exits_with_the_last_response,
                d9_exits_with_the_keep_alive_of_an_idle_connection,
                d9_lingering_holds_the_exit_no_longer_than_it_may,
                d10_silent_connections_are_closed_at_the_deadline,
                d10_response_in_flight_is_cut_at_the_deadline,
                d10_request_without_an_answer_is_told_at_the_deadline,
                d10_zero_seconds_cut_at_once,
                d10_stuck_handler_does_not_hold_the_deadline,
                d10_a_stuck_loop_ends_itself_at_the_deadline_of_any_drain,
                d11_int_shortens_the_deadline,
                d11_second_term_shortens_the_deadline,
                d11_int_in_a_drain_shortens_the_deadline,
                d11_stuck_handlers_delay_neither_int_nor_quit,
                d11_int_drains_the_worker_that_gets_it,
                d11_quit_ends_the_worker_that_gets_it,
                d11_quit_ends_at_once,
                d11_order_and_signal_of_one_stop_count_once;
            matrix:
                finish_at_term,
                finish_at_int,
                finish_at_ttou,
                finish_at_recycling,
                close_idle_at_term,
                close_idle_at_int,
                close_idle_at_ttou,
                close_idle_at_recycling,
                grace_at_term,
                grace_at_int,
                grace_at_ttou,
                grace_at_recycling,
                spread_at_term,
                spread_at_int,
                spread_at_ttou,
                spread_at_recycling;
            upgrade:
                an_upgraded_connection_carries_bytes_both_ways,
                d13_upgraded_connection_is_told_of_the_drain,
                d13_upgraded_connection_is_in_flight_until_the_deadline;
            upgrade_binary:
                upgrades_under_load_lose_no_request_and_refuse_no_connect,
                an_executable_that_fails_changes_nothing,
                an_upgrade_that_is_late_is_ended_and_a_second_one_is_refused,
                a_stop_during_an_upgrade_ends_both,
                the_old_arbiter_finishes_what_is_in_flight,
                a_unix_socket_survives_and_the_last_one_removes_it,
                an_inherited_listener_survives_upgrades_and_a_stop,
                an_upgrade_is_taken_back,
                operators_find_the_new_arbiter_where_the_old_one_was,
                health_and_metrics_are_answered_at_any_moment_of_an_upgrade,
                operators_find_the_old_arbiter_until_a_held_upgrade_is_over,
                upgrades_with_reuse_port_lose_no_request_and_refuse_no_connect,
                an_upgrade_turns_reuse_port_on_and_off,
                an_upgrade_listens_where_it_overlaps_what_the_old_arbiter_has,
                an_upgrade_that_was_held_is_completed,
                winch_lets_the_server_rest_until_hup;
            hooks:
                hooks_are_called_in_the_right_process_and_in_order,
                hooks_tell_of_a_worker_that_was_killed_and_of_one_more,
                hooks_tell_of_a_recycling,
                hooks_tell_of_a_reload,
                hooks_tell_of_an_upgrade,
                a_hook_that_panics_does_not_end_the_server,
                a_hook_that_takes_long_is_named,
                a_hook_that_panics_in_a_booting_worker_keeps_it_from_starting;
            preload:
                preload_builds_one_application_for_all_workers,
                a_reload_keeps_the_preloaded_application_and_an_upgrade_builds_it_anew;
            heartbeat:
                d1_hung_loop_is_found_and_replaced,
                d1_a_hung_loop_keeps_no_new_connection_waiting,
                d1_a_drain_longer_than_the_timeout_is_not_a_hang,
                d1_an_idle_connection_in_a_drain_is_not_a_hang,
                d1_hung_loop_is_found_in_a_drain,
                d1_a_frozen_group_is_forgiven,
                a_hang_is_told_with_where_each_thread_stands,
                abrt_says_what_a_worker_is_doing_and_ends_it,
                a_worker_that_does_not_boot_in_time_is_replaced,
                d10_what_a_killed_worker_served_and_counted_is_known;
            logs:
                each_request_is_a_line_of_the_access_log,
                the_access_log_is_off_by_default_and_combined_where_nothing_else_is_said,
                an_access_log_in_json_is_an_object_a_line,
                nobody_forges_a_line_of_the_access_log,
                refused_requests_are_in_the_access_log,
                what_the_deadline_cuts_is_in_the_access_log,
                a_request_whose_client_has_gone_is_in_the_access_log,
                an_access_log_that_nobody_reads_holds_nobody_up,
                usr1_goes_on_in_new_files_without_losing_a_line,
                usr1_to_a_worker_is_for_its_own_logs,
                the_error_log_is_a_file_that_usr1_reopens,
                a_log_that_cannot_be_reopened_is_kept,
                a_log_that_cannot_be_written_is_status_2,
                the_log_in_json_says_who_has_written_a_line;
            control:
                status_says_how_the_server_and_its_workers_are,
                scale_changes_how_many_workers_there_are,
                recycle_replaces_all_workers_or_one_and_waits_for_it,
                recycle_loses_no_request,
                reload_waits_for_what_comes_of_it,
                stop_waits_for_the_end,
                log_level_reaches_the_workers,
                a_log_level_outlives_a_recycling,
                drain_waits_for_the_workers_and_connects_wait_for_hup,
                upgrade_is_answered_once_the_new_arbiter_is_ready,
                upgrade_is_refused_or_fails_with_the_reason,
                bad_input_is_refused_and_logged_and_changes_nothing,
                half_a_line_is_waited_for_and_then_refused,
                no_more_clients_than_there_may_be_are_served,
                another_user_is_refused,
                a_control_socket_belongs_to_one_server;
            admin:
                readiness_ends_with_term_while_workers_serve_on,
                metrics_add_up_to_the_requests_made,
                the_admin_listener_answers_while_all_workers_hang,
                a_helper_that_dies_is_replaced,
                a_helper_ends_with_its_arbiter;
            process:
                connections_are_spread_evenly,
                a_killed_worker_costs_its_own_connections_and_nothing_else,
                a_worker_told_to_stop_drains_and_is_replaced,
                ttin_adds_a_worker_and_ttou_drains_one,
                ttou_never_goes_below_one,
                d17_a_crash_loop_is_slowed_down_and_holds_nobody_up,
                a_server_that_never_was_ready_gives_up_after_so_many_boots,
                a_stop_while_workers_boot_takes_no_longer_than_any,
                a_term_to_a_booting_worker_is_not_the_servers,
                d18_idle_workers_end_with_their_arbiter,
                d18_response_in_flight_outlives_the_arbiter,
                d18_arbiter_killed_in_a_drain_cuts_nothing,
                d18_stuck_handlers_end_at_the_deadline_without_their_arbiter,
                d18_a_stuck_worker_of_another_user_ends_with_its_arbiter,
                a_port_in_use_is_status_5,
                a_bad_setting_is_status_2,
                a_bad_settings_file_is_status_2;
        }
    };
}

macro_rules! table {
    ($($file:ident: $($name:ident),+;)+) => {
        /// All scenarios.
        pub const SCENARIOS: &[Scenario] =
            &[$($(Scenario { name: stringify!($name), run: scenario::$file::$name }),+),+];
    };
}

scenarios! { table }

/// Makes a module with one test for each scenario: `conformance!(mio => "mio", "blocking");`, or with what the backend does
/// not keep, `conformance!(mine => "mine", "async", deviations: [("d6_a_partial_head_counts_as_a_request", "why")]);`.
///
/// The package has a binary `fixture`, or one that `fixture: "server"` names before any deviations. The first string is what
/// its flag `-k` is given, the second the kind of application that it serves, which it finds in `FIXTURE_APPLICATION`.
#[macro_export]
macro_rules! conformance {
    ($module:ident => $backend:literal, $application:literal $(, fixture: $fixture:literal)? $(, deviations: [$($deviation:expr),* $(,)?])?) => {
        mod $module {
            fn run(name: &str) {
                let deviations: &[$crate::Deviation] = &[$($($deviation),*)?];
                let fixture = ::std::path::Path::new(env!($crate::__fixture!($($fixture)?)));
                $crate::run(name, &$crate::Harness::new($backend, $application, fixture), deviations);
            }

            $crate::scenarios! { $crate::__tests }
        }
    };
}

/// Where cargo says what the binary's path is.
#[doc(hidden)]
#[macro_export]
macro_rules! __fixture {
    () => {
        "CARGO_BIN_EXE_fixture"
    };
    ($name:literal) => {
        concat!("CARGO_BIN_EXE_", $name)
    };
}

/// What [`conformance!`] makes of the list.
#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ($($file:ident: $($name:ident),+;)+) => {
        $($(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )+)+
    };
}

/// Shows one scenario, or that a backend deviates from it as it says.
#[doc(hidden)]
pub fn run(name: &str, harness: &Harness, deviations: &[Deviation]) {
    let find = |name: &str| SCENARIOS.iter().find(|scenario| scenario.name == name);
    for (name, _) in deviations {
        assert!(find(name).is_some(), "there is no scenario {name} to deviate from");
    }
    find(name).expect("tests are made of the list").hold(harness, deviations);
}

/// How often a scenario is shown at most, if the machine hinders it.
const TRIES: u32 = 3;

impl Scenario {
    fn hold(&self, harness: &Harness, deviations: &[Deviation]) {
        match deviations.iter().find(|(name, _)| *name == self.name) {
            None => self.show(harness),
            Some((name, why)) => {
                let kept = catch_unwind(AssertUnwindSafe(|| (self.run)(harness))).is_ok();
                assert!(!kept, "{name} is kept now: take it out of the deviations ({why})");
            }
        }
    }

    /// A failure counts on a machine that runs what is ready to run.
    #[allow(clippy::print_stderr, reason = "the test harness shows it with the failure")]
    fn show(&self, harness: &Harness) {
        for tries_left in (0..TRIES).rev() {
            let start = Moment::now();
            let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.run)(harness))) else { return };
            let hindrance = start.hindrance();
            eprintln!("{}: {hindrance}", self.name);
            if tries_left == 0 || !hindrance.is_grave() {
                resume_unwind(panic);
            }
            // Not by the macro, whose words the test harness keeps to itself where the next showing passes.
            let _ = writeln!(io::stderr(), "{}: shown again, because {hindrance}", self.name);
        }
    }
}

#[cfg(test)]
mod tests;
