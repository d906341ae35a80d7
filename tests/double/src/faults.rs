//! Seeded failures.

/// What happens to a call instead of, or beside, its proper answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An answer with this status; the call has no effect.
    Status(u16),
    /// The connection is cut; the call has no effect.
    CutBefore,
    /// The connection is cut; the call has had its effect.
    CutAfter,
    /// The call takes effect twice, as by a proxy's retry; the second answer is sent.
    Twice,
    /// The proper answer comes late.
    Slow,
}

/// A share of calls fails.
#[derive(Clone, Debug)]
pub struct Faults {
    state: u64,
    per_cent: u64,
}

impl Faults {
    /// So many per cent of calls fail, by this seed.
    #[must_use]
    pub fn new(seed: u64, per_cent: u64) -> Self {
        Faults { state: seed, per_cent }
    }

    /// The fate of the next call. `asks`: it asks for a job; such a call has no effect when it fails, since GitLab
    /// itself would lose the job.
    pub fn draw(&mut self, asks: bool) -> Option<Fault> {
        if self.next() % 100 >= self.per_cent {
            return None;
        }
        let harmless = [
            Fault::Status(429),
            Fault::Status(500),
            Fault::Status(502),
            Fault::Status(503),
            Fault::Status(409),
            Fault::CutBefore,
            Fault::Slow,
        ];
        let effective = [Fault::CutAfter, Fault::Twice];
        let n = (self.next() % (harmless.len() + effective.len()) as u64) as usize;
        match harmless.get(n) {
            Some(fault) => Some(*fault),
            None if asks => Some(Fault::CutBefore),
            None => Some(effective[n - harmless.len()]),
        }
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
