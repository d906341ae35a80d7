//! Durations as people write them: `1h 30m`, `2 weeks and 3 days`, `1:30`. GitLab's grammar (`gitlab_chronic_duration`):
//! a number and a unit, any number of times, in any order, added up; without a unit seconds.

use std::time::Duration;
use thiserror::Error;

/// Bytes a duration may have.
const MAX_TEXT: usize = 256;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    /// A word that is no number, unit or joining word.
    #[error("{word:?} is not part of a duration; write for example \"1h 30m\" or \"90 minutes\"")]
    UnknownWord {
        /// That word.
        word: String,
    },
    /// Nothing, or zero.
    #[error("{0:?} is no time at all; a duration is longer than zero")]
    Empty(String),
    /// `1:2:3:4:5:6:7`, or more than fits.
    #[error("{0:?} is longer than any duration can be")]
    TooLong(String),
}

/// Reads a duration.
///
/// # Errors
/// When a word is not known, or when it is zero, which is none.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    if text.len() > MAX_TEXT {
        return Err(DurationError::TooLong(text.chars().take(40).collect()));
    }
    let tokens = tokens(&text.to_lowercase());
    let tokens = clock(tokens).ok_or_else(|| DurationError::TooLong(text.into()))?;
    let mut items: Vec<Item> = Vec::new();
    for token in tokens {
        match token {
            Token::Number(n) => items.push(Item::Number(n)),
            Token::Unit(seconds) => items.push(Item::Unit(seconds)),
            Token::Word(word) => match unit(word.trim_matches(',')) {
                Some(seconds) => items.push(Item::Unit(seconds)),
                None if ["and", "with", "plus"].contains(&word.trim_matches(',')) => {}
                // A comma by itself is what is left of one that stood behind a unit.
                None => return Err(DurationError::UnknownWord { word }),
            },
        }
    }
    // A unit in front stands for one of it.
    if matches!(items.first(), Some(Item::Unit(_))) {
        items.insert(0, Item::Number(1.0));
    }
    let mut total = 0.0;
    for (at, item) in items.iter().enumerate() {
        if let Item::Number(n) = item {
            total += n * match items.get(at + 1) {
                None => 1.0,
                Some(Item::Unit(seconds)) => *seconds,
                // Two numbers in a row: the first has no unit that could be known, and counts nothing.
                Some(Item::Number(_)) => 0.0,
            };
        }
    }
    if total <= 0.0 {
        return Err(DurationError::Empty(text.into()));
    }
    Duration::try_from_secs_f64(total).map_err(|_| DurationError::TooLong(text.into()))
}

enum Item {
    Number(f64),
    Unit(f64),
}

#[derive(Debug)]
enum Token {
    Number(f64),
    Unit(f64),
    Word(String),
}

/// Seconds of a unit.
fn unit(word: &str) -> Option<f64> {
    Some(match word {
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
        "d" | "dy" | "day" | "days" => 86_400.0,
        "w" | "wk" | "wks" | "week" | "weeks" => 604_800.0,
        "mo" | "mos" | "month" | "months" => 2_592_000.0,
        "y" | "yr" | "yrs" | "year" | "years" => 31_557_600.0,
        _ => return None,
    })
}

/// Numbers and the words between them. Number words become numbers.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let len = number_len(rest);
        if len > 0 {
            tokens.push(Token::Number(rest[..len].parse().unwrap_or(0.0)));
            at += len;
        } else if rest.starts_with(char::is_whitespace) {
            at += rest.chars().next().map_or(1, char::len_utf8);
        } else {
            let mut end = 0;
            for (i, c) in rest.char_indices() {
                if c.is_whitespace() || number_len(&rest[i..]) > 0 {
                    break;
                }
                end = i + c.len_utf8();
            }
            tokens.push(Token::Word(rest[..end].into()));
            at += end;
        }
    }
    number_words(tokens)
}

/// Bytes of the number that starts here: `12`, `1.5`, `.5`.
fn number_len(text: &str) -> usize {
    let digits = |t: &str| t.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(text);
    match text[whole..].strip_prefix('.') {
        Some(rest) if digits(rest) > 0 => whole + 1 + digits(rest),
        _ => whole,
    }
}

/// `thirty six` is 36, `two hundred` 200, `two and a half` 2.5.
fn number_words(tokens: Vec<Token>) -> Vec<Token> {
    let mut out: Vec<Token> = Vec::new();
    // What the last number came from: tens may still take a digit.
    let mut tens = false;
    let words: Vec<Token> = tokens;
    let mut at = 0;
    while at < words.len() {
        let word = match &words[at] {
            Token::Word(word) => word.as_str(),
            Token::Number(n) => {
                out.push(Token::Number(*n));
                tens = false;
                at += 1;
                continue;
            }
            Token::Unit(n) => {
                out.push(Token::Unit(*n));
                at += 1;
                continue;
            }
        };
        let next = |n: usize| match words.get(at + n) {
            Some(Token::Word(w)) => w.as_str(),
            _ => "",
        };
        let half = if word == "and" && next(1) == "a" && next(2) == "half" {
            3
        } else if word == "a" && next(1) == "half" {
            2
        } else {
            0
        };
        if let (true, Some(Token::Number(n))) = (half > 0, out.last_mut()) {
            *n += 0.5;
            at += half;
        } else if let Some((value, is_tens)) = number_word(word) {
            match out.last_mut() {
                Some(Token::Number(n)) if tens && value < 10.0 => *n += value,
                _ => out.push(Token::Number(value)),
            }
            tens = is_tens;
            at += 1;
            continue;
        } else if let Some(factor) = big_word(word) {
            match out.last_mut() {
                Some(Token::Number(n)) => *n *= factor,
                _ => out.push(Token::Number(factor)),
            }
            at += 1;
        } else {
            out.push(Token::Word(word.into()));
            at += 1;
        }
        tens = false;
    }
    out
}

fn number_word(word: &str) -> Option<(f64, bool)> {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    if let Some(n) = SMALL.iter().position(|w| *w == word) {
        return Some((n as f64, false));
    }
    TENS.iter().position(|w| *w == word).map(|n| ((n as f64 + 2.0) * 10.0, true))
}

fn big_word(word: &str) -> Option<f64> {
    Some(match word {
        "hundred" => 100.0,
        "thousand" => 1e3,
        "million" => 1e6,
        "billion" => 1e9,
        "trillion" => 1e12,
        _ => return None,
    })
}

/// `4:01:01`, read from the right: seconds, minutes, hours, days, months, years. `None` when there are more parts.
fn clock(tokens: Vec<Token>) -> Option<Vec<Token>> {
    let colon = |t: &Token| matches!(t, Token::Word(w) if w == ":");
    let is_clock = tokens.len() >= 3
        && tokens.len() % 2 == 1
        && tokens.iter().enumerate().all(|(i, t)| if i % 2 == 0 { matches!(t, Token::Number(_)) } else { colon(t) });
    if !is_clock {
        return Some(tokens);
    }
    const UNITS: [&str; 6] = ["s", "m", "h", "d", "mo", "y"];
    let numbers: Vec<f64> =
        tokens.iter().filter_map(|t| if let Token::Number(n) = t { Some(*n) } else { None }).collect();
    if numbers.len() > UNITS.len() {
        return None;
    }
    let units = UNITS[..numbers.len()].iter().rev();
    Some(
        numbers.iter().zip(units).flat_map(|(n, u)| [Token::Number(*n), Token::Unit(unit(u).unwrap_or(1.0))]).collect(),
    )
}
