use super::*;
use proptest::prelude::*;
use slipway_spec::outcome::FailureReason;

fn plan(steps: &[(When, bool, bool)]) -> Plan {
    Plan { steps: steps.to_vec(), after_errors_count: false }
}

fn one() -> Plan {
    plan(&[(When::OnSuccess, false, false)])
}

fn every_state() -> Vec<State> {
    let failed = Verdict::Failed(Failure::script("x"));
    vec![
        State::Preparing,
        State::Script { step: 0, verdict: Verdict::Success },
        State::AfterScript { verdict: failed.clone() },
        State::Collecting { verdict: Verdict::Success },
        State::Collecting { verdict: failed },
        State::Finishing { outcome: Outcome::Success },
        State::Over,
        State::Abandoned,
    ]
}

fn every_event() -> Vec<Event> {
    let f = || Failure::script("x");
    vec![
        Event::Prepared,
        Event::Unprepared { failure: f(), sources: true },
        Event::Unprepared { failure: f(), sources: false },
        Event::Exited(0),
        Event::Exited(42),
        Event::Broke(f()),
        Event::StepTimedOut(f()),
        Event::TimedOut(f()),
        Event::Canceling,
        Event::Canceled,
        Event::Interrupted,
        Event::LeaseLost,
        Event::Collected(None),
        Event::Collected(Some(f())),
        Event::Delivered,
    ]
}

#[test]
fn state_every_state_by_every_event_is_as_printed() {
    let mut table = String::new();
    for state in every_state() {
        for event in every_event() {
            let next = match state.apply(&one(), event.clone()) {
                Ok(State::Finishing { outcome }) => format!("finishing {outcome:?}"),
                Ok(next) => next.word().to_owned(),
                Err(_) => "refused".to_owned(),
            };
            table.push_str(&format!("{:<13} {:<14} -> {next}\n", state.word(), word(&event)));
        }
    }
    insta::assert_snapshot!(table);
}

fn word(event: &Event) -> String {
    let text = format!("{event:?}");
    let head = text.split([' ', '{']).next().unwrap_or_default();
    match event {
        Event::Exited(code) => format!("Exited({code})"),
        Event::Unprepared { sources, .. } => format!("Unprepared/{sources}"),
        Event::Collected(failure) => format!("Collected/{}", failure.is_none()),
        _ => head.split('(').next().unwrap_or(head).to_owned(),
    }
}

#[test]
fn state_script_failure_then_failed_upload_reports_the_script() {
    let state = State::Script { step: 0, verdict: Verdict::Success };
    let state = state.apply(&one(), Event::Exited(42)).unwrap();
    let state = state.apply(&one(), Event::Exited(0)).unwrap();
    let state = state.apply(&one(), Event::Collected(Some(Failure::system("no space")))).unwrap();
    let State::Finishing { outcome: Outcome::Failed { reason, exit_code, .. } } = state else { panic!("{state:?}") };
    assert_eq!((reason, exit_code), (FailureReason::ScriptFailure, Some(42)));
}

#[test]
fn state_after_script_failure_counts_only_when_asked() {
    let mut plan = one();
    let state = State::AfterScript { verdict: Verdict::Success };
    assert_eq!(state.apply(&plan, Event::Exited(3)).unwrap(), State::Collecting { verdict: Verdict::Success });
    plan.after_errors_count = true;
    let State::Collecting { verdict: Verdict::Failed(f) } = state.apply(&plan, Event::Exited(3)).unwrap() else {
        panic!("the failure was dropped")
    };
    assert_eq!(f.exit_code, Some(3));
}

#[test]
fn state_steps_follow_their_when() {
    let plan = plan(&[
        (When::OnSuccess, false, false),
        (When::OnSuccess, false, false),
        (When::OnFailure, false, false),
        (When::Always, true, false),
        (When::Always, false, true),
    ]);
    let mut state = State::Preparing.apply(&plan, Event::Prepared).unwrap();
    let mut ran = Vec::new();
    while let State::Script { step, .. } = state {
        ran.push(step);
        state = state.apply(&plan, Event::Exited(if step == 0 { 7 } else { 1 })).unwrap();
    }
    assert_eq!(ran, [0, 2, 3]);
    let State::AfterScript { verdict: Verdict::Failed(f) } = state else { panic!("{state:?}") };
    assert_eq!(f.exit_code, Some(7), "the first failure is the one that is reported");
}

proptest! {
    /// Whatever happens: a delivered job had an outcome, an abandoned one lost its lease or was never started, and
    /// no job goes back to a phase before.
    #[test]
    fn state_never_goes_back(events in proptest::collection::vec(0..15_usize, 0..40)) {
        let rank = |s: &State| match s {
            State::Preparing => 0,
            State::Script { .. } => 1,
            State::AfterScript { .. } => 2,
            State::Collecting { .. } => 3,
            State::Finishing { .. } => 4,
            State::Over | State::Abandoned => 5,
        };
        let all = every_event();
        let mut state = State::Preparing;
        let mut lost = false;
        for i in events {
            let event = all[i].clone();
            if let Ok(next) = state.apply(&one(), event.clone()) {
                prop_assert!(rank(&next) >= rank(&state));
                lost |= event == Event::LeaseLost || (event == Event::Interrupted && state == State::Preparing);
                state = next;
            }
            prop_assert_eq!(state == State::Abandoned, lost);
        }
    }
}
