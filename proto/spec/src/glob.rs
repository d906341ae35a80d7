//! Two pattern languages, which do not mean the same.
//!
//! | type | where | `dir/**` |
//! |---|---|---|
//! | [`RubyGlob`] | `rules:changes`, `rules:exists`: Ruby's `File.fnmatch` with PATHNAME, DOTMATCH, EXTGLOB | the files of `dir` alone |
//! | [`Doublestar`] | `artifacts`, `cache`: Go's doublestar, as GitLab's runner reads them | everything below `dir` |
//!
//! Both take bytes: a path in a repository or a work tree need not be UTF-8. Both are bounded: alternatives are counted
//! when a pattern is made, and a match takes at most pattern times path steps for each.

use thiserror::Error;

/// A pattern may be this long, in bytes.
pub const MAX_PATTERN: usize = 4096;
/// `{a,b}` may stand for this many patterns in all.
pub const MAX_ALTERNATIVES: usize = 512;

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GlobError {
    /// Longer than [`MAX_PATTERN`].
    #[error("the pattern has {0} bytes, at most {MAX_PATTERN} are allowed")]
    TooLong(usize),
    /// Its braces stand for more than [`MAX_ALTERNATIVES`].
    #[error(
        "the braces of the pattern {0:?} stand for more than {MAX_ALTERNATIVES} patterns; write fewer alternatives"
    )]
    TooManyAlternatives(String),
    /// A class without its end, a range without its ends, a brace without its partner, a backslash at the end.
    #[error("the pattern {0:?} is not complete: a `[`, `{{` or `\\` has no end")]
    Incomplete(String),
}

/// A pattern as Ruby's `File.fnmatch` reads it with PATHNAME, DOTMATCH and EXTGLOB.
#[derive(Clone, Debug)]
pub struct RubyGlob {
    alternatives: Vec<Vec<u8>>,
}

impl RubyGlob {
    /// Reads a pattern. One that Ruby would never match (`{a` without its end) is one that never matches.
    ///
    /// # Errors
    /// When it is too long or stands for too many patterns.
    pub fn new(pattern: &str) -> Result<Self, GlobError> {
        if pattern.len() > MAX_PATTERN {
            return Err(GlobError::TooLong(pattern.len()));
        }
        let mut alternatives = Vec::new();
        if expand_braces(pattern.as_bytes(), &mut alternatives).is_none() {
            return Err(GlobError::TooManyAlternatives(pattern.into()));
        }
        Ok(RubyGlob { alternatives })
    }

    /// Whether the pattern is the whole of `path`.
    #[must_use]
    pub fn matches(&self, path: impl AsRef<[u8]>) -> bool {
        let path = path.as_ref();
        self.alternatives.iter().any(|pattern| ruby_match(pattern, path))
    }

    /// Whether the text has none of the characters that make it more than a path.
    #[must_use]
    pub fn is_literal(pattern: &str) -> bool {
        !pattern.contains(['*', '?', '[', '{', '\\'])
    }
}

/// Ruby's brace expansion, outermost first. `None` when there are too many.
fn expand_braces(pattern: &[u8], out: &mut Vec<Vec<u8>>) -> Option<()> {
    let (mut open, mut close, mut nest, mut at) = (None, None, 0usize, 0);
    while at < pattern.len() {
        match pattern[at] {
            b'{' => {
                if nest == 0 {
                    open = Some(at);
                }
                nest += 1;
            }
            b'}' if open.is_some() => {
                nest -= 1;
                if nest == 0 {
                    close = Some(at);
                    break;
                }
            }
            b'\\' => at += 1,
            _ => {}
        }
        at += 1;
    }
    match (open, close) {
        (Some(open), Some(close)) => {
            for choice in choices(&pattern[open + 1..close]) {
                let mut whole = Vec::with_capacity(pattern.len());
                whole.extend_from_slice(&pattern[..open]);
                whole.extend_from_slice(choice);
                whole.extend_from_slice(&pattern[close + 1..]);
                expand_braces(&whole, out)?;
            }
        }
        (None, _) => {
            if out.len() >= MAX_ALTERNATIVES {
                return None;
            }
            out.push(pattern.to_vec());
        }
        // An opening brace without its partner: Ruby calls the matcher with nothing.
        (Some(_), None) => {}
    }
    Some(())
}

/// The comma-separated parts of a brace's inside; commas of inner braces do not count.
fn choices(inside: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut start, mut nest, mut at) = (Vec::new(), 0, 0i32, 0);
    while at < inside.len() {
        match inside[at] {
            b'{' => nest += 1,
            b'}' => nest -= 1,
            b'\\' => at += 1,
            b',' if nest == 0 => {
                parts.push(&inside[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push(&inside[start.min(inside.len())..]);
    parts
}

/// One alternative against a path, component by component; `**/` remembers where to try again.
fn ruby_match(pattern: &[u8], path: &[u8]) -> bool {
    let (mut p, mut s) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    loop {
        if pattern[p..].starts_with(b"**/") {
            while pattern[p..].starts_with(b"**/") {
                p += 3;
            }
            again = Some((p, s));
        }
        if component(pattern, &mut p, path, &mut s) {
            while s < path.len() && path[s] != b'/' {
                s += 1;
            }
            match (p < pattern.len(), s < path.len()) {
                (true, true) => {
                    p += 1;
                    s += 1;
                    continue;
                }
                (false, false) => return true,
                _ => {}
            }
        }
        let Some((from, mut retry)) = again else { return false };
        while retry < path.len() && path[retry] != b'/' {
            retry += 1;
        }
        if retry >= path.len() {
            return false;
        }
        again = Some((from, retry + 1));
        p = from;
        s = retry + 1;
    }
}

/// Matches up to the next `/` or the end of both. Leaves `p` at the pattern's end of the component when it matched.
fn component(pattern: &[u8], p: &mut usize, path: &[u8], s: &mut usize) -> bool {
    let ends = |text: &[u8], at: usize| at >= text.len() || text[at] == b'/';
    let mut star: Option<(usize, usize)> = None;
    loop {
        let mut failed = false;
        match pattern.get(*p) {
            Some(b'*') => {
                while pattern.get(*p) == Some(&b'*') {
                    *p += 1;
                }
                let after = unescape(pattern, *p);
                if ends(pattern, after) {
                    *p = after;
                    return true;
                }
                if ends(path, *s) {
                    return false;
                }
                star = Some((*p, *s));
                continue;
            }
            Some(b'?') => {
                if ends(path, *s) {
                    return false;
                }
                *p += 1;
                *s += char_len(path, *s);
                continue;
            }
            Some(b'[') => {
                if ends(path, *s) {
                    return false;
                }
                match ruby_class(pattern, *p + 1, path, *s) {
                    Some(next) => {
                        *p = next;
                        *s += char_len(path, *s);
                        continue;
                    }
                    None => failed = true,
                }
            }
            _ => {}
        }
        if !failed {
            *p = unescape(pattern, *p);
            if ends(path, *s) {
                return ends(pattern, *p);
            }
            if !ends(pattern, *p) && pattern[*p] == path[*s] {
                *p += 1;
                *s += 1;
                continue;
            }
        }
        let Some((from, retry)) = star else { return false };
        let next = retry + char_len(path, retry);
        star = Some((from, next));
        *p = from;
        *s = next;
    }
}

/// The position of the character meant: behind a backslash that is not the last.
fn unescape(pattern: &[u8], at: usize) -> usize {
    if pattern.get(at) == Some(&b'\\') && at + 1 < pattern.len() { at + 1 } else { at }
}

/// The bytes of the character that starts here; 1 for bytes that are no UTF-8.
fn char_len(text: &[u8], at: usize) -> usize {
    let len = match text.get(at) {
        Some(0xC2..=0xDF) => 2,
        Some(0xE0..=0xEF) => 3,
        Some(0xF0..=0xF4) => 4,
        _ => 1,
    };
    len.min(text.len().saturating_sub(at)).max(1)
}

/// The character that starts here, and how many bytes it has.
fn char_at(text: &[u8], at: usize) -> (u32, usize) {
    let len = char_len(text, at);
    match std::str::from_utf8(&text[at..at + len]).ok().and_then(|c| c.chars().next()) {
        Some(c) => (u32::from(c), len),
        None => (u32::from(text[at]), 1),
    }
}

/// Ruby's bracket: `at` is behind the `[`. The position behind the `]` when the class holds the character.
fn ruby_class(pattern: &[u8], mut at: usize, path: &[u8], s: usize) -> Option<usize> {
    let (wanted, _) = char_at(path, s);
    let negated = matches!(pattern.get(at), Some(b'!' | b'^'));
    if negated {
        at += 1;
    }
    let mut found = false;
    while at < pattern.len() {
        if pattern[at] == b']' {
            return (found != negated).then_some(at + 1);
        }
        let low = unescape(pattern, at);
        let (first, len) = char_at(pattern, low);
        at = low + len;
        if at >= pattern.len() {
            return None;
        }
        let mut last = first;
        if pattern[at] == b'-' && pattern.get(at + 1).is_some_and(|c| *c != b']') {
            let high = unescape(pattern, at + 1);
            let (end, len) = char_at(pattern, high);
            last = end;
            at = high + len;
        }
        found |= wanted == first || wanted == last || (first..=last).contains(&wanted);
    }
    None
}

/// A pattern of `artifacts` and `cache`: `**` as a whole component stands for any number of directories.
#[derive(Clone, Debug)]
pub struct Doublestar {
    text: String,
    alternatives: Vec<Vec<Component>>,
}

#[derive(Clone, Debug)]
enum Component {
    /// `**`
    Any,
    /// Everything else, as written.
    One(Vec<u8>),
}

impl Doublestar {
    /// Reads a pattern. `./` in front and `/` at the end are dropped.
    ///
    /// # Errors
    /// When it is too long, stands for too many patterns, or lacks an end.
    pub fn new(pattern: &str) -> Result<Self, GlobError> {
        if pattern.len() > MAX_PATTERN {
            return Err(GlobError::TooLong(pattern.len()));
        }
        let mut clean = pattern;
        while let Some(rest) = clean.strip_prefix("./") {
            clean = rest.trim_start_matches('/');
        }
        let clean = clean.trim_end_matches('/');
        if !complete(clean.as_bytes()) {
            return Err(GlobError::Incomplete(pattern.into()));
        }
        let mut expanded = Vec::new();
        if expand_braces(clean.as_bytes(), &mut expanded).is_none() {
            return Err(GlobError::TooManyAlternatives(pattern.into()));
        }
        let alternatives = expanded
            .iter()
            .map(|p| {
                let mut parts: Vec<Component> = Vec::new();
                for part in p.split(|b| *b == b'/') {
                    match part {
                        b"**" if matches!(parts.last(), Some(Component::Any)) => {}
                        b"**" => parts.push(Component::Any),
                        part => parts.push(Component::One(part.to_vec())),
                    }
                }
                parts
            })
            .collect();
        Ok(Doublestar { text: clean.into(), alternatives })
    }

    /// The pattern as it was read.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the pattern is the whole of `path` (relative, `/` between components, none at the ends).
    #[must_use]
    pub fn matches(&self, path: impl AsRef<[u8]>) -> bool {
        let parts: Vec<&[u8]> = path.as_ref().split(|b| *b == b'/').collect();
        self.alternatives.iter().any(|pattern| components_match(pattern, &parts))
    }

    /// Whether the pattern is the path, or a directory above it: directories are taken whole.
    #[must_use]
    pub fn takes(&self, path: impl AsRef<[u8]>) -> bool {
        let path = path.as_ref();
        // `.` is the work tree itself.
        self.text == "."
            || self.matches(path)
            || (0..path.len()).filter(|at| path[*at] == b'/').any(|at| self.matches(&path[..at]))
    }

    /// The leading components without special characters: nothing outside of them can match, so a walk starts there.
    /// Empty means everything has to be looked at.
    #[must_use]
    pub fn base(&self) -> String {
        let literal = |part: &&str| RubyGlob::is_literal(part) && !part.contains('}');
        self.text.split('/').take_while(literal).collect::<Vec<_>>().join("/")
    }
}

/// Every `[`, `{` and `\` has its end.
fn complete(pattern: &[u8]) -> bool {
    let (mut at, mut braces) = (0, 0i32);
    while at < pattern.len() {
        match pattern[at] {
            b'\\' => {
                at += 1;
                if at >= pattern.len() {
                    return false;
                }
            }
            b'{' => braces += 1,
            b'}' => braces -= 1,
            b'[' => {
                at += 1;
                if matches!(pattern.get(at), Some(b'!' | b'^')) {
                    at += 1;
                }
                let start = at;
                while at < pattern.len() && (pattern[at] != b']' || at == start) {
                    at += if pattern[at] == b'\\' { 2 } else { 1 };
                }
                if at >= pattern.len() {
                    return false;
                }
            }
            _ => {}
        }
        if braces < 0 {
            return false;
        }
        at += 1;
    }
    braces == 0
}

/// Components against components; the last `**` remembers where to try again, which is enough: an earlier one can
/// only skip less.
fn components_match(pattern: &[Component], path: &[&[u8]]) -> bool {
    let (mut p, mut s) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    loop {
        let matched = match (pattern.get(p), path.get(s)) {
            (None, None) => return true,
            (Some(Component::Any), _) => {
                p += 1;
                again = Some((p, s));
                continue;
            }
            (Some(Component::One(part)), Some(name)) => {
                let (mut i, mut j) = (0, 0);
                // `*` at the end leaves the rest of the name unread.
                component(part, &mut i, name, &mut j) && i >= part.len()
            }
            _ => false,
        };
        if matched {
            p += 1;
            s += 1;
            continue;
        }
        let Some((from, retry)) = again else { return false };
        if retry >= path.len() {
            return false;
        }
        again = Some((from, retry + 1));
        p = from;
        s = retry + 1;
    }
}
