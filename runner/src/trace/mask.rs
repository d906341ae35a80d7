//! Secrets hidden in a stream of trace bytes: a value that is split over any number of writes never gets past.
//!
//! Three things are hidden (what GitLab's runner hides, section 9.4 of its contract): the values of masked variables,
//! whole; what follows a known token prefix (`glpat-…`), the prefix kept; and the values of URL parameters that carry
//! credentials. Where hidden places overlap, their union is hidden.
//!
//! Only bytes that could still become a secret are held back, so the trace stays live: the longest end of what was
//! written that is the beginning of a pattern.

use aho_corasick::{AhoCorasick, Input, MatchKind, packed};

/// What stands in place of a secret.
pub const MASKED: &[u8] = b"[MASKED]";

/// Token prefixes that are hidden in every job (GitLab's `FF_MASK_ALL_DEFAULT_TOKENS` list).
pub const TOKEN_PREFIXES: [&str; 14] = [
    "glpat-",
    "gloas-",
    "gldt-",
    "glrt-",
    "glcbt-",
    "glrtr-",
    "glptt-",
    "glft-",
    "glimt-",
    "glagent-",
    "glsoat-",
    "glffct-",
    "_gitlab_session=",
    "gltok-",
];

/// URL parameters whose values are credentials, as they are written by GitLab and by S3 clients.
const PARAMETERS: [&str; 9] = [
    "private_token=",
    "authenticity_token=",
    "rss_token=",
    "x-amz-signature=",
    "x-amz-credential=",
    "x-amz-security-token=",
    "X-Amz-Signature=",
    "X-Amz-Credential=",
    "X-Amz-Security-Token=",
];

/// A line of a multi-line secret is hidden on its own too from this length on: shorter ones are words of any log.
const LINE_BYTES_MIN: usize = 16;

/// What a pattern hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Itself.
    Secret,
    /// The word of token characters after it.
    Token,
    /// Everything after it up to the end of the parameter.
    Parameter,
}

impl Kind {
    /// Whether `byte` belongs to what is hidden after a pattern of this kind.
    fn hides(self, byte: u8) -> bool {
        match self {
            Kind::Secret => false,
            Kind::Token => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'='),
            Kind::Parameter => !byte.is_ascii_whitespace() && !matches!(byte, b'&' | b'"' | b'\'' | b'<' | b'>' | b'#'),
        }
    }
}

/// Patterns that one packed search looks for. Its fingerprints are kept in 8 or 16 buckets: with more patterns in each,
/// most places of any text look like one (123 patterns in one search: 0.6 GB/s, 32 at a time: 2.8 GB/s, measured).
const PACKED_PATTERNS: usize = 32;
/// Above so many patterns one automaton is faster than several packed searches.
const PACKED_TOTAL_MAX: usize = 256;

/// Finds the leftmost, then longest, pattern.
#[derive(Debug)]
enum Search {
    /// SIMD fingerprints, on processors that have them, [`PACKED_PATTERNS`] at a time.
    Packed(Vec<packed::Searcher>),
    /// Everywhere else.
    Automaton(Box<AhoCorasick>),
    /// There are no patterns.
    Nothing,
}

/// Pattern, start and end.
type Match = (usize, usize, usize);

impl Search {
    fn new(patterns: &[Vec<u8>]) -> Search {
        if patterns.is_empty() {
            return Search::Nothing;
        }
        let mut config = packed::Config::new();
        config.match_kind(packed::MatchKind::LeftmostLongest).heuristic_pattern_limits(false);
        if patterns.len() <= PACKED_TOTAL_MAX {
            let searches = patterns.chunks(PACKED_PATTERNS).map(|part| config.builder().extend(part).build());
            if let Some(searches) = searches.collect() {
                return Search::Packed(searches);
            }
        }
        match AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns) {
            Ok(automaton) => Search::Automaton(Box::new(automaton)),
            // Only for patterns of more than 2^31 bytes in all, which nobody can send us: variables are bounded.
            Err(_) => Search::Nothing,
        }
    }

    fn parts(&self) -> usize {
        match self {
            Search::Packed(searches) => searches.len(),
            Search::Automaton(_) => 1,
            Search::Nothing => 0,
        }
    }

    /// The next match of one part from `from` on.
    fn part(&self, part: usize, text: &[u8], from: usize) -> Option<Match> {
        let (first, found) = match self {
            Search::Packed(searches) => {
                (part * PACKED_PATTERNS, searches[part].find_in(text, (from..text.len()).into()))
            }
            Search::Automaton(automaton) => (0, automaton.find(Input::new(text).range(from..))),
            Search::Nothing => (0, None),
        };
        found.map(|found| (first + found.pattern().as_usize(), found.start(), found.end()))
    }
}

/// Goes through the matches of one text.
struct Matches<'a> {
    search: &'a Search,
    text: &'a [u8],
    /// The next match of each part, once it was looked for.
    ahead: Vec<Ahead>,
}

#[derive(Clone, Copy)]
enum Ahead {
    Unknown,
    At(Match),
    Never,
}

impl<'a> Matches<'a> {
    fn new(search: &'a Search, text: &'a [u8]) -> Self {
        Matches { search, text, ahead: vec![Ahead::Unknown; search.parts()] }
    }

    /// The next match from `from` on; `from` only grows.
    fn next(&mut self, from: usize) -> Option<Match> {
        let mut best: Option<Match> = None;
        for (part, ahead) in self.ahead.iter_mut().enumerate() {
            let stale = match ahead {
                Ahead::Unknown => true,
                Ahead::At((_, start, _)) => *start < from,
                Ahead::Never => false,
            };
            if stale {
                *ahead = self.search.part(part, self.text, from).map_or(Ahead::Never, Ahead::At);
            }
            if let Ahead::At(found @ (_, start, end)) = *ahead
                && best.is_none_or(|(_, first, last)| (start, last) < (first, end))
            {
                best = Some(found);
            }
        }
        best
    }
}

/// Which bytes, and pairs of bytes, a pattern begins with: turns away nearly every place where none does.
struct Beginnings {
    one: [bool; 256],
    two: Vec<u64>,
}

impl Beginnings {
    fn new(patterns: &[Vec<u8>]) -> Self {
        let mut one = [false; 256];
        let mut two = vec![0u64; 1024];
        for pattern in patterns {
            one[usize::from(pattern[0])] = true;
            if let Some(second) = pattern.get(1) {
                let pair = usize::from(pattern[0]) << 8 | usize::from(*second);
                two[pair >> 6] |= 1 << (pair & 63);
            }
        }
        Beginnings { one, two }
    }

    fn possible(&self, end: &[u8]) -> bool {
        match end {
            [] => false,
            [first] => self.one[usize::from(*first)],
            [first, second, ..] => {
                let pair = usize::from(*first) << 8 | usize::from(*second);
                self.two[pair >> 6] & 1 << (pair & 63) != 0
            }
        }
    }
}

/// Hides secrets in a stream.
pub struct Masker {
    search: Search,
    /// Of each pattern.
    kinds: Vec<Kind>,
    /// Sorted, for the question whether some bytes begin one.
    sorted: Vec<Vec<u8>>,
    beginnings: Beginnings,
    longest: usize,
    /// Written but not decided yet; empty but for ends that may begin a secret.
    held: Vec<u8>,
    /// Bytes at the start of `held` that a mask already written covers.
    covered: usize,
    /// A prefix was seen and what follows is hidden; whether its mask is written.
    token: Option<(Kind, bool)>,
}

impl std::fmt::Debug for Masker {
    /// Says how many patterns there are, never which.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Masker").field("patterns", &self.kinds.len()).finish_non_exhaustive()
    }
}

impl Masker {
    /// A masker for the values `secrets` (empty ones are left out) and, beside [`TOKEN_PREFIXES`] and the URL
    /// parameters that are always known, the token prefixes `prefixes`.
    pub fn new<S: AsRef<[u8]>, P: AsRef<[u8]>>(secrets: &[S], prefixes: &[P]) -> Self {
        let mut patterns: Vec<(Vec<u8>, Kind)> = Vec::new();
        for secret in secrets {
            let secret = secret.as_ref();
            patterns.push((secret.to_vec(), Kind::Secret));
            if secret.contains(&b'\n') {
                // As a terminal prints it, and line by line as tools quote it.
                patterns.push((carriage_returns(secret), Kind::Secret));
                let lines = secret.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
                patterns.extend(lines.filter(|l| l.len() >= LINE_BYTES_MIN).map(|l| (l.to_vec(), Kind::Secret)));
            }
        }
        patterns.extend(prefixes.iter().map(|p| (p.as_ref().to_vec(), Kind::Token)));
        patterns.extend(TOKEN_PREFIXES.iter().map(|p| (p.as_bytes().to_vec(), Kind::Token)));
        patterns.extend(PARAMETERS.iter().map(|p| (p.as_bytes().to_vec(), Kind::Parameter)));
        patterns.retain(|(pattern, _)| !pattern.is_empty());
        // A stable sort keeps a secret before a prefix of the same bytes: the secret wins.
        patterns.sort_by(|a, b| a.0.cmp(&b.0));
        patterns.dedup_by(|later, earlier| later.0 == earlier.0);
        let (sorted, kinds): (Vec<Vec<u8>>, Vec<Kind>) = patterns.into_iter().unzip();
        Masker {
            search: Search::new(&sorted),
            beginnings: Beginnings::new(&sorted),
            longest: sorted.iter().map(Vec::len).max().unwrap_or(0),
            kinds,
            sorted,
            held: Vec::new(),
            covered: 0,
            token: None,
        }
    }

    /// Takes bytes of the trace and appends what may be shown to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.held.is_empty() {
            let kept = self.decide(bytes, false, out);
            self.held.extend_from_slice(&bytes[kept..]);
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(bytes);
            let kept = self.decide(&held, false, out);
            held.drain(..kept);
            self.held = held;
        }
    }

    /// Ends the stream (or a part of it after which nothing can follow): appends what was held back.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        self.decide(&held, true, out);
        self.covered = 0;
        self.token = None;
    }

    /// Writes all of `text` that is decided and returns where the undecided rest begins.
    fn decide(&mut self, text: &[u8], last: bool, out: &mut Vec<u8>) -> usize {
        // A pattern that starts before `limit` is wholly in `text`; one that starts later may go on in the next write.
        let limit = if last { text.len() } else { self.undecided(text) };
        let mut covered = self.covered;
        let mut from = 0;
        let mut matches = Matches::new(&self.search, text);
        loop {
            let found = matches.next(from).filter(|(_, start, _)| *start < limit);
            let until = found.map_or(limit, |(_, start, _)| start);
            if let Some((kind, written)) = self.token {
                let run = text[covered.min(until)..until].iter().take_while(|b| kind.hides(**b)).count();
                if run > 0 && !written {
                    out.extend_from_slice(MASKED);
                    self.token = Some((kind, true));
                }
                if covered < until {
                    covered += run;
                }
                if covered < until {
                    self.token = None;
                }
            }
            let Some((pattern, start, end)) = found else { break };
            match self.kinds[pattern] {
                Kind::Secret => {
                    let inside = start < covered || matches!(self.token, Some((_, true)));
                    if !inside {
                        out.extend_from_slice(&text[covered..start]);
                        out.extend_from_slice(MASKED);
                    }
                    if let Some((kind, false)) = self.token {
                        self.token = Some((kind, true));
                    }
                    covered = covered.max(end);
                }
                kind @ (Kind::Token | Kind::Parameter) => {
                    // Inside what is hidden already a prefix is hidden too.
                    if self.token.is_none() && end > covered {
                        out.extend_from_slice(&text[covered..end]);
                        covered = end;
                        self.token = Some((kind, false));
                    }
                }
            }
            from = start + 1;
        }
        if covered < limit {
            out.extend_from_slice(&text[covered..limit]);
            covered = limit;
        }
        self.covered = covered - limit;
        limit
    }

    /// Where the longest end of `text` begins that is itself the beginning of a pattern, and not the whole of it.
    fn undecided(&self, text: &[u8]) -> usize {
        let first = text.len().saturating_sub(self.longest.saturating_sub(1));
        (first..text.len())
            .find(|at| {
                let end = &text[*at..];
                self.beginnings.possible(end) && {
                    let next = self.sorted.partition_point(|p| p.as_slice() <= end);
                    self.sorted.get(next).is_some_and(|p| p.starts_with(end))
                }
            })
            .unwrap_or(text.len())
    }
}

fn carriage_returns(secret: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(secret.len() + 16);
    for (at, byte) in secret.iter().enumerate() {
        if *byte == b'\n' && (at == 0 || secret[at - 1] != b'\r') {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out
}
