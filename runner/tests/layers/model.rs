//! Random histories beside a model that keeps everything in a map.

use crate::engine_tree::{Bench, build, lineage, tools};
use proptest::prelude::*;
use slipway_runner::layers::{Clone, Lineage, Promotion};
use slipway_spec::job::Tier;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
enum Op {
    Clone { job: u8, tier: bool },
    Promote { which: u8, seconds: u8 },
    Discard { which: u8 },
    Rollback { job: u8, tier: bool },
    Condemn { job: u8, tier: bool },
    Drop { job: u8, tier: bool },
    Gc,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..2u8, any::<bool>()).prop_map(|(job, tier)| Op::Clone { job, tier }),
        4 => (any::<u8>(), 1..50u8).prop_map(|(which, seconds)| Op::Promote { which, seconds }),
        1 => any::<u8>().prop_map(|which| Op::Discard { which }),
        1 => (0..2u8, any::<bool>()).prop_map(|(job, tier)| Op::Rollback { job, tier }),
        1 => (0..2u8, any::<bool>()).prop_map(|(job, tier)| Op::Condemn { job, tier }),
        1 => (0..2u8, any::<bool>()).prop_map(|(job, tier)| Op::Drop { job, tier }),
        1 => Just(Op::Gc),
        1 => Just(Op::Reopen),
    ]
}

fn of(job: u8, tier: bool) -> Lineage {
    lineage(1, &format!("job{job}"), if tier { Tier::Protected } else { Tier::Unprotected })
}

/// A live engine and the tools it must have, whatever happens around it.
struct Live {
    clone: Clone,
    tools: Vec<String>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn histories_keep_every_live_engine_and_every_generation_whole(ops in prop::collection::vec(op(), 1..40)) {
        let bench = Bench::new();
        let mut store = bench.store();
        let mut live: Vec<Live> = Vec::new();
        // What each generation that was ever promoted holds.
        let mut contents: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Clone { job, tier } => {
                    let clone = store.clone_for(&of(job, tier), &format!("e-{n}"), false).expect("a clone");
                    let tools: Vec<String> = tools(&clone).into_values().collect();
                    let expected = clone.generation.as_ref().map_or_else(Vec::new, |g| contents[&g.to_string()].clone());
                    prop_assert_eq!(&tools, &expected);
                    let word = if tier { "-protected-" } else { "-unprotected-" };
                    prop_assert!(clone.generation.as_ref().is_none_or(|g| g.lineage.as_str().contains(word)));
                    live.push(Live { clone, tools });
                }
                Op::Promote { which, seconds } if !live.is_empty() => {
                    let Live { clone, mut tools } = live.remove(usize::from(which) % live.len());
                    tools.push(format!("tool of build {n}"));
                    if let Promotion::Promoted { generation, .. } =
                        build(&store, clone, &format!("build {n}"), f64::from(seconds))
                    {
                        let twice = contents.insert(generation.to_string(), tools);
                        prop_assert!(twice.is_none(), "{} was used twice", generation);
                    }
                }
                Op::Discard { which } if !live.is_empty() => {
                    let Live { clone, .. } = live.remove(usize::from(which) % live.len());
                    store.discard(clone).expect("discarded");
                }
                Op::Promote { .. } | Op::Discard { .. } => {}
                Op::Rollback { job, tier } => drop(store.rollback(&of(job, tier).key(), None)),
                Op::Condemn { job, tier } => {
                    let key = of(job, tier).key();
                    let listing = store.list().expect("a listing");
                    let current = listing.lineages.iter().find(|l| l.lineage == key)
                        .and_then(|l| l.generations.iter().find(|g| g.current));
                    if let Some(line) = current {
                        let bad = slipway_runner::layers::GenerationRef { lineage: key, number: line.number };
                        store.condemn(&bad, "the model says so").expect("condemned");
                    }
                }
                Op::Drop { job, tier } => drop(store.drop(&of(job, tier).key(), None)),
                Op::Gc => drop(store.gc().expect("collected")),
                Op::Reopen => store = bench.store(),
            }
            for engine in &live {
                let now: Vec<String> = tools(&engine.clone).into_values().collect();
                prop_assert_eq!(&now, &engine.tools);
            }
            let verified = store.verify().expect("verified");
            prop_assert!(verified.is_sound(), "after {:?}: {:?}", op, verified.faults);
        }
    }
}
