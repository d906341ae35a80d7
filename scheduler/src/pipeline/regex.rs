//! RE2's pattern language on a linear engine.
//!
//! GitLab compiles the patterns of `rules`, `only`, `coverage` and input checks with RE2. The `regex` crate is the same
//! kind of engine, linear in the text whatever the pattern, but not the same language. A pattern is read here by RE2's
//! rules and written again in the crate's: `\d \w \s \b` are ASCII, `a{,3}` and `\Q..\E` are taken, `a++`, `(?x)` and
//! look-around are refused, `&&` and `[` inside a class are themselves.

use regex::{Regex, RegexBuilder};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use thiserror::Error;

/// Bytes a pattern may have.
pub const MAX_PATTERN: usize = 4096;
/// Bytes its program may take: `(a{1000}){1000}` must not.
const MAX_PROGRAM: usize = 1 << 20;
/// [`Pattern::cost`] that all patterns of a configuration may have together: a quarter of a
/// second, and about 100 MB.
pub const MAX_COST: u32 = 10_000;
/// RE2's bound of one repetition.
const MAX_REPEAT: u32 = 1000;

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Longer than [`MAX_PATTERN`].
    #[error("the pattern has {0} bytes, at most {MAX_PATTERN} are allowed")]
    TooLong(usize),
    /// Its program is too big.
    #[error("the pattern's repetitions make it too big; repeat less")]
    TooBig,
    /// Not RE2.
    #[error("{what}: `{text}`")]
    Syntax {
        /// What is wrong, in RE2's words where it has some.
        what: &'static str,
        /// The part of the pattern.
        text: String,
        /// Where it starts, in characters from 0.
        at: usize,
    },
}

/// A pattern that was read and is right. Its program is made when it is asked for and kept as long as there is room:
/// a configuration may hold a hundred thousand patterns, and a program takes some ten kilobytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    inside: String,
    flags: String,
    cost: u32,
}

impl Pattern {
    /// Reads a pattern of RE2's language. `flags` are letters of `ismU`.
    ///
    /// # Errors
    /// When RE2 would refuse it, or when it is too big.
    pub fn new(inside: &str, flags: &str) -> Result<Self, PatternError> {
        let cost = with_program(inside, flags, |_, cost| cost)?;
        Ok(Pattern { inside: inside.into(), flags: flags.into(), cost })
    }

    /// Reads a pattern that a variable holds, `/inside/flags`; `None` when the text is not of that form. Such patterns are
    /// not counted against [`MAX_COST`], so big ones are refused.
    ///
    /// # Errors
    /// When RE2 would refuse it, or when it is too big.
    #[must_use]
    pub fn of_variable(text: &str) -> Option<Result<Self, PatternError>> {
        let (inside, flags) = slashed(text)?;
        let pattern = Pattern::new(&inside, flags);
        Some(pattern.and_then(|p| if p.cost > COSTS[1].1 { Err(PatternError::TooBig) } else { Ok(p) }))
    }

    /// Whether the text has it.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        with_program(&self.inside, &self.flags, |program, _| program.is_match(text)).unwrap_or(false)
    }

    /// What is between the slashes.
    #[must_use]
    pub fn inside(&self) -> &str {
        &self.inside
    }

    /// How much work it is to make its program, in units of about 20 µs (measured: 13 µs for a small one, 5 ms for one
    /// that needs [`MAX_PROGRAM`]). See [`MAX_COST`].
    #[must_use]
    pub fn cost(&self) -> u32 {
        self.cost
    }
}

/// Programs by flags and pattern with what each costs, and what all of them cost.
type Kept = (HashMap<String, (Regex, u32)>, u32);

thread_local! {
    /// A memory of what [`compile`] gave, as jobs ask the same patterns over and over, and what is in it costs together.
    /// It has room for all patterns of a configuration.
    static KEPT: RefCell<Kept> = RefCell::default();
}

fn with_program<T>(inside: &str, flags: &str, ask: impl FnOnce(&Regex, u32) -> T) -> Result<T, PatternError> {
    let key = format!("{flags}/{inside}");
    KEPT.with(|kept| {
        if let Some((program, cost)) = kept.borrow().0.get(&key) {
            return Ok(ask(program, *cost));
        }
        let (program, cost) = compile_with_cost(inside, flags)?;
        let answer = ask(&program, cost);
        let (programs, total) = &mut *kept.borrow_mut();
        if total.saturating_add(cost) > MAX_COST {
            programs.clear();
            *total = 0;
        }
        *total += cost;
        programs.insert(key, (program, cost));
        Ok(answer)
    })
}

/// Compiles a pattern of RE2's language. `flags` are letters of `ismU`.
///
/// # Errors
/// When RE2 would refuse it, or when it is too big.
pub fn compile(pattern: &str, flags: &str) -> Result<Regex, PatternError> {
    compile_with_cost(pattern, flags).map(|(program, _)| program)
}

/// Bytes of a program, and what making one of up to so many costs.
const COSTS: [(usize, u32); 3] = [(16 << 10, 1), (64 << 10, 20), (MAX_PROGRAM, 200)];

fn compile_with_cost(pattern: &str, flags: &str) -> Result<(Regex, u32), PatternError> {
    if pattern.len() > MAX_PATTERN {
        return Err(PatternError::TooLong(pattern.len()));
    }
    let mut text = String::with_capacity(pattern.len() + 8);
    if !flags.is_empty() {
        let _ = write!(text, "(?{})", unique(flags));
    }
    Translator { chars: pattern.chars().collect(), at: 0, out: &mut text }.run()?;
    for (limit, cost) in COSTS {
        let built = RegexBuilder::new(&text).size_limit(limit).dfa_size_limit(MAX_PROGRAM).nest_limit(100).build();
        match built {
            Ok(program) => return Ok((program, cost)),
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(_) => {
                let what = "not a regular expression in RE2 syntax";
                return Err(PatternError::Syntax { what, text: pattern.into(), at: 0 });
            }
        }
    }
    Err(PatternError::TooBig)
}

/// The same letter twice is no error in GitLab, but one in the crate.
fn unique(flags: &str) -> String {
    let mut seen = String::new();
    for c in flags.chars() {
        if !seen.contains(c) {
            seen.push(c);
        }
    }
    seen
}

/// The inside and the flags of `/inside/flags`; the inside with `\/` made `/`. `None` when the text is not of that form.
#[must_use]
pub fn slashed(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix('/')?;
    let end = inside.rfind('/')?;
    let (inside, flags) = (&inside[..end], &inside[end + 1..]);
    if inside.contains('\n') || !flags.chars().all(|c| "ismU".contains(c)) {
        return None;
    }
    Some((inside.replace("\\/", "/"), flags))
}

/// Compiles `/inside/flags`. `None` when the text is not of that form.
#[must_use]
pub fn compile_slashed(text: &str) -> Option<Result<Regex, PatternError>> {
    let (inside, flags) = slashed(text)?;
    Some(compile(&inside, flags))
}

/// The inside of the class that `\d`, `\w` or `\s` stands for.
fn class_of(letter: char) -> Option<&'static str> {
    Some(match letter.to_ascii_lowercase() {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        's' => r"\t\n\x0C\r ",
        _ => return None,
    })
}

struct Translator<'o> {
    chars: Vec<char>,
    at: usize,
    out: &'o mut String,
}

/// What stands before a repetition sign.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    /// Nothing that could be repeated.
    Nothing,
    /// Something.
    Something,
    /// A repetition, which RE2 does not repeat again.
    Repeated(usize),
}

impl Translator<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn error<T>(&self, what: &'static str, from: usize, to: usize) -> Result<T, PatternError> {
        let text = self.chars[from.min(self.chars.len())..to.clamp(from, self.chars.len())].iter().take(40).collect();
        Err(PatternError::Syntax { what, text, at: from })
    }

    fn run(mut self) -> Result<(), PatternError> {
        let mut before = Before::Nothing;
        let mut depth: Vec<usize> = Vec::new();
        while let Some(c) = self.peek(0) {
            let start = self.at;
            before = match c {
                '\\' => self.escape()?,
                '[' => {
                    self.class()?;
                    Before::Something
                }
                '(' => {
                    // `(?i)` is flags for the rest and opens nothing.
                    if self.group()? {
                        depth.push(start);
                    }
                    Before::Nothing
                }
                ')' => {
                    if depth.pop().is_none() {
                        return self.error("unexpected )", start, start + 1);
                    }
                    self.literal_sign(')');
                    Before::Something
                }
                '|' => {
                    self.literal_sign('|');
                    Before::Nothing
                }
                '*' | '+' | '?' => {
                    self.literal_sign(c);
                    self.repetition(before, start)?
                }
                '{' => match self.bounds() {
                    Some((min, max, len)) => {
                        if min > MAX_REPEAT || max.is_some_and(|m| m > MAX_REPEAT || m < min) {
                            return self.error("invalid repetition size", start, start + len);
                        }
                        self.at += len;
                        let _ = match max {
                            Some(max) => write!(self.out, "{{{min},{max}}}"),
                            None => write!(self.out, "{{{min},}}"),
                        };
                        self.repetition(before, start)?
                    }
                    None => {
                        self.at += 1;
                        self.out.push_str(r"\{");
                        Before::Something
                    }
                },
                '^' | '$' | '.' => {
                    self.literal_sign(c);
                    Before::Something
                }
                c => {
                    self.at += 1;
                    self.literal(c);
                    Before::Something
                }
            };
        }
        match depth.first() {
            Some(open) => self.error("missing )", *open, self.chars.len()),
            None => Ok(()),
        }
    }

    /// A sign that means the same in both languages.
    fn literal_sign(&mut self, c: char) {
        self.at += 1;
        self.out.push(c);
    }

    /// A character that stands for itself.
    fn literal(&mut self, c: char) {
        if c.is_ascii_punctuation() {
            self.out.push('\\');
        }
        self.out.push(c);
    }

    /// Behind a repetition sign: the lazy mark, and the check that there was something to repeat.
    fn repetition(&mut self, before: Before, start: usize) -> Result<Before, PatternError> {
        if self.peek(0) == Some('?') {
            self.literal_sign('?');
        }
        match before {
            Before::Nothing => self.error("no argument for repetition operator", start, self.at),
            Before::Repeated(from) => self.error("bad repetition operator", from, self.at),
            Before::Something => Ok(Before::Repeated(start)),
        }
    }

    /// `{2}`, `{2,}`, `{2,3}` here: least, most, characters. Anything else is a literal brace.
    fn bounds(&self) -> Option<(u32, Option<u32>, usize)> {
        let close = self.chars[self.at..].iter().take(24).position(|c| *c == '}')?;
        let inside: String = self.chars[self.at + 1..self.at + close].iter().collect();
        let number = |t: &str| {
            let digits = !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| t.parse().unwrap_or(u32::MAX))
        };
        match inside.split_once(',') {
            None => number(&inside).map(|n| (n, Some(n), close + 1)),
            Some((min, "")) => number(min).map(|n| (n, None, close + 1)),
            Some((min, max)) => Some((number(min)?, Some(number(max)?), close + 1)),
        }
    }

    /// At `(`. False when it was flags alone, which open nothing.
    fn group(&mut self) -> Result<bool, PatternError> {
        let start = self.at;
        if self.peek(1) != Some('?') {
            self.literal_sign('(');
            return Ok(true);
        }
        if self.peek(2) == Some('P') && self.peek(3) == Some('<') {
            let name: String = self.chars[start + 4..].iter().take_while(|c| **c != '>').collect();
            let end = start + 4 + name.chars().count();
            let valid = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !valid || self.chars.get(end) != Some(&'>') {
                return self.error("invalid named capture group", start, end + 1);
            }
            // The crate wants a letter in front; RE2 does not.
            let _ = write!(self.out, "(?P<_{name}>");
            self.at = end + 1;
            return Ok(true);
        }
        let mut at = start + 2;
        let mut flags = String::new();
        while let Some(c) = self.chars.get(at).copied() {
            at += 1;
            match c {
                'i' | 's' | 'm' | 'U' => flags.push(c),
                '-' if !flags.contains('-') => flags.push(c),
                ':' | ')' if !flags.ends_with('-') && (c == ':' || !flags.is_empty()) => {
                    let _ = write!(self.out, "(?{}{c}", unique(&flags));
                    self.at = at;
                    return Ok(c == ':');
                }
                _ => break,
            }
        }
        self.error("invalid perl operator", start, at)
    }

    /// At a backslash outside of a class.
    fn escape(&mut self) -> Result<Before, PatternError> {
        let start = self.at;
        let Some(c) = self.peek(1) else { return self.error("trailing \\", start, start + 1) };
        if let Some(inside) = class_of(c) {
            let not = if c.is_ascii_uppercase() { "^" } else { "" };
            let _ = write!(self.out, "[{not}{inside}]");
            self.at += 2;
            return Ok(Before::Something);
        }
        match c {
            'b' => self.pair(r"(?-u:\b)"),
            'B' => self.pair(r"(?-u:\B)"),
            'A' => self.pair(r"\A"),
            'z' => self.pair(r"\z"),
            // One byte in RE2; one character here, as our texts are UTF-8.
            'C' => self.pair("(?s:.)"),
            'Q' => {
                self.at += 2;
                let mut any = false;
                while let Some(c) = self.peek(0) {
                    if c == '\\' && self.peek(1) == Some('E') {
                        self.at += 2;
                        break;
                    }
                    self.at += 1;
                    self.literal(c);
                    any = true;
                }
                return Ok(if any { Before::Something } else { Before::Nothing });
            }
            'p' | 'P' => self.property()?,
            _ => {
                let c = self.escaped_char()?;
                self.character(c);
            }
        }
        Ok(Before::Something)
    }

    fn pair(&mut self, text: &str) {
        self.out.push_str(text);
        self.at += 2;
    }

    /// `\pL`, `\p{Greek}`, `\P{^..}`.
    fn property(&mut self) -> Result<(), PatternError> {
        let start = self.at;
        let len = match self.peek(2) {
            Some('{') => match self.chars[start..].iter().take(64).position(|c| *c == '}') {
                Some(end) => end + 1,
                None => return self.error("invalid character class range", start, start + 8),
            },
            Some(_) => 3,
            None => return self.error("invalid character class range", start, start + 2),
        };
        self.out.extend(&self.chars[start..start + len]);
        self.at += len;
        Ok(())
    }

    /// At a backslash that stands for one character.
    fn escaped_char(&mut self) -> Result<char, PatternError> {
        let start = self.at;
        let Some(c) = self.peek(1) else { return self.error("trailing \\", start, start + 1) };
        self.at += 2;
        let code = match c {
            'a' => 0x07,
            'f' => 0x0C,
            'n' => 0x0A,
            'r' => 0x0D,
            't' => 0x09,
            'v' => 0x0B,
            'x' => {
                let digits: String = match self.peek(0) {
                    Some('{') => {
                        let inside: String =
                            self.chars[self.at + 1..].iter().take(8).take_while(|c| **c != '}').collect();
                        self.at += inside.chars().count() + 2;
                        inside
                    }
                    _ => {
                        let two: String = self.chars[self.at..].iter().take(2).collect();
                        self.at += 2;
                        two
                    }
                };
                match u32::from_str_radix(&digits, 16) {
                    Ok(code) if digits.len() >= 2 || self.chars.get(start + 2) == Some(&'{') => code,
                    _ => return self.error("invalid escape sequence", start, self.at),
                }
            }
            // Octal: `\0`, `\012`; a single other digit is a back-reference, which no linear engine has.
            '0'..='7' => {
                let more = self.chars[self.at..].iter().take(2).take_while(|c| ('0'..='7').contains(*c)).count();
                if c != '0' && more == 0 {
                    return self.error("invalid escape sequence (there are no back-references)", start, self.at);
                }
                let digits: String = self.chars[start + 1..self.at + more].iter().collect();
                self.at += more;
                u32::from_str_radix(&digits, 8).unwrap_or(0)
            }
            c if c.is_ascii_punctuation() && c != '_' || c == ' ' => u32::from(c),
            _ => return self.error("invalid escape sequence", start, self.at),
        };
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None => self.error("invalid escape sequence", start, self.at),
        }
    }

    /// A character by its number: nothing can be read into it.
    fn character(&mut self, c: char) {
        let _ = write!(self.out, r"\x{{{:X}}}", u32::from(c));
    }

    /// At `[`.
    fn class(&mut self) -> Result<(), PatternError> {
        let start = self.at;
        self.literal_sign('[');
        if self.peek(0) == Some('^') {
            self.literal_sign('^');
        }
        let mut first = true;
        loop {
            let Some(c) = self.peek(0) else { return self.error("missing ]", start, self.chars.len()) };
            if c == ']' && !first {
                self.literal_sign(']');
                return Ok(());
            }
            first = false;
            if c == '['
                && self.peek(1) == Some(':')
                && let Some(name) = self.posix_class()
            {
                if !POSIX.contains(&name.trim_start_matches('^')) {
                    return self.error("invalid character class range", self.at, self.at + name.len() + 4);
                }
                let _ = write!(self.out, "[:{name}:]");
                self.at += name.chars().count() + 4;
                continue;
            }
            if c == '\\' {
                let letter = self.peek(1).unwrap_or('\\');
                if let Some(inside) = class_of(letter) {
                    let _ = match letter.is_ascii_uppercase() {
                        true => write!(self.out, "[^{inside}]"),
                        false => write!(self.out, "{inside}"),
                    };
                    self.at += 2;
                    continue;
                }
                if matches!(letter, 'p' | 'P') {
                    self.property()?;
                    continue;
                }
            }
            let from = self.at;
            let low = self.class_char()?;
            let mut high = low;
            if self.peek(0) == Some('-') && self.peek(1).is_some_and(|c| c != ']') {
                self.at += 1;
                high = self.class_char()?;
                if high < low {
                    return self.error("invalid character class range", from, self.at);
                }
            }
            self.character(low);
            if high != low {
                self.out.push('-');
                self.character(high);
            }
        }
    }

    fn class_char(&mut self) -> Result<char, PatternError> {
        match self.peek(0) {
            Some('\\') => self.escaped_char(),
            Some(c) => {
                self.at += 1;
                Ok(c)
            }
            None => self.error("missing ]", self.at, self.at),
        }
    }

    /// The name of `[:name:]` here.
    fn posix_class(&self) -> Option<String> {
        let name: String = self.chars[self.at + 2..].iter().take(12).take_while(|c| **c != ':').collect();
        let end = self.at + 2 + name.chars().count();
        (self.chars.get(end) == Some(&':') && self.chars.get(end + 1) == Some(&']')).then_some(name)
    }
}

const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];
