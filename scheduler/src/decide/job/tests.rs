//! Every state beside every event, and a life beside a naive model.

use super::*;
use proptest::prelude::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn lease() -> Lease {
    Lease { node: "n1".into(), fence: Fence(2), until: at(100), queued_at: at(10), leased_at: at(40) }
}

fn states() -> Vec<(&'static str, State)> {
    let end = |how| {
        State::Over(End {
            how,
            at: at(90),
            fence: Fence(2),
            node: Some("n1".into()),
            queued_at: Some(at(10)),
            leased_at: Some(at(40)),
            started_at: Some(at(50)),
        })
    };
    vec![
        ("created", State::Created),
        ("manual", State::Manual { since: at(5) }),
        ("scheduled", State::Scheduled { until: at(60) }),
        ("waiting for resource", State::WaitingForResource { since: at(5) }),
        ("pending", State::Pending { since: at(10), fence: Fence(2) }),
        ("leased", State::Leased(lease())),
        ("started", State::Started { lease: lease(), at: at(50) }),
        ("canceling", State::Canceling { lease: lease(), started: Some(at(50)), force: false }),
        ("bridge", State::Bridge { since: at(5), child: None }),
        ("bridge with child", State::Bridge { since: at(5), child: Some(PipelineId(8)) }),
        ("success", end(How::Success)),
        ("skipped", ended(How::Skipped, at(90), None, Fence::NONE)),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    let outcome = Outcome::Failed { reason: FailureReason::ScriptFailure, exit_code: Some(3), message: "no".into() };
    vec![
        ("ready", Event::Ready { at: at(70) }),
        ("wait for person", Event::WaitForPerson { at: at(70) }),
        ("delay", Event::Delay { until: at(170) }),
        ("wait for resource", Event::WaitForResource { at: at(70) }),
        ("skip", Event::Skip { at: at(70) }),
        ("reconsider", Event::Reconsider),
        ("trigger", Event::Trigger { at: at(70) }),
        ("child made", Event::ChildMade { child: PipelineId(9) }),
        ("settled", Event::Settled { how: How::Success, at: at(70) }),
        ("offered", Event::Offered { node: "n2".into(), until: at(170), at: at(70) }),
        ("declined", Event::Declined { fence: Fence(2) }),
        ("declined, stale", Event::Declined { fence: Fence(1) }),
        ("started", Event::Started { fence: Fence(2), at: at(70) }),
        ("started, stale", Event::Started { fence: Fence(1), at: at(70) }),
        ("renewed", Event::Renewed { fence: Fence(2), until: at(170) }),
        ("expired, early", Event::Expired { at: at(70), lost: false }),
        ("expired", Event::Expired { at: at(100), lost: false }),
        ("lost", Event::Expired { at: at(70), lost: true }),
        ("finished", Event::Finished { fence: Fence(2), outcome: outcome.clone(), at: at(70) }),
        ("finished, stale", Event::Finished { fence: Fence(1), outcome, at: at(70) }),
        ("cancel", Event::Cancel { at: at(70), force: false }),
    ]
}

fn shown(state: &State) -> String {
    match state {
        State::Pending { fence, since } => format!("pending since {} fence {fence}", since.as_second()),
        State::Leased(l) => format!("leased {} fence {} until {}", l.node, l.fence, l.until.as_second()),
        State::Started { lease: l, at } => {
            format!("started {} fence {} until {} at {}", l.node, l.fence, l.until.as_second(), at.as_second())
        }
        State::Canceling { lease: l, started, force } => {
            let started = started.map(|s| s.as_second());
            format!("canceling {} fence {} started {started:?} force {force}", l.node, l.fence)
        }
        State::Bridge { child, .. } => format!("bridge child {:?}", child.map(|c| c.0)),
        State::Over(end) => {
            let how = match &end.how {
                How::Failed { reason, exit_code, .. } => format!("failed {reason} {exit_code:?}"),
                other => format!("{other:?}").to_lowercase(),
            };
            format!("over {how} fence {} node {:?}", end.fence, end.node)
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn every_state_beside_every_event() {
    let mut table = String::new();
    for (state_name, state) in states() {
        table.push_str(&format!("# {state_name}\n"));
        for (event_name, event) in events() {
            let after = match state.apply(&event) {
                Ok(next) if next == state => "the same".to_owned(),
                Ok(next) => shown(&next),
                Err(refused) => format!("refused: {refused}"),
            };
            table.push_str(&format!("  {event_name:<18} {after}\n"));
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn states_survive_json() {
    for (name, state) in states() {
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state, "{name}: {json}");
    }
}

/// What matters of a job, kept the naive way.
#[derive(Default)]
struct Naive {
    fence: u64,
    leased: bool,
    script_started: u32,
    over: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Offer,
    Decline(bool),
    Start(bool),
    Expire,
    Finish(bool),
    Cancel,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Offer),
        1 => any::<bool>().prop_map(Step::Decline),
        2 => any::<bool>().prop_map(Step::Start),
        2 => Just(Step::Expire),
        2 => any::<bool>().prop_map(Step::Finish),
        1 => Just(Step::Cancel),
    ]
}

proptest! {
    /// A script starts at most once, a fence never falls, an end stays, and stale reports change nothing.
    #[test]
    fn life_agrees_with_the_naive_model(steps in prop::collection::vec(step(), 0..60)) {
        let mut state = State::Pending { since: at(0), fence: Fence::NONE };
        let mut naive = Naive::default();
        for (now, step) in (1i64..).zip(steps) {
            let before = state.clone();
            let fence_of = |current: bool| if current { Fence(naive.fence) } else { Fence(naive.fence.wrapping_add(77)) };
            let event = match &step {
                Step::Offer => Event::Offered { node: "n".into(), until: at(now + 5), at: at(now) },
                Step::Decline(current) => Event::Declined { fence: fence_of(*current) },
                Step::Start(current) => Event::Started { fence: fence_of(*current), at: at(now) },
                Step::Expire => Event::Expired { at: at(now + 1000), lost: false },
                Step::Finish(current) => Event::Finished { fence: fence_of(*current), outcome: Outcome::Success, at: at(now) },
                Step::Cancel => Event::Cancel { at: at(now), force: false },
            };
            let result = state.apply(&event);
            let stale = matches!(step, Step::Decline(false) | Step::Start(false) | Step::Finish(false));
            if stale {
                prop_assert!(result.is_err());
            }
            if naive.over {
                prop_assert!(result.is_err() || result.as_ref() == Ok(&before));
            }
            if let Ok(next) = result {
                match step {
                    Step::Offer => { naive.fence += 1; naive.leased = true; }
                    Step::Decline(_) => naive.leased = false,
                    Step::Start(_) if naive.leased && !matches!(before, State::Started { .. } | State::Canceling { .. }) => naive.script_started += 1,
                    Step::Start(_) => {}
                    Step::Expire | Step::Finish(_) | Step::Cancel => {}
                }
                prop_assert!(next.fence() >= before.fence());
                state = next;
                naive.over = state.end().is_some();
                naive.leased = state.lease().is_some();
            } else {
                prop_assert_eq!(&state, &before);
            }
            prop_assert_eq!(state.fence(), Fence(naive.fence));
            prop_assert!(naive.script_started <= 1);
        }
    }
}
