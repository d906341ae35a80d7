//! Which of two racing jobs becomes the parent. Pure.
//!
//! When jobs of one lineage race, the fastest must not win by being fastest: a job that took ten minutes to build its
//! layers would lose them to one that took ten seconds, run after run (simstudioai/sim PR#6501: nine times of eleven).

use std::collections::BTreeMap;
use std::fmt;

/// What succession needs to know of a generation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// The generation of the *same lineage* it was made from.
    pub parent: Option<u64>,
    /// Seconds its own new layers took to build.
    pub build_seconds: f64,
}

/// What becomes of a finished job.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing happened meanwhile: it follows its parent.
    Follow,
    /// Others were promoted meanwhile, but its layers took longer to build: it takes their place.
    Outvalue {
        /// The generation whose place it takes.
        rival: u64,
    },
    /// It is not promoted.
    Yield(Yield),
}

/// Why a finished job is not promoted.
#[derive(Clone, Debug, PartialEq)]
pub enum Yield {
    /// Others were promoted meanwhile, and their layers took at least as long to build.
    Outvalued {
        /// The generation that stays.
        rival: u64,
        /// Seconds its layers, and those before it since our parent, took.
        rival_seconds: f64,
        /// Seconds our new layers took.
        our_seconds: f64,
    },
    /// The generation it started from was rolled back or dropped meanwhile.
    Withdrawn {
        /// That generation.
        base: u64,
    },
}

impl fmt::Display for Yield {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Yield::Outvalued { rival, rival_seconds, our_seconds } => write!(
                f,
                "generation {rival} came first and holds {rival_seconds:.1} s of building, this job adds {our_seconds:.1} s"
            ),
            Yield::Withdrawn { base } => {
                write!(f, "generation {base}, which it started from, was rolled back or dropped meanwhile")
            }
        }
    }
}

/// Decides for a job that started from `base` and whose new layers took `seconds` to build. `history` are the
/// lineage's generations, `current` is what its pointer names.
#[must_use]
pub fn decide(history: &BTreeMap<u64, Standing>, current: Option<u64>, base: Option<u64>, seconds: f64) -> Verdict {
    if current == base {
        return Verdict::Follow;
    }
    let Some(rival) = current else {
        // The lineage is empty now; a job that started from nothing of it may begin it.
        return match base {
            None => Verdict::Follow,
            Some(base) => Verdict::Yield(Yield::Withdrawn { base }),
        };
    };
    let mut rival_seconds = 0.0;
    let mut at = Some(rival);
    // A child's number is always greater than its parent's, which also ends a walk over records gone wrong.
    while let Some(number) = at.filter(|n| Some(*n) != base) {
        let standing = history.get(&number);
        rival_seconds += standing.map_or(0.0, |s| s.build_seconds);
        at = standing.and_then(|s| s.parent).filter(|p| *p < number);
    }
    match (at, base) {
        (None, Some(base)) => Verdict::Yield(Yield::Withdrawn { base }),
        _ if seconds > rival_seconds => Verdict::Outvalue { rival },
        _ => Verdict::Yield(Yield::Outvalued { rival, rival_seconds, our_seconds: seconds }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(entries: &[(u64, Option<u64>, f64)]) -> BTreeMap<u64, Standing> {
        entries.iter().map(|(n, parent, s)| (*n, Standing { parent: *parent, build_seconds: *s })).collect()
    }

    #[test]
    fn succession_table() {
        let h = history(&[(1, None, 60.0), (2, Some(1), 5.0), (3, Some(2), 2.0), (4, Some(1), 90.0)]);
        let outvalued =
            |rival, rival_seconds, our_seconds| Verdict::Yield(Yield::Outvalued { rival, rival_seconds, our_seconds });
        let cases = [
            ("first of all", None, None, 0.0, Verdict::Follow),
            ("follows its parent", Some(1), Some(1), 0.1, Verdict::Follow),
            ("slow build beats a fast sibling", Some(2), Some(1), 6.0, Verdict::Outvalue { rival: 2 }),
            ("fast build yields to a slow sibling", Some(4), Some(1), 3.0, outvalued(4, 90.0, 3.0)),
            ("equal value keeps what is there", Some(2), Some(1), 5.0, outvalued(2, 5.0, 5.0)),
            ("a chain counts as a whole", Some(3), Some(1), 6.5, outvalued(3, 7.0, 6.5)),
            ("cold job races a whole chain", Some(3), None, 66.0, outvalued(3, 67.0, 66.0)),
            ("cold job that took longer than the chain", Some(3), None, 68.0, Verdict::Outvalue { rival: 3 }),
            ("rolled back below its base", Some(1), Some(3), 999.0, Verdict::Yield(Yield::Withdrawn { base: 3 })),
            ("its base was dropped with all else", None, Some(3), 9.0, Verdict::Yield(Yield::Withdrawn { base: 3 })),
            ("its base is on another branch", Some(4), Some(2), 999.0, Verdict::Yield(Yield::Withdrawn { base: 2 })),
        ];
        for (name, current, base, seconds, expected) in cases {
            assert_eq!(decide(&h, current, base, seconds), expected, "{name}");
        }
    }

    #[test]
    fn history_that_goes_round_ends() {
        let h = history(&[(1, Some(2), 1.0), (2, Some(1), 1.0)]);
        assert!(matches!(decide(&h, Some(2), None, 0.5), Verdict::Yield(_)));
    }

    proptest::proptest! {
        /// Whatever order racing siblings finish in, the lineage ends with the one that took longest.
        #[test]
        fn siblings_in_any_order_keep_the_most_expensive(seconds in proptest::collection::vec(0.1f64..1000.0, 1..12)) {
            let mut h = history(&[(1, None, 1.0)]);
            let mut current = Some(1);
            for (number, s) in (2u64..).zip(&seconds) {
                match decide(&h, current, Some(1), *s) {
                    Verdict::Follow | Verdict::Outvalue { .. } => {
                        h.insert(number, Standing { parent: Some(1), build_seconds: *s });
                        current = Some(number);
                    }
                    Verdict::Yield(_) => {}
                }
            }
            let best = seconds.iter().copied().fold(0.0, f64::max);
            proptest::prop_assert_eq!(h[&current.unwrap()].build_seconds, best);
        }
    }
}
