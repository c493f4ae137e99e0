//! The drain contract as a suite of scenarios that any backend of remuda can be tested with.
//!
//! A [`Scenario`] is a function of a [`Harness`] and knows only bytes, time and process ids: it
//! starts a real server, talks to it over real sockets, sends it real signals, and looks at its
//! processes. Its name begins with the number of the rule of the contract that it shows
//! (`d6_next_request_is_served_and_announced`). A scenario without a number shows a promise of
//! HTTP/1.1 or of the command line.
//!
//! [`conformance!`] makes a module with one test for each scenario, from the name of a backend. The
//! package that uses it has a binary called `fixture`, which is [`fixture::server`] with that
//! backend and takes remuda's command line. Scenarios that a backend cannot pass are in its table
//! of deviations, with the reason. A deviation whose scenario passes fails the run.
//!
//! [`probe`] compares backends: how a connection in each state ends, and when.
//!
//! The suite does not look inside the server: what virtual time can show is tested beside its code.

#![forbid(unsafe_code)]

pub mod client;
pub mod fixture;
pub mod probe;
pub mod process;
pub mod simulation;

mod corpus;
#[doc(hidden)]
pub mod host;
mod scenario;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use self::process::Harness;

/// One behaviour, and the function that shows it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Scenario {
    /// A sentence, after the number of its rule if it has one.
    pub name: &'static str,
    /// Shows the behaviour. Panics if the server does otherwise.
    pub run: fn(&Harness),
}

/// The name of a scenario that a backend is known to fail, and the reason.
pub type Deviation = (&'static str, &'static str);

/// Calls a macro with the names of all scenarios, file by file. This is the list.
#[doc(hidden)]
#[macro_export]
macro_rules! scenarios {
    ($($then:tt)+) => {
        $($then)+! {
            keep_alive:
                a_connection_is_reused,
                connection_close_is_honoured,
                http_1_0_closes_after_its_response,
                http_1_0_keeps_a_connection_on_request,
                pipelined_requests_are_answered_in_order,
                keep_alive_of_zero_closes_after_each_response,
                an_idle_connection_ends_after_its_keep_alive;
            framing:
                the_corpus_is_answered_as_expected,
                the_corpus_is_answered_alike_byte_by_byte,
                the_corpus_is_answered_alike_in_any_pieces,
                a_known_length_is_announced,
                a_response_to_head_has_no_content,
                statuses_without_content_have_none,
                an_unknown_length_is_chunked_for_http_1_1,
                an_unknown_length_ends_with_the_connection_for_http_1_0,
                a_bad_chunk_is_never_a_short_body;
            message:
                early_hints_are_sent_while_the_handler_runs,
                early_hints_are_sent_only_if_the_setting_is_on,
                no_100_is_sent_if_the_handler_does_not_read_the_body,
                trailers_reach_the_application_and_the_client,
                hop_by_hop_fields_of_the_application_are_not_sent,
                responses_without_content_have_none_in_any_version,
                a_response_of_the_wrong_length_is_cut_and_logged,
                a_field_of_the_application_cannot_inject_another,
                a_truncated_body_is_an_error_to_the_application;
            semantics:
                rfc9110_6_6_1_every_response_has_a_date,
                rfc9110_9_3_2_head_has_the_fields_of_get,
                rfc9110_15_5_6_a_405_lists_the_allowed_methods,
                rfc9110_15_each_status_has_its_framing,
                rfc9110_10_1_1_a_100_is_sent_only_if_expected,
                rfc9112_9_6_a_refusal_arrives_despite_unread_bytes;
            streaming:
                sixty_four_mebibytes_are_echoed_in_little_memory,
                small_pieces_are_echoed_before_the_body_ends,
                a_slow_reader_does_not_grow_the_worker,
                a_continue_is_sent_when_the_body_is_read,
                a_response_that_ignores_the_body_arrives_whole,
                a_client_that_disconnects_costs_only_its_connection;
            streams:
                first_bytes_choose_the_protocol_of_a_connection,
                each_stream_of_a_connection_is_answered,
                streams_are_answered_in_the_order_in_which_their_handlers_end,
                a_large_body_of_one_stream_leaves_the_other_alive,
                a_panic_in_one_stream_leaves_the_other_alive,
                d5_a_stream_in_flight_is_finished_in_a_drain,
                d10_a_stream_without_an_answer_ends_at_the_deadline,
                a_client_that_is_gone_ends_the_handlers_of_its_streams;
            half_close:
                half_close_gets_every_response_whole,
                half_close_gets_every_response_whole_among_many,
                half_close_gets_every_response_whole_behind_a_proxy_header,
                half_close_gets_a_response_larger_than_all_buffers,
                half_close_gets_its_response_in_a_drain,
                half_close_gets_its_response_while_workers_are_replaced,
                half_close_of_an_upgraded_connection_ends_one_direction,
                d14_a_running_handler_sees_the_half_close_and_answers,
                d14_a_running_handler_sees_that_its_client_closed,
                d14_a_handler_sees_the_half_close_in_a_drain,
                waiting_after_a_half_close_uses_no_processor_time;
            after:
                a_complete_response_is_sent_while_its_handler_runs_on,
                a_complete_response_is_not_logged_as_cut_by_a_timeout,
                buffered_pieces_are_sent_while_the_handler_writes_on,
                d5_work_after_a_response_is_finished_in_a_drain;
            vanish:
                a_client_that_vanishes_is_noticed_while_a_handler_runs,
                a_client_that_vanishes_from_a_unix_socket_is_noticed,
                a_client_that_vanishes_after_its_half_close_is_noticed,
                cancel_on_half_close_treats_a_closed_client_as_gone,
                a_client_that_vanished_is_counted_and_logged,
                a_vanished_client_uses_no_processor_time_of_its_handler;
            robust:
                robust_slow_heads_delay_no_other_client,
                robust_silent_connections_leave_nothing_behind,
                robust_slow_bodies_delay_no_other_client,
                robust_stalled_readers_delay_no_other_client,
                robust_resets_leave_nothing_behind,
                robust_random_bytes_do_no_harm,
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
                an_unread_body_is_discarded_up_to_its_limit,
                a_pipeline_is_answered_whatever_its_budget,
                a_full_worker_stops_accepting_and_drops_no_client,
                requests_wait_for_a_handler_thread;
            timeouts:
                d12_head_timeout_is_absolute,
                d12_head_timeout_holds_in_a_drain,
                d12_fresh_connection_ends_after_the_header_timeout,
                d12_fresh_connection_is_kept_in_a_drain_as_an_idle_one,
                d12_slow_and_silent_clients_delay_no_other_client,
                a_body_that_trickles_is_408_while_others_are_served,
                a_slow_reader_is_cut_while_others_are_served,
                a_stalled_body_ends_its_connection,
                a_stalled_reader_ends_its_connection;
            freeze:
                d21_requests_that_arrive_in_a_freeze_are_served,
                d21_a_proxy_header_completed_in_a_freeze_is_accepted,
                d21_a_request_that_arrives_in_a_frozen_drain_is_served,
                d21_a_connection_queued_for_a_frozen_worker_is_served,
                d21_requests_that_arrive_at_a_blocked_loop_are_served,
                d21_a_dripping_client_ends_at_its_deadline_despite_a_freeze;
            overtime:
                a_request_over_its_timeout_gets_503_is_logged_and_counted,
                a_response_over_its_timeout_is_cut,
                a_handler_can_see_that_its_timeout_has_passed,
                others_are_served_while_a_handler_takes_too_long,
                a_worker_is_replaced_for_a_handler_that_cannot_be_cancelled,
                requests_in_time_and_upgraded_connections_are_left_alone;
            front:
                a_proxy_header_names_the_client_of_all_requests,
                a_proxy_header_without_an_address_leaves_the_peer_as_client,
                a_connection_without_a_proxy_header_is_refused,
                a_peer_that_may_not_send_a_proxy_header_is_refused,
                d12_a_proxy_header_that_does_not_end_is_408,
                d19_a_client_keeps_its_address_from_the_proxy_header,
                a_trusted_proxy_names_the_client,
                forwarding_fields_of_an_untrusted_peer_are_ignored,
                contradicting_fields_of_a_trusted_proxy_are_refused,
                a_request_is_served_despite_a_malformed_client_address,
                fields_with_an_underscore_are_dropped_by_default;
            listener:
                d2_nothing_new_is_accepted_in_a_drain,
                d3_connect_is_refused_after_term,
                d3_connect_is_refused_while_all_handlers_are_busy,
                d3_unix_socket_is_refused_and_unlinked,
                an_abstract_socket_is_served_and_passed_on_and_ends,
                d3_every_listener_is_refused,
                d3_inherited_listener_survives,
                d3_inherited_unix_socket_survives;
            backlog:
                d4_backlog_is_served_at_a_stop,
                d4_backlog_of_a_unix_socket_is_served_at_a_stop,
                d4_backlog_is_served_by_all_workers,
                d4_backlog_is_served_if_every_process_gets_term,
                d4_full_workers_serve_the_backlog,
                d4_backlog_larger_than_descriptor_limits_is_served,
                d4_inherited_backlog_is_left_to_its_owner,
                d4_backlog_that_is_lost_is_counted,
                d4_stop_under_load_loses_no_request,
                d4_stop_under_connects_loses_no_request;
            remote:
                d4_a_handshake_open_at_a_stop_is_completed_and_served,
                d4_ipv6_and_dual_stack_handshakes_are_completed_at_a_stop,
                d4_a_stop_waits_half_a_second_for_handshakes_and_counts_them,
                d11_a_second_signal_ends_the_wait_for_handshakes,
                d16_a_handshake_open_at_a_removed_address_is_completed;
            reuse_port:
                reuse_port_gives_each_worker_its_share,
                d3_every_reuse_port_listener_is_refused,
                d4_backlog_of_every_reuse_port_listener_is_served_at_a_stop,
                d15_recycling_with_reuse_port_loses_no_request_or_connect,
                d16_reloads_with_reuse_port_lose_no_request_or_connect,
                d16_changed_addresses_with_reuse_port_are_always_served,
                d17_a_crash_loops_queue_is_served_by_others,
                a_killed_workers_queue_is_served_by_others,
                queues_of_workers_added_later_are_counted,
                a_draining_workers_queue_is_served_by_others,
                ttou_serves_the_queue_of_the_worker_that_leaves,
                ttin_and_ttou_under_load_lose_no_request;
            drain:
                d5_response_in_flight_is_finished_and_announces_close,
                d5_response_whose_head_was_sent_keeps_its_connection,
                d5_half_a_head_is_completed_and_served,
                d5_upload_in_flight_is_finished,
                d6_next_request_is_served_and_announced,
                d6_a_request_after_term_is_answered_with_close,
                d6_nothing_is_read_after_an_announced_close,
                d6_pipelined_requests_are_answered_and_the_last_announces,
                d6_a_partial_head_counts_as_a_request,
                d7_client_that_keeps_sending_sees_the_response_and_no_reset,
                d7_lingering_ends_by_itself_and_delays_no_other_client,
                d7_lingering_discards_up_to_its_limit,
                d7_a_client_that_never_closes_delays_no_other_in_a_drain,
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
                a_second_term_ends_the_lame_duck_without_hurrying_the_drain,
                d11_int_ends_the_lame_duck,
                d18_a_lame_duck_ends_with_its_arbiter,
                a_worker_that_dies_as_a_lame_duck_is_replaced;
            recycle:
                d15_requests_are_counted_and_not_connections,
                d15_recycling_loses_no_request_and_refuses_no_connect,
                d15_a_failed_replacement_leaves_the_old_worker_serving,
                d15_a_recycled_worker_is_ended_at_its_deadline,
                d15_a_worker_that_has_lived_for_long_enough_is_replaced,
                d15_a_worker_that_has_grown_too_large_is_replaced;
            reload:
                d16_reloads_under_load_lose_no_request_and_refuse_no_connect,
                d16_old_workers_serve_on_until_new_ones_are_ready,
                d16_new_settings_take_effect,
                d16_broken_settings_leave_everything_as_it_is,
                d16_a_failed_load_leaves_the_old_generation_serving,
                d16_a_crash_in_the_load_leaves_the_old_generation_serving,
                d16_a_late_load_leaves_the_old_generation_serving,
                d16_a_changed_reuse_port_is_refused,
                d16_an_added_address_is_served,
                d16_a_removed_address_ends_and_its_backlog_is_served,
                d16_an_address_that_cannot_be_bound_changes_nothing,
                d16_an_inherited_listener_stays,
                d16_the_backend_can_be_changed,
                d16_of_reloads_in_a_row_the_newest_counts,
                d16_reloads_leave_nothing_behind,
                d16_hup_restores_removed_files,
                a_reload_names_a_missing_start_directory,
                d16_hup_refuses_a_file_taken_by_another_program,
                a_reload_keeps_the_worker_count_unless_its_setting_changes,
                a_stop_ends_a_reload;
            handoff:
                d19_clients_notice_no_recycling,
                d19_clients_notice_no_reload,
                d19_clients_notice_no_removal_of_a_worker,
                d19_many_idle_connections_move,
                d19_a_client_keeps_its_connection_through_many_recyclings,
                d19_connections_move_between_backends,
                d19_at_a_stop_nothing_moves,
                d19_finish_moves_nothing,
                d19_a_killed_receiver_leaves_the_queue_to_its_successor,
                d19_a_full_worker_receives_once_it_has_room,
                d19_no_worker_exceeds_its_connection_limit,
                d19_connections_without_room_follow_the_fallback_policy,
                d19_every_connection_is_accounted_for;
            rescue:
                d20_idle_connections_survive_their_worker,
                d20_a_request_in_flight_is_answered_however_its_worker_ends,
                d20_a_client_whose_body_is_unread_sees_the_answer_and_no_reset,
                d20_a_response_that_has_begun_is_cut,
                d20_a_connection_whose_response_is_sent_survives_though_its_handler_works_on,
                d20_nothing_follows_a_response_that_was_sent_in_part,
                d20_the_last_of_pipelined_requests_is_answered,
                d20_half_a_head_is_half_closed,
                d20_connections_wait_for_the_replacement_of_the_only_worker,
                d20_a_connection_without_a_byte_survives_its_worker,
                d20_a_stop_ends_what_a_keeper_holds,
                d20_no_rescue_leaves_connections_to_their_worker,
                d10_without_a_keeper_the_worker_itself_answers_at_its_deadline,
                d20_every_request_and_connection_is_counted_once,
                d20_a_panic_outside_a_handler_costs_no_connection,
                d20_locks_pipes_and_ports_are_free_before_a_client_is_told,
                d20_a_keeper_that_is_killed_costs_only_what_it_kept,
                d20_a_keeper_that_is_late_is_ended_by_a_stop,
                d20_a_worker_without_a_keeper_serves_and_status_says_so,
                d20_a_keeper_has_the_rights_of_its_worker_and_little_memory;
            ending:
                d14_the_applications_end_runs_before_a_worker_exits,
                d14_the_applications_end_runs_at_each_kind_of_drain,
                d1_a_worker_beats_while_its_application_ends,
                d10_the_deadline_cuts_the_applications_end_off,
                d10_the_applications_end_has_time_after_requests_are_cut,
                d11_hurrying_shortens_the_applications_end,
                d11_quit_leaves_no_time_for_the_applications_end,
                d14_tasks_that_hold_the_worker_finish_before_its_end,
                d10_tasks_that_hold_the_worker_are_cut_at_the_deadline,
                an_end_that_panics_is_logged_and_costs_nothing_else;
            deadline:
                d9_server_without_connections_exits_at_once,
                d9_exits_with_the_last_response,
                d9_exits_with_the_keep_alive_of_an_idle_connection,
                d9_lingering_holds_the_exit_no_longer_than_it_may,
                d10_silent_connections_are_closed_at_the_deadline,
                d10_response_in_flight_is_cut_at_the_deadline,
                d10_an_unanswered_request_ends_at_the_deadline,
                d10_a_request_queued_for_a_thread_ends_at_the_deadline,
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
                an_upgrade_says_why_its_executable_cannot_run,
                an_upgrade_outlives_the_directory_of_the_start,
                an_upgrade_that_is_late_is_ended_and_a_second_one_is_refused,
                a_stop_during_an_upgrade_ends_both,
                the_old_arbiter_finishes_what_is_in_flight,
                a_unix_socket_survives_and_the_last_one_removes_it,
                an_upgrade_restores_removed_files,
                an_inherited_listener_survives_upgrades_and_a_stop,
                an_upgrade_can_be_taken_back,
                operators_find_the_new_arbiter_where_the_old_one_was,
                health_and_metrics_are_answered_at_any_moment_of_an_upgrade,
                operators_find_the_old_arbiter_until_a_held_upgrade_is_over,
                upgrades_with_reuse_port_lose_no_request_or_connect,
                an_upgrade_turns_reuse_port_on_and_off,
                an_upgrade_can_bind_an_address_overlapping_an_old_one,
                a_held_upgrade_can_be_completed,
                winch_lets_the_server_rest_until_hup;
            hooks:
                hooks_are_called_in_the_right_process_and_in_order,
                hooks_report_a_killed_and_an_added_worker,
                hooks_report_a_recycling,
                hooks_report_a_reload,
                hooks_report_an_upgrade,
                a_hook_that_panics_does_not_end_the_server,
                a_slow_hook_is_named,
                a_signal_while_the_arbiter_exits_does_not_change_its_status,
                a_hook_that_panics_in_a_booting_worker_ends_its_start;
            preload:
                preload_builds_one_application_for_all_workers,
                a_reload_keeps_the_preloaded_application_an_upgrade_does_not;
            heartbeat:
                d1_hung_loop_is_found_and_replaced,
                d1_a_hung_loop_keeps_no_new_connection_waiting,
                d1_a_drain_longer_than_the_timeout_is_not_a_hang,
                d1_an_idle_connection_in_a_drain_is_not_a_hang,
                d1_hung_loop_is_found_in_a_drain,
                d1_a_freeze_of_all_processes_is_not_a_hang,
                a_hang_is_logged_with_the_stack_of_each_thread,
                abrt_logs_what_a_worker_is_doing_and_ends_it,
                a_worker_that_does_not_boot_in_time_is_replaced,
                d10_requests_and_counts_of_a_killed_worker_are_known;
            logs:
                each_request_is_a_line_of_the_access_log,
                the_access_log_is_off_by_default_and_combined_if_on,
                an_access_log_in_json_has_an_object_a_line,
                environment_variables_can_be_in_the_access_log,
                a_request_cannot_forge_a_line_of_the_access_log,
                refused_requests_are_in_the_access_log,
                a_response_cut_at_the_deadline_is_in_the_access_log,
                a_request_of_a_vanished_client_is_in_the_access_log,
                an_unread_access_log_delays_no_request,
                usr1_reopens_log_files_without_losing_a_line,
                usr1_to_a_worker_reopens_its_own_logs,
                the_error_log_is_a_file_that_usr1_reopens,
                usr1_rotates_files_that_the_workers_user_may_not_open,
                usr1_is_made_up_for_by_a_worker_without_free_descriptors,
                a_log_that_cannot_be_reopened_stays_open,
                a_log_that_cannot_be_written_is_status_2,
                a_log_line_has_each_fact_once,
                numbers_in_the_json_log_are_numbers,
                a_json_log_line_names_its_process;
            unread:
                d21_a_full_stderr_pipe_delays_nothing_and_drops_are_counted,
                d21_a_stopped_terminal_delays_nothing,
                d21_a_log_socket_whose_peer_stalls_delays_nothing,
                d21_an_unread_log_delays_neither_start_nor_end,
                d21_the_admin_helper_writes_a_kept_line_once_there_is_room;
            control:
                status_reports_the_server_and_its_workers,
                control_clients_wait_idly_in_a_descriptor_shortage,
                scale_changes_the_number_of_workers,
                recycle_replaces_all_workers_or_one_and_waits_for_it,
                recycle_loses_no_request,
                reload_waits_for_its_outcome,
                stop_waits_for_the_end,
                log_level_reaches_the_workers,
                a_log_level_outlives_a_recycling,
                drain_waits_for_the_workers_and_connects_wait_for_hup,
                resume_starts_the_workers_that_a_drain_ended,
                sub_commands_find_the_server_by_its_settings_file,
                stop_reports_that_work_was_cut,
                upgrade_is_answered_once_the_new_arbiter_is_ready,
                upgrade_is_refused_or_fails_with_the_reason,
                bad_input_is_refused_and_logged_and_changes_nothing,
                half_a_line_is_waited_for_and_then_refused,
                the_control_socket_makes_room_for_the_next_client,
                another_user_is_refused,
                a_control_socket_belongs_to_one_server;
            admin:
                readiness_ends_with_term_while_workers_serve_on,
                readiness_and_metrics_show_resting_workers,
                metrics_add_up_to_the_requests_made,
                probes_are_answered_despite_a_crowd_at_the_admin_listener,
                the_admin_listener_answers_while_all_workers_hang,
                a_helper_that_dies_is_replaced,
                a_helper_ends_with_its_arbiter;
            activity:
                each_exchange_in_flight_is_shown_with_request_and_age,
                the_oldest_exchanges_are_shown_and_the_others_counted,
                requests_cut_at_the_deadline_are_named,
                a_response_cut_at_the_deadline_is_marked_in_the_access_log,
                a_handler_that_holds_the_loop_is_logged_with_its_time,
                each_request_is_answered_or_aborted_and_never_both;
            process:
                connections_are_spread_evenly,
                a_killed_worker_costs_nobody_a_connection,
                a_worker_that_gets_term_drains_and_is_replaced,
                ttin_adds_a_worker_and_ttou_drains_one,
                ttou_never_goes_below_one,
                d17_a_crash_loop_is_slowed_down_and_delays_no_client,
                a_server_that_is_never_ready_gives_up_after_its_limit,
                a_stop_waits_for_no_worker_that_was_never_ready,
                a_stop_waits_for_no_successor_that_was_never_ready,
                term_to_a_booting_worker_does_not_stop_the_server,
                a_program_that_a_handler_starts_ignores_and_blocks_no_signal,
                a_thread_shortage_is_status_3_and_names_the_limit,
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

/// Makes a module with one test for each scenario: `conformance!(mio => "mio", "blocking");`, or
/// with deviations, `conformance!(mine => "mine", "async", deviations:
/// [("d6_a_partial_head_counts_as_a_request", "why")]);`.
///
/// The package has a binary `fixture`, or another that `fixture: "server"` names before any
/// deviations. The first string is the value of its flag `-k`, the second the kind of application
/// that it serves, which it reads from `FIXTURE_APPLICATION`.
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

/// The variable in which cargo passes the path of the binary.
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

/// The tests that [`conformance!`] makes of the list.
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

/// Runs one scenario, or checks that the backend deviates from it as declared.
#[doc(hidden)]
pub fn run(name: &str, harness: &Harness, deviations: &[Deviation]) {
    let find = |name: &str| SCENARIOS.iter().find(|scenario| scenario.name == name);
    for (name, _) in deviations {
        assert!(find(name).is_some(), "there is no scenario {name} to deviate from");
    }
    find(name).expect("tests are made of the list").hold(harness, deviations);
}

impl Scenario {
    fn hold(&self, harness: &Harness, deviations: &[Deviation]) {
        match deviations.iter().find(|(name, _)| *name == self.name) {
            None => host::hold(self.name, || (self.run)(harness)),
            Some((name, why)) => {
                // A test thread may have run another scenario before.
                scenario::process::was_unshown();
                let kept = catch_unwind(AssertUnwindSafe(|| (self.run)(harness))).is_ok();
                let kept = kept && !scenario::process::was_unshown();
                assert!(!kept, "{name} passes now: remove it from the deviations ({why})");
            }
        }
    }
}

#[cfg(test)]
mod tests;
